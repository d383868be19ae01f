"""The record: what is kept of each load, read back, summed up and learned from; and that it never stands in the way."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from studio import jobs, memory
from studio.events import Finished
from studio.loading import LoadPlan
from studio.memory import Correction, Entry, entries, record, remember, summary
from studio.models import STARTER, ModelRef, Precision

MB, GB = 10**6, 10**9
ROOT = Path(__file__).parent.parent


def load_of(measured=GB, predicted=GB, **fields):
    values = {"work": "load", "device": "T4", "model": "a/b", "precision": "bf16"} | fields
    return Entry(**values, predicted=predicted, measured=measured)


def kept(workspace):
    found, damaged = entries(workspace)
    assert damaged == 0
    return list(found)


@pytest.fixture
def _unloaded():
    yield
    list(jobs.unload())


# Keeping


def test_what_is_kept_is_read_back_in_its_order(tmp_path):
    wanted = [load_of(1), load_of(2, model="é\U0001f600" * 50, device='"\n'), load_of(3, work="run")]
    assert all(remember(tmp_path / "new" / "folder", entry) for entry in wanted)
    shortened = dataclasses.replace(wanted[1], model=wanted[1].model[:80])
    assert kept(tmp_path / "new" / "folder") == [wanted[0], shortened, wanted[2]]


def test_without_a_file_there_is_nothing(tmp_path):
    assert entries(tmp_path / "nowhere") == ((), 0)
    assert summary(tmp_path) == memory.Record((), 0)


def test_several_processes_append_and_no_line_is_lost_or_mixed(tmp_path):
    script = (
        "import sys; from pathlib import Path; from studio.memory import Entry, remember\n"
        "for n in range(1, 401):\n"
        "    assert remember(Path(sys.argv[1]), Entry('load', sys.argv[2] * 60, 'a/b', 'nf4', n, n))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [subprocess.Popen([*command, name], cwd=ROOT) for name in "ABC"]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    found = kept(tmp_path)
    for name in "ABC":
        assert [entry.measured for entry in found if entry.device == name * 60] == list(range(1, 401))


def test_what_another_process_appends_at_the_last_moment_is_not_written_over(tmp_path, monkeypatch):
    write = os.write

    def late(handle, line):
        with (tmp_path / record.FILE).open("ab") as file:
            file.write(json.dumps(dataclasses.asdict(load_of(2))).encode() + b"\n")
        return write(handle, line)

    remember(tmp_path, load_of(1))
    monkeypatch.setattr(os, "write", late)
    remember(tmp_path, load_of(3))
    assert kept(tmp_path) == [load_of(1), load_of(2), load_of(3)]


def test_the_file_stays_small_and_keeps_what_is_new(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_LARGEST_FILE", 2000)
    for n in range(1, 201):
        remember(tmp_path, load_of(n))
    numbers = [entry.measured for entry in kept(tmp_path)]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2 * 2200
    assert len(numbers) > 10
    assert numbers == list(range(201 - len(numbers), 201))


BROKEN = {
    "no json": b"what is this?",
    "half a line": b'{"work": "load", "device": "T4", "mod',
    "another shape": b"[1, 2]",
    "a missing field": json.dumps({**dataclasses.asdict(load_of()), "predicted": None}).encode(),
    "a field too many": json.dumps({**dataclasses.asdict(load_of()), "token": "hf_x"}).encode(),
    "zero bytes": json.dumps(dataclasses.asdict(load_of(0))).encode(),
    "a truth for a number": json.dumps({**dataclasses.asdict(load_of()), "measured": True}).encode(),
    "an infinity": json.dumps({**dataclasses.asdict(load_of()), "measured": float("inf")}).encode(),
    "an absurd number": json.dumps(dataclasses.asdict(load_of(10**30))).encode(),
    "unknown work": json.dumps(dataclasses.asdict(load_of(work="sing"))).encode(),
    "a list for a name": json.dumps(dataclasses.asdict(load_of(work=[]))).encode(),
    "no text": b"\xff\xfe\x00",
    "deep nesting": b"[" * 3900,
    "a very long line": b'{"work": "' + b"x" * 100_000,
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_damaged_line_is_skipped_and_counted(tmp_path, line):
    remember(tmp_path, load_of(1))
    with (tmp_path / record.FILE).open("ab") as file:
        file.write(line + b"\n")
    remember(tmp_path, load_of(2))
    assert entries(tmp_path) == ((load_of(1), load_of(2)), 1)
    assert summary(tmp_path).damaged == 1


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    remember(tmp_path, load_of(1))
    with (tmp_path / record.FILE).open("ab") as file:
        file.write(b'{"work": "lo')
    remember(tmp_path, load_of(2))
    assert entries(tmp_path) == ((load_of(1), load_of(2)), 1)


def test_a_full_disk_is_no_failure_and_the_record_goes_on_afterwards(small_disk):
    assert remember(small_disk, load_of(1))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(8 << 20))
    size, results = (small_disk / record.FILE).stat().st_size, []
    while len(results) < 100 and all(results):
        results.append(remember(small_disk, load_of(2)))
    assert results[-1] is False
    assert (small_disk / record.FILE).stat().st_size < size + 8192
    filler.unlink()
    assert remember(small_disk, load_of(3))
    assert entries(small_disk)[0][-1] == load_of(3)


@pytest.mark.parametrize("there", ["a file", "a folder in its place"])
def test_a_workspace_that_cannot_be_written_is_no_failure(tmp_path, there):
    workspace = tmp_path / "workspace"
    if there == "a file":
        workspace.write_text("not a folder")
    else:
        (workspace / record.FILE).mkdir(parents=True)
    assert remember(workspace, load_of()) is False
    assert entries(workspace) == ((), 0)


# Loading


@pytest.mark.usefixtures("_unloaded")
def test_every_load_is_kept_once_with_what_was_predicted_and_measured(tmp_path, monkeypatch, pico):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    for model, held in ((STARTER, Precision.BF16), (STARTER, Precision.BF16), (STARTER, Precision.NF4)):
        *_, last = jobs.load(LoadPlan(model, held), token=False)
        assert isinstance(last, Finished)
    first, second = kept(tmp_path)
    assert (first.work, first.model, first.precision) == ("load", "starter", "bf16")
    assert (second.precision, second.measured) == ("nf4", last.result.weights)
    assert (first.error, second.error) == (0.0, 0.0)
    *_, last = jobs.load(LoadPlan(ModelRef("folder", str(pico))), token=False)
    assert kept(tmp_path)[2].model == ""
    assert str(pico) not in (tmp_path / record.FILE).read_text()
    assert pico.name not in (tmp_path / record.FILE).read_text()


@pytest.mark.usefixtures("_unloaded")
def test_nothing_is_kept_where_visitors_share_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    *_, last = jobs.load(LoadPlan(STARTER), token=False)
    assert last.result.parameters > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_unloaded")
def test_a_model_loads_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for variable, value in (("STUDIO_WORKSPACE", str(tmp_path / "file")), ("STUDIO_PORT", "none")):
        monkeypatch.setenv(variable, value)
        *_, last = jobs.load(LoadPlan(STARTER), token=False)
        assert last.result.parameters > 0
        list(jobs.unload())


# Summing up


def test_errors_are_summed_up_by_work_and_device(tmp_path):
    for measured in (98 * MB, 100 * MB, 125 * MB):
        remember(tmp_path, load_of(measured, 100 * MB))
    remember(tmp_path, load_of(200 * MB, 100 * MB, device="L4"))
    remember(tmp_path, load_of(100 * MB, 90 * MB, work="run"))
    found = summary(tmp_path)
    first = found.accuracies[0]
    assert (first.work, first.device, first.entries, first.correction) == ("load", "T4", 3, None)
    assert first.median_error == pytest.approx(2 / 98)
    assert first.worst_error == pytest.approx(0.2)
    assert found.of("load", "L4").worst_error == pytest.approx(0.5)
    assert found.of("run", "T4").median_error == pytest.approx(0.1)
    assert found.of("run", "L4") is None


def off_by(tmp_path, pairs):
    for predicted, more in pairs:
        assert remember(tmp_path, load_of(predicted + more, predicted, work="run"))
    return summary(tmp_path).of("run", "T4").correction


SIZES = [GB, 2 * GB, 3 * GB, 4 * GB, 5 * GB]


@pytest.mark.parametrize("constant", [300 * MB, -300 * MB])
def test_a_constant_of_the_device_is_learned_from_five_entries(tmp_path, constant):
    pairs = [(size, constant + n * MB) for n, size in enumerate(SIZES, -2)]
    assert off_by(tmp_path, pairs[:4]) is None
    assert off_by(tmp_path, pairs[4:]) == Correction(constant, 5, "run")


def test_a_share_of_the_size_is_no_constant_and_stays_as_it_is(tmp_path):
    assert off_by(tmp_path, [(size, size // 10) for size in SIZES]) is None


def test_with_models_of_one_size_a_constant_cannot_be_told_from_a_share(tmp_path):
    assert off_by(tmp_path, [(GB, 100 * MB)] * 10) is None


def test_what_differs_from_time_to_time_is_no_constant(tmp_path):
    assert off_by(tmp_path, [(size, 100 * MB + n * 20 * MB) for n, size in enumerate(SIZES)]) is None


def test_what_is_too_small_to_matter_is_left_alone(tmp_path):
    assert off_by(tmp_path, [(size, 1000) for size in SIZES]) is None
    assert off_by(tmp_path / "exact", [(size, 0) for size in SIZES]) is None


def test_only_what_is_recent_is_learned_from(tmp_path):
    assert off_by(tmp_path, [(size, 900 * MB) for size in SIZES]) == Correction(900 * MB, 5, "run")
    assert off_by(tmp_path, [(size, 100 * MB) for size in SIZES]) is None
    assert off_by(tmp_path, [(size, 100 * MB) for size in SIZES * 3]) == Correction(100 * MB, 20, "run")


def test_training_is_corrected_by_runs_and_else_by_loads_which_are_in_a_run_too(tmp_path):
    for size in SIZES:
        remember(tmp_path, load_of(size + 100 * MB, size))
    loads = Correction(100 * MB, 5, "load")
    assert [summary(tmp_path).correction(task, "T4") for task in ("generate", "train")] == [loads, loads]
    for size in SIZES:
        remember(tmp_path, load_of(size + 300 * MB, size, work="run"))
    found = summary(tmp_path)
    assert found.correction("generate", "T4") == loads
    assert found.correction("train", "T4") == Correction(300 * MB, 5, "run")
    assert found.correction("train", "L4") is None


def test_the_last_ones_come_first_and_are_no_more_than_twenty(tmp_path):
    for n in range(1, 31):
        remember(tmp_path, load_of(n * MB))
    assert [entry.measured // MB for entry in summary(tmp_path).recent] == list(range(30, 10, -1))


def test_the_file_is_for_its_owner_alone(tmp_path):
    remember(tmp_path, load_of())
    assert (tmp_path / record.FILE).stat().st_mode & 0o077 == 0
