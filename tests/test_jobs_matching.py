"""An adapter by name beside its base, before anything is merged: from runs, folders and the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_steps import result
from pico import change_json, save_adapter, save_pico
from run_steps import made, worked_off

from studio.errors import InputError, PickleOnly, StudioError
from studio.jobs.matching import match
from studio.jobs.rounding import measure_ways
from studio.models import STARTER, ModelRef, Precision
from studio.settings import STARTER_FOLDER


@pytest.fixture(scope="module")
def adapter(pico, tmp_path_factory):
    return save_adapter(tmp_path_factory.mktemp("adapters") / "mine", pico)


def test_an_adapter_in_a_folder_is_held_against_the_base_that_it_names(pico, adapter):
    found = result(match(str(adapter), token=False))
    assert found.base == ModelRef("folder", str(pico))
    assert found.fits
    assert len(found.fit.matches) == 4
    assert (found.adapter.type, found.adapter.rank, found.adapter.alpha) == ("LORA", 4, 64)
    assert (found.run, found.trained) == ("", None)
    weights = found.weights
    assert found.bytes("bf16") == 2 * weights
    assert found.bytes("fp32") == found.bytes("as the base") == found.proof_bytes == 4 * weights
    assert (pico / "model.safetensors").stat().st_size - 4 * weights in range(10_000)
    assert [each.id for each in found.advice] == ["safe-merge"]
    assert found.disk > 0
    assert found.memory > 0


def test_what_does_not_fit_is_a_part_of_the_answer(pico, adapter, tmp_path):
    wide = save_pico(tmp_path / "wide", hidden_size=64)
    found = result(match(str(adapter), str(wide), token=False))
    assert found.base == ModelRef("folder", str(wide))
    assert not found.fits
    assert "does not fit this base" in found.why
    assert found.hint
    with pytest.raises(InputError, match="does not fit"):
        result(measure_ways(found, "nf4", token=False))


def test_an_adapter_that_names_no_base_asks_for_one(pico, adapter, tmp_path):
    nameless = shutil.copytree(adapter, tmp_path / "nameless")
    change_json(nameless / "adapter_config.json", base_model_name_or_path="")
    found = result(match(str(nameless), token=False))
    assert found.base is None
    assert "does not say" in found.why
    assert result(match(str(nameless), str(pico), token=False)).fits


def test_an_adapter_of_the_hub_is_downloaded_and_its_base_is_not(adapter, hub_server, tmp_path):
    theirs = shutil.copytree(adapter, tmp_path / "theirs")
    change_json(theirs / "adapter_config.json", base_model_name_or_path="alice/pico", revision="v1")
    hub_server.add("alice/lora", {file.name: file.read_bytes() for file in theirs.iterdir()})
    found = result(match("alice/lora", token=False))
    assert found.ref == ModelRef("hub", "alice/lora")
    assert found.base == ModelRef("hub", "alice/pico", "v1")
    assert found.fit is None
    assert "not on this machine yet" in found.why
    assert not hub_server.requests(path="alice/pico")


def test_the_adapter_of_a_run_knows_how_its_base_was_held(pico, tmp_path):
    run = made(pico, tmp_path, most_steps=2)
    worked_off(run)
    found = result(match(run, token=False))
    assert found.run == run
    assert found.trained.precision is Precision.FP32
    assert found.base == ModelRef("folder", str(pico))
    assert found.fits


def test_what_is_no_adapter_is_refused(pico, adapter, tmp_path):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(adapter / "adapter_config.json", pickled)
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(PickleOnly):
        result(match(str(pickled), token=False))
    for wrong in ("", str(pico), "0" * 32, str(Path(tmp_path, "none"))):
        with pytest.raises(StudioError):
            result(match(wrong, token=False))


def test_the_three_ways_into_a_quantized_base_are_measured(tmp_path):
    adapter = save_adapter(tmp_path / "mine", STARTER_FOLDER)
    matched = result(match(str(adapter), str(STARTER), token=False))
    found = result(measure_ways(matched, "int8", token=False))
    assert [choice.way for choice in found.choices] == ["original", "dequantized", "quantized"]
    assert found.precision is Precision.INT8
    assert all(choice.distance.kl >= 0 for choice in found.choices)
