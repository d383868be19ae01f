"""What the tests of runs share: a small run on the pico model, and waiting for its worker."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from studio import runs
from studio.dataset import Preparation
from studio.loading import LoadPlan
from studio.models import ModelRef, Precision
from studio.runs.journal import read_from
from studio.runs.starting import begin
from studio.runs.working import carry_out
from studio.training import Began, DataSource, Evaluated, Stepped, TrainingRun, TrainingSettings

HANG = 300.0
"""Seconds after which a test gives up on a worker."""


def rows_file(folder: Path, count: int = 40) -> Path:
    """Short prompts with answers of many lengths."""
    file = folder / "rows.jsonl"
    rows = ({"prompt": f"Say {n}.", "completion": f"{n} " * (1 + n % 7)} for n in range(count))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def small_run(model: Path, **settings: Any) -> TrainingRun:
    """12 steps on rows.jsonl, with dropout, looks at the held-out rows and a checkpoint every third step."""
    usual: dict[str, Any] = {
        "compute": "fp32",
        "rank": 4,
        "alpha": 8,
        "learning_rate": 1e-2,
        "batch_tokens": 128,
        "dropout": 0.1,
        "epochs": 100.0,
        "most_steps": 12,
        "evaluate_every": 4,
        "save_every": 3,
    }
    return TrainingRun(
        LoadPlan(ModelRef("folder", str(model)), Precision.FP32),
        (DataSource("rows.jsonl"),),
        preparation=Preparation(limit=64, held_out=0.2),
        settings=TrainingSettings(**{**usual, **settings}),
    )


def made(model: Path, folder: Path, *, name: str = "Small", **settings: Any) -> str:
    """The id of such a run, written down and not begun."""
    return runs.create(small_run(model, **settings), [rows_file(folder)], name)


def worked_off(id_: str) -> list[Any]:
    """The events of a run that is worked off in this process."""
    folder = runs.of(id_).folder
    with closing(carry_out(folder, begin(folder), token=False)) as events:
        return list(events)


def losses(id_: str) -> dict[str, float]:
    """Everything that a run measured, by what and step; of what was done again, the last."""
    found = {}
    for told in runs.events(runs.of(id_).folder):
        if isinstance(told.event, Stepped | Evaluated):
            found[f"{type(told.event).__name__} {told.event.step}"] = told.event.loss
    return found


def state(id_: str) -> runs.State:
    """How a run stands."""
    return runs.of(id_).standing.state


def until(true: Callable[[], Any]) -> Any:
    """Wait for something."""
    late = time.monotonic() + HANG
    while not (found := true()):
        assert time.monotonic() < late, "nothing happened"
        time.sleep(0.02)
    return found


def at_rest(id_: str) -> runs.State:
    """Wait until nobody is at a run; how it stands then."""
    until(lambda: not state(id_).is_alive)
    return state(id_)


def worker_of(id_: str) -> int:
    """The number of the process that is at a run."""
    folder = runs.of(id_).folder

    def found() -> int | None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if str(folder).encode() in command and b"--worker" in command:
                    return int(entry.name)
        return None

    return int(until(found))


def kill(id_: str) -> None:
    """kill -9 the worker of a run, and wait until it is gone."""
    os.kill(worker_of(id_), signal.SIGKILL)
    at_rest(id_)


def killed_at_random(id_: str, random: Random, times: int) -> int:
    """Kill the worker of a run some times, at any moment of its life, and start it again; how often it had begun."""
    begun = 0
    for _ in range(times):
        runs.start(id_, token=False)
        folder = runs.of(id_).folder
        known = (folder / "events.jsonl").stat().st_size if (folder / "events.jsonl").exists() else 0
        if random.random() < 0.2:  # while it wakes up
            time.sleep(random.random() * 2)
        else:
            until(lambda: any(isinstance(told.event, Began) for told in read_from(folder / "events.jsonl", known)[0]))  # noqa: B023
            begun += 1
            time.sleep(random.random() * 1.5)
        if state(id_).is_alive:
            kill(id_)
        if state(id_) is runs.State.FINISHED:
            break
    return begun
