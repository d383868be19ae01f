"""The endpoints of runs: begun over the API, told of as on the command line."""

from __future__ import annotations

import json

import gradio as gr
import pytest
from run_steps import at_rest, rows_file, state, until

from studio import runs
from studio.runs import State
from studio.training import Stop
from studio.ui import api


def test_a_run_is_begun_and_told_of(pico, tmp_path) -> None:
    more = "rank=4&limit=64&precision=fp32&most_steps=300&compute=fp32"
    id_ = api.train(str(pico), str(rows_file(tmp_path)), more, name="Over the API")
    found = runs.of(id_).document
    assert found.name == "Over the API"
    assert (found.run.settings.rank, found.run.preparation.limit, str(found.run.plan.precision)) == (4, 64, "fp32")
    assert state(id_).is_alive
    (told,) = json.loads(json.dumps(api.list_runs()))
    assert (told["id"], told["name"]) == (id_, "Over the API")
    until(lambda: api.list_runs(id_)[0]["state"] == "running")
    runs.ask_to_stop(id_, Stop.NOW)
    assert at_rest(id_) is State.STOPPED


@pytest.mark.parametrize(
    "arguments",
    [("starter", ""), ("starter", "persona", "rnk=3"), ("starter", "persona", "rank=0"), ("a b", "persona")],
)
def test_what_is_no_run_is_a_dialog_and_leaves_none(arguments) -> None:
    with pytest.raises(gr.Error):
        api.train(*arguments)
    assert api.list_runs() == []
    with pytest.raises(gr.Error):
        api.list_runs("0" * 32)


def test_visitors_begin_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "owner/space")
    for use in (lambda: api.train("starter", "persona"), api.list_runs):
        with pytest.raises(gr.Error, match="Duplicate the Space"):
            use()
