"""The Merge tab by its handlers: an adapter and its fit, a merge from Start to its verdict, and the list of all."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest
from merge_steps import at_rest, ordered, worked_off
from pico import save_adapter, save_pico
from proof_steps import save_base
from run_steps import made as made_run
from run_steps import worked_off as run_off

from studio import merges
from studio.merges.starting import begin
from studio.merges.working import carry_out
from studio.merging.outcome import not_proven
from studio.runs import State
from studio.settings import STARTER_FOLDER, Settings
from studio.ui import gguf_panel, merge_setup, merge_view, merged_panel, merged_view, merges_panel, model_strip
from studio.ui.merging_tab import found as page_opens

WISHES = {"merge_dtype": "fp32", "merge_shard_size": 5, "merge_prove": True, "merge_onto": "original"}


def merged(updates):
    page = {}
    for update in updates:
        page |= update
    return page


def opened(adapter=None, name="", matched=None):
    return merged(merge_setup.opened(adapter=adapter, base="", name=name, matched=matched, merge_dtype="fp32"))


def started(adapter, base, name="mine", **wishes):
    values = {"prompts": "", "matched": None, "trained_in": "nf4", **WISHES, **wishes}
    return merged(merge_setup.start(adapter=str(adapter), base=str(base), name=name, **values))


def test_with_nothing_learnt_yet_it_says_what_to_do_first():
    page = opened()
    assert "Nothing has been learnt yet" in page["nothing"]
    assert page["first"]["visible"]
    assert merge_setup.go_and_teach()["tabs"]["selected"] == "training"
    assert page_opens() == {"merge": None}
    assert "No merge yet" in merged_panel.opened(merge=None)["head"]
    assert "No merge yet" in merges_panel.listed(merge=None)["table"]


def test_what_a_run_has_learnt_is_merged_proven_and_used(pico, tmp_path):
    run = made_run(pico, tmp_path, most_steps=3, name="A <b>small</b> one")
    run_off(run)
    page = opened()
    assert page["adapter"]["value"] == run
    assert page["base"] == str(pico)
    assert page["name"] == "A-b-small-b-one-merged"
    assert "It fits" in page["about"]
    assert "<b>small" not in page["about"] + page["takes"]
    assert "on the disk, in fp32" in page["takes"]
    assert page["start"]["interactive"]
    taken = merge_setup.weighed(matched=page["matched"], merge_dtype="bf16")["takes"]
    assert "on the disk, in bf16" in taken
    begun = started(run, page["base"], page["name"], prompts="One?\n\n Two? ")
    id_ = begun["merge"]
    assert begun["parts"]["selected"] == "result"
    assert merges.of(id_).order.prompts == ("One?", "Two?")
    assert merges.of(id_).order.run == run
    at_work = merged_panel.follow(merge=id_, seen=None, showing="Merge", label="Merge")
    assert at_work["stop"]["visible"]
    assert merged_panel.follow(merge=id_, seen=None, showing="Load", label="Merge") == {}
    assert at_rest(id_) is State.FINISHED
    shown = merged_panel.follow(merge=id_, seen=at_work["seen"], showing="Merge", label="Merge")
    assert 'data-verdict="proven"' in shown["head"]
    assert "held-out rows" in shown["head"]
    assert shown["head"].count("data-check=") == 19
    assert merged_panel.follow(merge=id_, seen=shown["seen"], showing="Merge", label="Merge") == {}
    assert page_opens() == {"merge": id_}  # as after a reload
    assert merged_panel.opened(merge=id_)["head"] == shown["head"]
    folder = Settings.from_env().workspace / "models" / page["name"]
    talked = merged_panel.talk(merge=id_)
    assert talked["plan"].model.name == str(folder)
    assert talked["tabs"]["selected"] == "generation"
    assert merged_panel.look(merge=id_)["tabs"]["selected"] == "loading"
    assert str(folder) in model_strip.model_choices()
    assert opened(run, page["name"], page["matched"])["name"] == f"{page['name']}-2"  # the first is taken now
    (folder / "config.json").write_text("{}")
    assert "Not proven any more" in merged_panel.opened(merge=id_)["head"]


def test_an_adapter_that_does_not_fit_is_said_and_cannot_be_started(pico, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", pico)
    page = merged(merge_setup.chosen(adapter=str(adapter), base="", name="", merge_dtype="bf16"))
    assert page["start"]["interactive"]
    other = save_pico(tmp_path / "other", hidden_size=64)
    again = {"adapter": str(adapter), "base": str(other), "name": "x", "matched": page["matched"]}
    wrong = merged(merge_setup.based(**again, merge_dtype="bf16"))
    assert "does not fit" in wrong["about"]
    assert not wrong["start"]["interactive"]
    assert "name" not in wrong  # which the person may have written
    same = merge_setup.based(**again | {"base": str(pico)}, merge_dtype="bf16")
    assert list(same) == []
    assert (
        "There is no folder"
        in merged(merge_setup.chosen(adapter="/no/where", base="", name="", merge_dtype="bf16"))["note"]
    )


def test_what_cannot_be_started_is_said_beside_start(pico, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", pico)
    for values, words in (
        ({"adapter": ""}, "No adapter is chosen"),
        ({"base": "a b"}, "is not the name of a model"),
        ({"name": "../x"}, "is not a name for a model"),
        ({"name": "x.not-proven"}, "unfinished"),
        ({"merge_shard_size": None}, "Shard size"),
    ):
        page = started(**{"adapter": adapter, "base": pico, **values})
        assert words in page["note"]
        assert page["start"]["interactive"]
    assert merges.listing() == ()


def test_a_merge_that_failed_or_is_not_proven_says_so_and_offers_no_model(pico, tmp_path):
    base = shutil.copytree(pico, tmp_path / "base")
    order = ordered(base, tmp_path)
    id_ = merges.create(order)
    folder = merges.of(id_).folder
    assert merged_panel.opened(merge=id_)["again"]["value"] == "Start"
    phase = None
    with closing(carry_out(folder, begin(folder), token=False)) as events:
        for event in events:
            before, phase = phase, getattr(event, "phase", None)
            if before == "merge" and phase != "merge":
                weights = base / "model.safetensors"
                content = bytearray(weights.read_bytes())
                content[-2000:-1000] = bytes(1000)
                weights.write_bytes(content)
    shown = merged_panel.opened(merge=id_)
    assert 'data-verdict="not-proven"' in shown["head"]
    assert "NOT PROVEN" in shown["head"]
    assert str(not_proven(order.output)) in shown["head"]
    assert not shown["talk"]["visible"]
    assert "made no model that could be used" in merged_panel.talk(merge=id_)["note"]
    assert "NOT PROVEN" in merges_panel.listed(merge=id_)["table"]
    gone = merges_panel.forgotten(chosen=id_, merge=id_)
    assert gone["merge"] is None
    assert not not_proven(order.output).exists()
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    failed = merges.create(order)
    with pytest.raises(Exception, match="adapter_model"):
        worked_off(failed)
    shown = merged_panel.opened(merge=failed)
    assert 'data-state="failed"' in shown["head"]
    assert "adapter_model.safetensors" in shown["head"]
    assert shown["again"]["visible"]
    assert "There is nothing to stop" in merged_panel.stop(merge=failed)["note"]


def test_replies_that_differ_stand_side_by_side_and_nothing_foreign_is_html(tmp_path):
    # With random updates many replies hang on the last bit.
    order = ordered(STARTER_FOLDER, tmp_path, dtype="bf16", prompts=tuple(f"<i>{n}</i>" for n in range(4)))
    outcome = worked_off(merges.create(order))[-1].result
    shown = merged_view.verdict(outcome)
    assert "Replies that differ" in shown
    assert "Base with adapter" in shown
    assert "<i>" not in shown


def test_the_three_ways_are_measured_behind_a_button(pico, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", pico)
    page = merged(merge_setup.chosen(adapter=str(adapter), base="", name="", merge_dtype="bf16"))
    measured = merged(merge_setup.measure(matched=page["matched"], trained_in="int8"))
    assert "Into the dequantized" in measured["found"]
    assert measured["note"] == ""
    assert "No adapter is chosen" in merged(merge_setup.measure(matched=None, trained_in="nf4"))["note"]
    assert "16-bit base" in merge_view.ways_explained()


def test_a_merged_model_becomes_a_gguf_file_that_was_compared(tmp_path):
    id_ = merges.create(ordered(STARTER_FOLDER, tmp_path, dtype="bf16", prove=False))
    assert "no proven merge" in merged(gguf_panel.write_file(merge=id_, kind="F16"))["note"]
    worked_off(id_)
    assert merged_panel.opened(merge=id_)["gguf"]["visible"]
    page = merged(gguf_panel.write_file(merge=id_, kind="F16"))
    file = Settings.from_env().workspace / "gguf" / "merged-F16.gguf"
    assert file.is_file()
    assert f"{file.name} is written" in page["found"]
    assert str(file) in page["found"]
    assert file.name in merged(gguf_panel.write_file(merge=id_, kind="F16"))["note"]  # it is there already


def test_where_the_studio_writes_no_gguf_file_it_says_what_does(tmp_path):
    base = save_base(tmp_path / "base", "gpt2")
    id_ = merges.create(ordered(base, tmp_path, prove=False, targets=("c_attn",)))
    worked_off(id_)
    page = merged(gguf_panel.write_file(merge=id_, kind="F16"))
    assert "convert_hf_to_gguf.py" in page["found"]
    assert "problem" in page["note"]


def test_visitors_are_told_that_they_cannot_merge(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/space")
    assert "Visitors cannot merge" in opened()["nothing"]
    assert page_opens() == {"merge": None}
    assert "Visitors cannot merge" in merges_panel.listed(merge=None)["table"]
