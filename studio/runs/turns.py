"""One at a time: the line of workers that wait for the machine, runs and merges, first come first served."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from studio.events import Waiting
from studio.runs.directory import home
from studio.runs.state import is_held, place_in_line

FILE = "turn"
"""Among the folders of the runs: whoever has the machine holds its lock, and has left its name in it."""
_LINE = ("runs", "merges")
"""The folders of the workspace whose jobs wait in it."""
_BEAT_SECONDS = 0.1


@contextmanager
def turn(folder: Path, name: str, *, give_up: Callable[[], bool]) -> Iterator[Generator[Waiting, None, bool]]:
    """A place in the line for a job that is queued up. `mine = yield from` what this gives waits until it is its turn.

    It is False where `give_up` said so before. Leaving the block lets the next one in.
    """
    home().mkdir(parents=True, exist_ok=True)
    file = os.open(home() / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _wait(file, folder, name, give_up)
    finally:
        os.close(file)


def _wait(file: int, folder: Path, name: str, give_up: Callable[[], bool]) -> Generator[Waiting, None, bool]:
    said: tuple[int, str] | None = None
    while not give_up():
        ahead = _ahead(folder)
        if not ahead and _take(file, name):
            return True
        who, since = _holder(file)
        if (ahead + 1, who) != said:
            said = (ahead + 1, who)
            yield Waiting(*said, time.time() - since)
        time.sleep(_BEAT_SECONDS)
    return False


def _take(file: int, name: str) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps([name, time.time()]).encode(), 0)
    return True


def _holder(file: int) -> tuple[str, float]:
    """Who has the machine, and since when."""
    try:
        name, since = json.loads(os.pread(file, 4096, 0))
        return str(name), float(since)
    except (ValueError, TypeError):
        return "another job", time.time()


def _ahead(folder: Path) -> int:
    """How many workers joined the line before and wait still."""
    own = place_in_line(folder) or 0
    places = (home().with_name(name) for name in _LINE)
    others = (each for place in places if place.is_dir() for each in place.iterdir() if each.is_dir())
    return sum(
        (place := place_in_line(each)) is not None and place < own and is_held(each)
        for each in others
        if each != folder
    )
