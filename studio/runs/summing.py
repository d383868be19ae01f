"""Runs in a list, and two beside each other: where each stands, how long it will take, and what differs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from studio.events import Finished
from studio.runs import journal
from studio.runs.directory import Run, of
from studio.runs.journal import Started, Told, read_line
from studio.runs.plain import as_plain
from studio.runs.state import State
from studio.training import Began, Evaluated, Stepped

RECENT = 20
"""Steps that the time of the next ones is told by."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in one line."""

    id: str
    name: str
    state: State
    message: str
    """What went wrong, where something did."""
    hint: str
    model: str
    data: str
    """The names of its sources."""
    step: int
    total: int
    """0 while it is not known."""
    loss: float | None
    held_out_loss: float | None
    held_out_before: float | None
    """At the first look, which is before anything was learnt."""
    seconds_left: float | None
    """None where it does not learn at this moment, or has just begun to."""
    made: str
    """When it was written down, as 2026-11-25T13:50:29+00:00."""
    started: float | None
    """When it was begun first, in seconds since 1970."""
    heard: float | None
    """When it said something last."""
    bytes: int
    """On the disk."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The losses of a run, a point a step; of steps that were done again after a crash, the last."""

    learnt: tuple[tuple[int, float], ...]
    """(step, loss of the batch)."""
    held_out: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which two runs differ."""

    field: str
    """settings.rank, for example."""
    one: Any
    other: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs beside each other."""

    differences: tuple[Difference, ...]
    one: Curve
    other: Curve


def summary(run: Run) -> Summary:
    """A run in one line. Reads the end of its events, however many there are."""
    recent = _recent(run.folder)
    here = next((each for each in reversed(recent) if isinstance(each.event, Stepped | Began | Finished)), None)
    step, total = _place(run.folder, here)
    stepped = journal.last(run.folder, "stepped")
    looked = journal.last(run.folder, "evaluated")
    told, plan = run.document, run.document.run
    return Summary(
        id=run.id,
        name=told.name,
        state=run.standing.state,
        message=run.standing.message,
        hint=run.standing.hint,
        model=str(plan.plan.model),
        data=", ".join(source.name for source in plan.data),
        step=step,
        total=total,
        loss=stepped.event.loss if stepped and isinstance(stepped.event, Stepped) else None,
        held_out_loss=looked.event.loss if looked and isinstance(looked.event, Evaluated) else None,
        held_out_before=_first_look(run.folder),
        seconds_left=seconds_left(recent) if run.standing.state is State.RUNNING else None,
        made=told.made,
        started=_started(run.folder),
        heard=recent[-1].at if recent else None,
        bytes=_bytes(run.folder),
    )


def _bytes(folder: Path) -> int:
    """What a run takes on the disk. Its worker may put away a checkpoint while this counts."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found += Path(place, name).lstat().st_size
    return found


def _place(folder: Path, here: Told | None) -> tuple[int, int]:
    """The step that a run is at, of how many."""
    told = here if here and not isinstance(here.event, Finished) else journal.last(folder, "stepped", "began")
    return (told.event.step, told.event.total) if told and isinstance(told.event, Stepped | Began) else (0, 0)


def _recent(folder: Path) -> list[Told]:
    """The last events since a worker began, oldest first: enough for the recent steps and what was between them."""
    found: list[Told] = []
    steps = 0
    for line in journal.backwards(folder):
        told = read_line(line)
        if told is None:
            continue
        found.append(told)
        steps += isinstance(told.event, Stepped)
        if steps > RECENT * 10 or isinstance(told.event, Started):
            break
    return found[::-1]


def seconds_left(recent: list[Told]) -> float | None:
    """How long the rest takes, by the events since a worker began: the median of the last steps for each, and what was
    spent between the steps, on looks at the held-out rows and on checkpoints, spread over all of them.

    None before the second step.
    """
    steps = [(told.at, told.event) for told in recent if isinstance(told.event, Stepped)]
    if len(steps) < 2:
        return None
    # The time of an event is that of its end, so the time of a step is part of the time since the one before.
    between = [max(0.0, at - before - event.seconds) for (before, _), (at, event) in pairwise(steps)]
    pace = median(event.seconds for _, event in steps[-RECENT:])
    last = steps[-1][1]
    return (last.total - last.step) * (pace + sum(between) / len(between))


def _started(folder: Path) -> float | None:
    try:
        with (folder / journal.FILE).open("rb") as opened:
            return next((told.at for line in opened if (told := read_line(line))), None)
    except FileNotFoundError:
        return None


def _first_look(folder: Path) -> float | None:
    """The loss on held-out rows that was measured first; near the beginning of the file, where there is one."""
    try:
        with (folder / journal.FILE).open("rb") as opened:
            looks = (read_line(line) for line in opened if journal.is_of(line, "evaluated"))
            told = next((each for each in looks if each), None)
    except FileNotFoundError:
        return None
    return told.event.loss if told and isinstance(told.event, Evaluated) else None


def curve(folder: Path) -> Curve:
    """The losses of a run."""
    learnt: dict[int, float] = {}
    held_out: dict[int, float] = {}
    for told in journal.events(folder):
        match told.event:
            case Began(step=step):  # what came behind it is done again
                learnt = {at: loss for at, loss in learnt.items() if at <= step}
                held_out = {at: loss for at, loss in held_out.items() if at <= step}
            case Stepped(step=step, loss=loss):
                learnt[step] = loss
            case Evaluated(step=step, loss=loss):
                held_out[step] = loss
    return Curve(tuple(sorted(learnt.items())), tuple(sorted(held_out.items())))


def compare(one: str, other: str) -> Comparison:
    """Two runs by their ids: the fields in which they differ, the name left out, and the losses of both."""
    left, right = of(one), of(other)
    said, told = (dict(_fields("", as_plain(run.document.run))) for run in (left, right))
    said |= dict(_fields("versions", dict(left.document.versions)))
    told |= dict(_fields("versions", dict(right.document.versions)))
    names = dict.fromkeys(chain(said, told))
    differences = (Difference(name, said.get(name), told.get(name)) for name in names)
    return Comparison(
        tuple(each for each in differences if each.one != each.other), curve(left.folder), curve(right.folder)
    )


def _fields(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every field of plain values with its whole name."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _fields(f"{where}.{name}" if where else name, each)
    else:
        yield where, value
