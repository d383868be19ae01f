"""The Adapter part of Merge by its handlers: seen through, made smaller, combined, and chosen again."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
from pico import change_json, save_adapter
from safetensors.torch import load_file, save_file

from studio.merges.adapters import made
from studio.models import STARTER
from studio.settings import Settings
from studio.ui import adapter_panel, adapter_view, merge_setup, reworking

MIXED = {"kind": "cat", "own": 1, "theirs": 0.5, "rank": 0, "density": 0.5}


def merged(updates):
    page = {}
    for update in updates:
        page |= update
    return page


def looked_at(adapter):
    """An adapter as Set up finds it."""
    return merged(merge_setup.chosen(adapter=str(adapter), base="", name="", merge_dtype="bf16"))["matched"]


@pytest.fixture
def mine(pico, tmp_path):
    """An adapter with a name that would be HTML, and one of its four updates without an effect."""
    folder = save_adapter(tmp_path / "<b>mine", pico)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "layers.0" in name and "q_proj.lora_B" in name)
    save_file({**tensors, name: tensors[name] * 0}, file)
    return folder


def seen_through(matched, figure=adapter_view.RELATIVE):
    return merged(adapter_panel.look_through(matched=matched, figure=figure))


def test_the_map_has_a_cell_for_every_update_and_says_which_do_nothing(mine):
    matched = looked_at(mine)
    page = seen_through(matched)
    assert page["note"] == ""
    assert "No effect in 1 of 4 modules" in page["found"]
    assert "<b>mine" not in page["found"]
    cells = re.findall(r'<td class="h(\d)" data-effect="(\w+)" title="([^"]+)">([^<]+)</td>', page["found"])
    assert [(effect, words == "none", shade == "0") for shade, effect, _, words in cells].count(
        ("none", True, True)
    ) == 1
    assert len(cells) == 4
    xray = page["seen"]
    shown = {title.partition(":")[0]: words for _, _, title, words in cells}
    for module in xray.modules:
        if module.effect == "some":
            assert float(shown[module.module]) == pytest.approx(100 * module.relative, rel=0.06)
    assert max(int(shade) for shade, *_ in cells) == 5
    other = adapter_panel.drawn(seen=page["seen"], figure=adapter_view.DIRECTIONS)["found"]
    counts = re.findall(r'data-effect="some"[^>]*>([\d.]+)<', other)
    assert sorted(map(float, counts)) == sorted(
        round(module.effective_rank, 1) for module in xray.modules if module.effect == "some"
    )


def test_what_was_seen_stays_until_another_adapter_is_chosen(mine, pico, tmp_path):
    matched = looked_at(mine)
    fresh = adapter_panel.opened(matched=matched, shown="")
    assert fresh["look"]["interactive"]
    assert fresh["rank"]["maximum"] == 3
    assert fresh["smaller_name"] == "b-mine-smaller"
    assert "<b>mine" not in fresh["about"]
    again = adapter_panel.opened(matched=matched, shown=fresh["shown"])
    assert "found" not in again
    assert "combined_name" not in again  # which the person may have written
    other = looked_at(save_adapter(tmp_path / "other", pico, rank=1))
    page = adapter_panel.opened(matched=other, shown=fresh["shown"])
    assert (page["seen"], page["found"]) == (None, "")
    assert not page["shrink"]["interactive"]  # rank 1 cannot be less
    elsewhere = replace(matched, base=STARTER)
    assert adapter_panel.opened(matched=elsewhere, shown=fresh["shown"])["found"] == ""
    assert not adapter_panel.opened(matched=None, shown=fresh["shown"])["look"]["interactive"]


def test_what_cannot_be_seen_through_says_why(pico, tmp_path):
    assert "No adapter is chosen" in seen_through(None)["note"]
    adapter = save_adapter(tmp_path / "lonely", pico)
    change_json(adapter / "adapter_config.json", base_model_name_or_path="")
    page = seen_through(looked_at(adapter))
    assert "does not say which base" in page["note"]
    assert not page["stop"]["visible"]


def test_an_adapter_made_smaller_is_chosen_in_set_up(mine):
    matched = looked_at(mine)
    page = merged(reworking.shrink(matched=matched, rank=2, name=" small "))
    assert "small is written" in page["found"]
    assert re.search(r"[\d.]+ % of all updates was cut off", page["found"])
    assert page["use"]["visible"]
    used = merged(reworking.use_it(folder=page["folder"], merge_dtype="bf16"))
    assert used["parts"]["selected"] == "setup"
    assert used["adapter"]["value"] == str(Settings.from_env().workspace / "adapters" / "small")
    assert used["matched"].adapter.rank == 2
    assert used["name"] == "small-merged"
    assert "It fits" in used["about"]
    assert [each.name for each in made()] == ["small"]
    opened = merged(merge_setup.opened(adapter=None, base="", name="", matched=None, merge_dtype="bf16"))
    assert opened["adapter"]["value"] == page["folder"]  # it is offered when the tab is opened
    again = merged(reworking.shrink(matched=matched, rank=2, name="small"))
    assert "exists already" in again["note"]
    assert "not a name" in merged(reworking.shrink(matched=matched, rank=2, name="../x"))["note"]
    assert adapter_panel.opened(matched=matched, shown="")["second"]["choices"] == [
        ("small (made of others)", page["folder"])
    ]


def test_two_adapters_become_one_beside_what_was_foreseen(mine, pico, tmp_path):
    matched = looked_at(mine)
    second = str(save_adapter(tmp_path / "second", pico, rank=2))
    asked = {"matched": matched, "second": second, **MIXED}
    ahead = merged(reworking.foreseen(**asked))["ahead"]
    assert "<b>6</b> rank" in ahead
    page = merged(reworking.combine(**asked, name="both"))
    assert "the exact weighted sum, up to rounding" in page["found"]
    assert "<b>6</b> rank" in page["found"]
    near = merged(reworking.combine(**asked | {"kind": "svd", "rank": 1}, name="near"))
    assert "away from the exact weighted sum" in near["found"]
    assert "ranks 2 and 4" in merged(reworking.foreseen(**asked | {"kind": "linear"}))["note"]
    assert "named twice" in merged(reworking.combine(**asked | {"second": str(mine)}, name="twice"))["note"]
    assert "No adapter is chosen" in merged(reworking.combine(**asked | {"second": None}, name="x"))["note"]
    assert merged(reworking.foreseen(**asked | {"second": None})) == {"ahead": "", "note": ""}
    nothing = merged(reworking.combine(**asked | {"own": 0, "theirs": 0}, name="x"))
    assert "at least one of them not zero" in nothing["note"]


def test_an_adapter_is_extracted_with_the_error_of_every_module_and_chosen_in_set_up(mine, pico, tmp_path):
    from adapter_variants import on_top

    tuned = tmp_path / "<b>tuned"
    on_top(pico, mine).merge_and_unload().save_pretrained(tuned)
    page = merged(reworking.extract(base=str(pico), tuned=str(tuned), rank=2, name=" "))
    assert "b-tuned-extracted is written" in page["found"]
    assert re.search(r"It is [\d.]+ % away from what tuning changed of the linear layers\.", page["found"])
    assert page["found"].count("_proj</td>") == 4  # one of them has not changed, and its kind has
    used = merged(reworking.use_it(folder=page["folder"], merge_dtype="bf16"))
    assert "It fits" in used["about"]
    assert used["matched"].adapter.rank == 2
    assert (
        "are the same"
        in merged(reworking.extract(base=str(pico), tuned=str(copy_of(pico, tmp_path)), rank=2, name="x"))["note"]
    )
    assert "No model is named" in merged(reworking.extract(base=None, tuned=str(tuned), rank=2, name="x"))["note"]


def copy_of(pico, tmp_path):
    return shutil.copytree(pico, tmp_path / "copy")


def test_bone_becomes_miss_under_the_name_of_the_adapter(tmp_path):
    from test_adapters_bone import save_bone

    page = merged(reworking.convert(adapter=str(save_bone(tmp_path / "old")), name=""))
    assert "old-miss is written" in page["found"]
    assert page["use"]["visible"]
    assert "No adapter is chosen" in merged(reworking.convert(adapter=" ", name="x"))["note"]


def test_every_method_has_its_line():
    from studio.adapters import COMBINATIONS

    assert tuple(reworking.KINDS) == COMBINATIONS
