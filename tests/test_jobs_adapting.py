"""Adapters by name: seen through on their base, made smaller and combined into the workspace, offered afterwards."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest
from dataset_steps import result
from pico import change_json, save_adapter, save_pico

from studio import adapters
from studio.errors import InputError
from studio.events import Finished
from studio.jobs.adapting import Mixture, bone_to_miss, make_smaller, mix, mixture_outlook, see_through, take_out
from studio.jobs.matching import match
from studio.merges.adapters import made, named, run_behind
from studio.models import ModelRef
from studio.settings import Settings


@pytest.fixture(scope="module")
def two(pico, tmp_path_factory):
    """Adapters of one base, with the ranks 4 and 2."""
    place = tmp_path_factory.mktemp("adapters")
    return save_adapter(place / "first", pico), save_adapter(place / "second", pico, targets=("q_proj",), rank=2)


def test_an_adapter_is_seen_through_on_the_base_that_it_names(pico, two, hub_server, tmp_path):
    matched = result(match(str(two[0]), token=False))
    seen = result(see_through(matched, token=False))
    assert seen.modules == result(adapters.xray(two[0], pico)).modules
    theirs = shutil.copytree(two[0], tmp_path / "theirs")
    change_json(theirs / "adapter_config.json", base_model_name_or_path="alice/pico", revision=None)
    hub_server.add("alice/pico", {file.name: file.read_bytes() for file in pico.iterdir()})
    away = result(match(str(theirs), token=False))
    assert away.fit is None  # the base is downloaded only now
    assert result(see_through(away, token=False)).modules == seen.modules
    wide = save_pico(tmp_path / "wide", hidden_size=64)
    with pytest.raises(InputError, match="does not fit"):
        result(see_through(result(match(str(two[0]), str(wide), token=False)), token=False))


def test_what_is_made_of_adapters_lies_in_the_workspace_and_is_offered(two):
    folder = Settings.from_env().workspace / "adapters"
    assert made() == ()
    smaller = result(make_smaller(two[0], 2, "small"))
    assert (smaller.folder, smaller.rank) == (str(folder / "small"), 2)
    assert 0 < smaller.loss < 1
    mixture = Mixture(two[0], str(two[1]), (1.0, -0.5))
    ahead = result(mixture_outlook(mixture, token=False))
    done = result(mix(mixture, "both", token=False))
    assert ahead.rank == done.rank == 6
    assert ahead.parameters == done.parameters
    assert done.error < 1e-6
    (folder / "half.part").mkdir()
    (folder / "half.part" / "adapter_config.json").write_text("{}")
    offered = {each.name: each for each in made()}
    assert set(offered) == {"small", "both"}
    assert named(offered["both"].value) == (ModelRef("folder", str(folder / "both")), "")
    assert run_behind(ModelRef("folder", str(folder / "both"))) == ""
    assert result(match(offered["small"].value, token=False)).fits
    again = result(mix(Mixture(folder / "small", offered["both"].value, (1, 1), "svd", 3), "third", token=False))
    assert again.rank == 3


@pytest.mark.parametrize("name", ["", "..", "../out", "a/b", "/etc", ".hidden", "x.part", "a b"])
def test_no_name_leads_out_of_the_workspace(two, name):
    with pytest.raises(InputError, match="name"):
        result(make_smaller(two[0], 2, name))
    with pytest.raises(InputError, match="name"):
        result(mix(Mixture(two[0], str(two[1]), (1, 1)), name, token=False))
    with pytest.raises(InputError, match="name"):
        result(take_out("starter", str(two[0]), 4, name, token=False))
    with pytest.raises(InputError, match="name"):
        result(bone_to_miss(str(two[0]), name, token=False))
    assert not (Settings.from_env().workspace / "adapters").exists()


def test_a_name_that_is_taken_is_refused_and_what_was_stopped_leaves_nothing(two):
    result(make_smaller(two[0], 2, "small"))
    with pytest.raises(InputError, match="exists already"):
        result(make_smaller(two[0], 1, "small"))
    folder = Settings.from_env().workspace / "adapters"
    with closing(make_smaller(two[0], 2, "stopped")) as events:
        assert not isinstance(next(events), Finished)
    assert [each.name for each in folder.iterdir()] == ["small"]


def test_visitors_of_a_shared_machine_rework_nothing(two, monkeypatch):
    matched = result(match(str(two[0]), token=False))
    mixture = Mixture(two[0], str(two[1]), (1, 1))
    monkeypatch.setenv("SPACE_ID", "owner/space")
    for use in (
        lambda: see_through(matched, token=False),
        lambda: make_smaller(two[0], 2, "x"),
        lambda: mixture_outlook(mixture, token=False),
        lambda: mix(mixture, "x", token=False),
        lambda: take_out("starter", "alice/tuned", 4, "x", token=False),
        lambda: bone_to_miss("alice/bone", "x", token=False),
    ):
        with pytest.raises(InputError, match="Visitors cannot"):
            result(use())


def test_an_adapter_is_extracted_from_a_tuned_model_of_the_hub_and_fits_its_base(pico, two, hub_server, tmp_path):
    from adapter_variants import on_top

    on_top(pico, two[0]).merge_and_unload().save_pretrained(tmp_path / "tuned")
    hub_server.add("alice/tuned", {file.name: file.read_bytes() for file in (tmp_path / "tuned").iterdir()})
    done = result(take_out(str(pico), "alice/tuned", 4, "extracted", token=False))
    assert done.error < 1e-3
    assert sorted(module.module for module in done.modules) == sorted(
        each.path for each in adapters.read(two[0]).modules
    )
    matched = result(match(next(each.value for each in made() if each.name == "extracted"), token=False))
    assert (matched.fits, matched.base) == (True, ModelRef("folder", str(pico)))
    less = result(take_out(str(pico), "alice/tuned", 1, "less", token=False))
    assert 0.01 < less.error < 1
    with pytest.raises(InputError, match="one folder"):
        result(take_out(str(pico), str(pico), 4, "none", token=False))


def test_an_adapter_of_the_type_bone_becomes_one_that_peft_opens(pico, two, tmp_path):
    from test_adapters_bone import save_bone

    done = result(bone_to_miss(str(save_bone(tmp_path / "bone")), "miss", token=False))
    assert (done.rank, adapters.read(Settings.from_env().workspace / "adapters" / "miss").type) == (8, "MISS")
    with pytest.raises(InputError, match="of the type LORA"):
        result(bone_to_miss(str(two[0]), "other", token=False))
