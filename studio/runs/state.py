"""How a run stands, told by what is in its folder: who holds its lock, what it is asked to do, and its last words.

The worker holds a lock of the system on a file in the folder. The system lets go of it when the process is gone,
however it went, so that it is right after a kill, after a restart of the machine, and where a number of a process is
used again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from studio.errors import Busy, InputError
from studio.runs import journal
from studio.runs.document import put, unwritable
from studio.runs.journal import Failed
from studio.training import Stop, Stopped

LOCK, WISH, TURN = "lock", "wish", "turn"
_PATIENCE = 2.0
"""Seconds that a worker tries for its lock: whoever looks at it holds it for some microseconds."""
_FULL = 1_000_000
"""Bytes; with fewer a disk is as good as full."""


class State(StrEnum):
    """How a run stands."""

    NEW = "new"  # nobody has begun it
    QUEUED = "queued"  # its worker waits for its turn
    PREPARING = "preparing"  # downloads, rows into examples, the model into memory
    RUNNING = "running"
    STOPPING = "stopping"  # it was asked to
    STOPPED = "stopped"  # it was asked to, did, and can go on
    FINISHED = "finished"
    FAILED = "failed"  # with an error; it can be tried again
    DIED = "died"  # its worker is gone without a last word; it can go on

    @property
    def is_alive(self) -> bool:
        """Whether a worker is at it."""
        return self in (State.QUEUED, State.PREPARING, State.RUNNING, State.STOPPING)

    @property
    def can_start(self) -> bool:
        """Whether it can be begun, or go on."""
        return not self.is_alive and self is not State.FINISHED


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands, and why where something went wrong."""

    state: State
    message: str = ""
    hint: str = ""


def standing(folder: Path) -> Standing:
    """How the run in a folder stands now."""
    if is_held(folder):
        return Standing(_at_work(folder))
    told = journal.last(folder, "started", *journal.ENDS)
    if told is None or (folder / TURN).exists():
        return _died(folder) if (folder / TURN).exists() else Standing(State.NEW)
    match told.event:
        case Failed(_, message, hint):
            return Standing(State.FAILED, message, hint)
        case Stopped():
            return Standing(State.STOPPED)
        case journal.Started():
            return _died(folder)
    return Standing(State.FINISHED)


def _at_work(folder: Path) -> State:
    if wished(folder):
        return State.STOPPING
    if (folder / TURN).exists():
        return State.QUEUED
    told = journal.last(folder, "started", "began")
    return State.PREPARING if told is None or isinstance(told.event, journal.Started) else State.RUNNING


def _died(folder: Path) -> Standing:
    if shutil.disk_usage(folder).free < _FULL:
        return Standing(State.DIED, "The worker process ended without a word: the disk is full.", "Free some space.")
    if (folder / TURN).exists():
        return Standing(State.DIED, "The worker process is gone that waited for its turn.", "Start the run again.")
    return Standing(
        State.DIED,
        "The worker process ended without a word: killed, or out of memory.",
        "Go on with the run: what was learnt since the last checkpoint is done again. If it dies again, lower the "
        "batch tokens or the precision.",
    )


def is_held(folder: Path) -> bool:
    """Whether a worker, or whoever makes or deletes the run, is at it at this moment."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who look do not take each other for a worker.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def take_hold(folder: Path) -> int:
    """The lock of a run as an open file, held until that is closed here and in every process that was given it.

    Raises Busy where somebody has it.
    """
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError as error:
        raise InputError("There is no such run any more.", "Look at the list of runs.") from error
    except OSError as error:
        raise unwritable(folder, error) from error
    late = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > late:
                os.close(file)
                raise Busy("A worker process is at this run.", "Stop it first, or wait until it ends.") from None
            time.sleep(0.02)


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Hold the lock of a run for a while. Raises Busy where somebody has it."""
    file = take_hold(folder)
    try:
        yield file
    finally:
        os.close(file)


def wish(folder: Path, how: Stop) -> None:
    """Leave the wish that a run end, for its worker to find."""
    put(folder / WISH, how.value)


def wished(folder: Path) -> Stop | None:
    """What the run is asked to do; None to go on. Costs a look for a file."""
    try:
        text = (folder / WISH).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return Stop.NOW if text == Stop.NOW else Stop.CHECKPOINT


def queue_up(folder: Path) -> None:
    """Give a run, whose lock the caller holds, a place in the line, behind all others; an older wish is void."""
    (folder / WISH).unlink(missing_ok=True)
    put(folder / TURN, str(time.time_ns()))


def place_in_line(folder: Path) -> int | None:
    """When a run joined the line, in nanoseconds since 1970; None where it is in none."""
    try:
        return int((folder / TURN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
