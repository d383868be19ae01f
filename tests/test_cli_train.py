"""`train` and `runs` on the command line: new runs, runs that go on, Ctrl-C, and what is printed where."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest
from run_steps import made, rows_file, small_run, state, until

from studio import runs
from studio.cli import main
from studio.runs import State, document

QUICK = ("--set", "most_steps=2", "--set", "limit=64", "--set", "compute=fp32", "--set", "batch_tokens=256")


def studio(capsys, *arguments):
    """Exit code, stdout and stderr."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_a_model_and_data_make_a_run_that_is_worked_off_at_once(pico, tmp_path, capsys):
    rows = rows_file(tmp_path)
    code, out, err = studio(
        capsys, "train", pico, "--data", rows, *QUICK, "--set", "rank=4", "--name", "Mine", "--precision", "fp32"
    )
    assert code == 0
    (run,) = runs.listing()
    assert out.strip() == str(run.folder / "adapter")
    assert re.search(r"^step 2/2  loss \d+\.\d{4}", err, re.MULTILINE)
    assert "held out at 2" in err
    assert run.document.name == "Mine"
    assert run.document.run.settings.rank == 4
    assert run.document.run.preparation.limit == 64
    code, out, err = studio(capsys, "runs")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{run.id}  finished  2/2  loss \S+  \S+ kB  Mine\n", out)
    (listed,) = json.loads(studio(capsys, "runs", run.id, "--json")[1])
    assert (listed["id"], listed["state"], listed["step"]) == (run.id, "finished", 2)
    assert studio(capsys, "runs", run.id, "--code")[1] == runs.code(run.id)
    code, out, err = studio(capsys, "train", run.folder)
    assert (code, out) == (1, "")
    assert "This run is finished." in err


def test_a_file_describes_a_run_and_every_event_is_a_line_of_json(pico, tmp_path, capsys):
    run = small_run(pico, most_steps=2)
    text = document.as_text(document.new(run, "From a file")).replace("rows.jsonl", str(rows_file(tmp_path)))
    (tmp_path / "run.yaml").write_text(text)
    code, out, err = studio(capsys, "train", tmp_path / "run.yaml", "--json")
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0] == {"event": "started"}
    assert [event["step"] for event in events if event["event"] == "stepped"] == [1, 2]
    assert events[-1]["event"] == "finished"
    assert events[-1]["result"]["steps"] == 2
    assert err.startswith("run ")
    assert runs.listing()[0].document.name == "From a file"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["starter"], "There is nothing to learn from."),
        (["starter", "--data", "persona", "--set", "rnk=3"], "There is no setting 'rnk'."),
        (["starter", "--data", "persona", "--set", "rank"], "--set 'rank' sets nothing."),
        (["starter", "--data", "persona", "--set", "rank=x"], "run.settings.rank is 'x'."),
        (["starter", "--data", "persona", "--set", "plan.rank=3"], "There is no setting 'plan.rank'."),
        (["missing.yaml"], "missing.yaml cannot be read"),
        (["./no_such_model", "--data", "persona"], "There is no folder"),
    ],
)
def test_what_cannot_be_is_said_in_a_line_and_a_hint(arguments, words, capsys):
    code, out, err = studio(capsys, "train", *arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert len(err.strip().splitlines()) >= 2


def test_a_run_that_has_begun_is_not_changed_by_options(pico, tmp_path, capsys):
    folder = runs.of(made(pico, tmp_path)).folder
    code, _, err = studio(capsys, "train", folder, "--set", "rank=3")
    assert code == 1
    assert "--set changes a run that has begun." in err


def test_a_field_may_name_its_part():
    run = small_run_of_starter()
    found = document.with_fields(run, [("preparation.seed", "3"), ("seed", "4"), ("attention", "eager")])
    assert (found.preparation.seed, found.settings.seed, found.plan.attention) == (3, 4, "eager")
    assert document.with_fields(run, [("precision", "nf4")]).plan.precision == "nf4"
    assert document.with_fields(run, [("schedule", "warm-up, stable, decay")]).settings.schedule.startswith("warm-up")


def small_run_of_starter():
    return document.parse("plan: {model: starter}\ndata: [{name: persona}]", "x").run


def test_control_c_ends_with_a_checkpoint_and_says_how_to_go_on(pico, tmp_path, capsys):
    id_ = made(pico, tmp_path, most_steps=800, save_every=800)
    folder = runs.of(id_).folder
    command = [sys.executable, "-m", "studio", "train", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: state(id_) is State.RUNNING and runs.summary(runs.of(id_)).step > 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "stopping after this step" in err
    last = err.strip().splitlines()[-1]
    found = re.fullmatch(rf"stopped at step (\d+) of 800; go on with: python -m studio train {folder}", last)
    assert found, err[-2000:]
    step = int(found[1])
    assert (folder / "checkpoints" / f"step-{step}").is_dir()
    assert state(id_) is State.STOPPED
    listed = studio(capsys, "runs")[1]
    assert f"{id_}  stopped  {step}/800" in listed


def test_visitors_of_a_shared_machine_cannot_train(capsys, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/space")
    code, _, err = studio(capsys, "train", "starter", "--data", "persona")
    assert code == 1
    assert "Visitors cannot fine-tune" in err
