"""The endpoints of merges: begun over the API, told of with every check."""

from __future__ import annotations

import json

import gradio as gr
import pytest
from merge_steps import at_rest
from pico import save_adapter

from studio.runs import State
from studio.settings import Settings
from studio.ui import api


def test_a_merge_is_begun_and_told_of(pico, tmp_path) -> None:
    adapter = save_adapter(tmp_path / "adapter", pico)
    id_ = api.merge(str(pico), str(adapter), "over-the-api", "dtype=fp32&shard_size=0.5&prove=true")
    assert at_rest(id_) is State.FINISHED
    (told,) = json.loads(json.dumps(api.list_merges()))
    assert (told["id"], told["state"], told["outcome"]["passed"]) == (id_, "finished", True)
    assert told["order"]["dtype"] == "fp32"
    assert {check["name"] for check in told["proof"]["checks"]} >= {"files", "scores", "replies"}
    assert (Settings.from_env().workspace / "models" / "over-the-api" / "proof.json").is_file()
    assert api.list_merges(id_) == api.list_merges()
    with pytest.raises(gr.Error):  # the name is taken
        api.merge(str(pico), str(adapter), "over-the-api")


@pytest.mark.parametrize(
    "arguments",
    [
        ("starter", "", "x"),
        ("starter", "./none", "../x"),
        ("a b", "a/b", "x"),
        ("starter", "./none", "x", "dtyp=fp32"),
        ("starter", "./none", "x", "prove=perhaps"),
        ("starter", "./none", "x", "precision=bf16"),
    ],
)
def test_what_is_no_merge_is_a_dialog_and_leaves_none(arguments) -> None:
    with pytest.raises(gr.Error):
        api.merge(*arguments)
    assert api.list_merges() == []
    with pytest.raises(gr.Error):
        api.list_merges("0" * 32)


def test_visitors_begin_no_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "owner/space")
    for use in (lambda: api.merge("starter", "a/b", "x"), api.list_merges):
        with pytest.raises(gr.Error, match="Duplicate the Space"):
            use()
