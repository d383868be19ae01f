"""`merge` on the command line: a new one, one that is done again, Ctrl-C, exit codes, and what is printed where."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from contextlib import closing

import pytest
from merge_steps import ordered, state
from pico import save_adapter
from run_steps import until

from studio import merges, merging
from studio.cli import main
from studio.merges.starting import begin
from studio.merges.working import carry_out
from studio.merging.outcome import not_proven
from studio.runs import State


@pytest.fixture
def adapter(pico, tmp_path):
    return save_adapter(tmp_path / "adapter", pico)


def studio(capsys, *arguments):
    """Exit code, stdout and stderr."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_base_and_adapter_become_one_folder_with_its_proof(pico, adapter, tmp_path, capsys):
    output = tmp_path / "merged"
    code, out, err = studio(
        capsys,
        "merge",
        pico,
        adapter,
        "--output",
        output,
        "--dtype",
        "fp32",
        "--shard-size",
        "0.0001",
        "--prompt",
        "Hi",
    )
    assert code == 0
    assert out == f"{output}\n"
    assert "proven. All 21 tensors" in err
    assert "merge 100 %" in err
    assert "Checks" in err
    assert merging.read_proof(output).passed
    assert len(list(output.glob("*.safetensors"))) > 1
    (found,) = merges.listing()
    assert found.order.prompts == ("Hi",)
    code, out, err = studio(capsys, "merge", pico, adapter, "--output", output)
    assert (code, out) == (1, "")
    assert "not empty" in err
    code, out, err = studio(capsys, "merge", found.folder)
    assert (code, out) == (1, "")
    assert "finished" in err


def test_every_event_is_a_line_of_json(pico, adapter, tmp_path, capsys):
    code, out, err = studio(capsys, "merge", pico, adapter, "--output", tmp_path / "m", "--no-prove", "--json")
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0] == {"event": "started"}
    assert {event["phase"] for event in events if event["event"] == "progress"} >= {"check", "merge"}
    assert events[-1]["event"] == "finished"
    assert events[-1]["result"]["passed"] is None
    assert err.startswith("merge ")


def test_a_merge_that_is_not_proven_ends_with_one(pico, tmp_path, capsys):
    base = shutil.copytree(pico, tmp_path / "base")
    folder = merges.of(merges.create(ordered(base, tmp_path))).folder
    (tmp_path / "adapter" / "tokenizer.json").write_text("{}")  # what the adapter was taught with cannot be read
    shutil.copy(pico / "tokenizer_config.json", tmp_path / "adapter")
    code, out, err = studio(capsys, "merge", folder)
    assert code == 1
    assert out == f"{tmp_path / 'merged.not-proven'}\n"
    assert "NOT PROVEN" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["starter"], "an adapter is missing"),
        (["starter", "./nowhere"], "--output is missing"),
        (["starter", "./nowhere", "--output", "x"], "There is no folder"),
        (["starter", "a b", "--output", "x"], "is not the name of a model"),
        (["starter", "starter", "--output", "x"], "no adapter"),
        (["starter", "0" * 32, "--output", "x"], "There is no run"),
        (["starter", "./nowhere", "--output", "x", "--shard-size", "99"], "Shard size is 99.0"),
    ],
)
def test_what_cannot_be_is_said_in_a_line_and_a_hint(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = studio(capsys, "merge", *arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert len(err.strip().splitlines()) >= 2
    assert not (tmp_path / "x").exists()


def test_control_c_clears_away_what_was_written(pico, adapter, tmp_path):
    output = tmp_path / "merged"
    command = [sys.executable, "-m", "studio", "merge", str(pico), str(adapter), "--output", str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: not_proven(output).exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    (found,) = merges.listing()
    assert f"again with: python -m studio merge {found.folder}" in err
    assert state(found.id) is State.STOPPED
    assert not output.exists()
    assert not not_proven(output).exists()
    with closing(carry_out(found.folder, begin(found.folder), token=False)) as events:
        assert list(events)[-1].result.passed
    assert output.is_dir()


def test_visitors_of_a_shared_machine_cannot_merge(capsys, monkeypatch, adapter, tmp_path):
    monkeypatch.setenv("SPACE_ID", "owner/space")
    code, _, err = studio(capsys, "merge", "starter", adapter, "--output", tmp_path / "x")
    assert code == 1
    assert "Visitors cannot merge" in err
