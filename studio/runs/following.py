"""A run as it goes on: its new events, as its file grows."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from studio.runs import journal
from studio.runs.directory import folder_of
from studio.runs.journal import Told
from studio.runs.state import Standing, is_held, standing

BEAT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class News:
    """What is new of a run since the last look; nothing, on a beat without news."""

    told: tuple[Told, ...]
    offset: int
    """To follow on from, after a reload of a page for example."""
    standing: Standing


def follow(id_: str, *, after: int = 0) -> Generator[News, None, None]:
    """What a run says, from an offset in its file on, a beat at a time, until nobody is at it any more.

    The first comes at once, the last when all was read. Closing it leaves the run alone.
    """
    yield from follow_folder(folder_of(id_), after=after)


def follow_folder(folder: Path, *, after: int = 0) -> Generator[News, None, None]:
    """The same of a run in any folder."""
    file, offset = folder / journal.FILE, after
    now: Standing | None = None
    while True:
        grown = _size(file) > offset
        if now is None or grown or not is_held(folder):
            # Before reading: what a worker said last is read after it was seen to be gone.
            now = standing(folder)
        told, offset = journal.read_from(file, offset)
        yield News(tuple(told), offset, now)
        if not now.state.is_alive:
            return
        time.sleep(BEAT_SECONDS)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
