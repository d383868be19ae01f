"""What came of a run, with a real one: measured, compared, packed, talked to; and a rehearsal before one."""

from __future__ import annotations

import zipfile

import pytest
import run_steps as steps
from dataset_steps import result

from studio import jobs, runs
from studio.jobs.rehearsing import rehearse
from studio.jobs.weighing import weighed
from studio.settings import Settings
from studio.ui import result_panel, run_panel


@pytest.fixture(autouse=True)
def _nothing_stays_in_memory():
    yield
    for _ in jobs.unload():
        pass


def merged(updates):
    page = {}
    for update in updates:
        page |= update
    return page


def test_a_finished_run_is_measured_compared_packed_and_talked_to(pico, tmp_path):
    id_ = steps.made(pico, tmp_path, name="Small one")
    steps.worked_off(id_)
    shown = run_panel.opened(run=id_)
    assert "finished after 12 steps" in shown["head"]
    assert "transformers" in shown["script"]
    assert shown["line"].startswith("python -m studio train ")
    assert "Small one" in shown["yaml"]
    measured = merged(result_panel.measure(run=id_))
    assert "perplexity of a general text" in measured["meter"]
    assert weighed(runs.of(id_).folder) is not None
    assert run_panel.opened(run=id_)["meter"] == measured["meter"]  # it is kept with the run
    told = merged(result_panel.ask_both(run=id_, question="Say 3."))
    assert told["note"] == ""
    assert {"before", "after"} <= set(told)
    assert "no question" in merged(result_panel.ask_both(run=id_, question=" "))["note"]
    file = result_panel.pack(run=id_)["file"]["value"]
    assert file.endswith("Small-one.zip")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(zipfile.ZipFile(file).namelist())
    talked = result_panel.talk(run=id_)
    assert talked["plan"].adapter == runs.of(id_).folder / "adapter"
    assert talked["tabs"]["selected"] == "generation"


def test_a_run_without_an_adapter_says_so(pico, tmp_path):
    id_ = steps.made(pico, tmp_path)
    assert "has made no adapter" in result_panel.talk(run=id_)["note"]
    assert "has made no adapter" in merged(result_panel.measure(run=id_))["note"]


def test_a_rehearsal_measures_and_leaves_nothing_behind(pico, tmp_path):
    found = result(rehearse(steps.small_run(pico), [steps.rows_file(tmp_path)], token=False))
    assert found.steps == 12
    assert found.expected > 0
    assert found.loss > 0
    assert not list(Settings.from_env().workspace.glob(".rehearsal-*"))
    assert runs.listing() == ()
    assert jobs.SESSION.status().resident is None
