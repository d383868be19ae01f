"""The file events.jsonl: everything that a run said, a line an event, appended and flushed as it happens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from studio.errors import InputError
from studio.events import Finished, Phase, Progress, Retrying, Waiting
from studio.hub import Uploaded
from studio.merging.outcome import Outcome
from studio.runs.document import unwritable
from studio.runs.plain import as_plain, from_plain
from studio.training import Began, Evaluated, Learnt, Sampled, Saved, Stepped, Stopped, Warned

FILE = "events.jsonl"
PROGRESS_SECONDS = 0.5
"""Time between two words on how far a phase has come: a download says so five times a second, for hours."""
_BLOCK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has its turn: the first time, or to go on."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended with an error."""

    kind: str
    """Name of its class."""
    message: str
    hint: str


RunEvent = (
    Progress
    | Waiting
    | Retrying
    | Started
    | Began
    | Stepped
    | Evaluated
    | Sampled
    | Saved
    | Warned
    | Stopped
    | Failed
    | Finished[Learnt]
    | Finished[Outcome]
    | Finished[Uploaded]
)
_PLAIN: tuple[type, ...] = (
    *(Progress, Waiting, Retrying, Started, Began, Stepped, Evaluated, Sampled, Saved, Warned, Stopped, Failed),
)
_KINDS: dict[str, type] = {kind.__name__.lower(): kind for kind in _PLAIN}
_RESULTS: tuple[type, ...] = (Learnt, Outcome, Uploaded)
"""What a job may end with; a line says which by its fields."""
ENDS = ("stopped", "failed", "finished")
"""The last words of a worker."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event and when it happened, in seconds since 1970."""

    at: float
    event: RunEvent


def as_fields(event: RunEvent) -> dict[str, Any]:
    """An event as plain values, `event` its name: what a line holds beside the time, and the command line prints."""
    return {"event": type(event).__name__.lower(), **as_plain(event)}


def as_line(told: Told) -> bytes:
    """The line of an event."""
    return json.dumps({"at": told.at, **as_fields(told.event)}, ensure_ascii=False).encode() + b"\n"


def read_line(line: bytes) -> Told | None:
    """The event of a line; None for one that is broken, or of a kind that this version does not know."""
    try:
        said = json.loads(line)
        at, name = said.pop("at"), said.pop("event")
        if name == "finished":
            result = said["result"]
            kind = next(kind for kind in _RESULTS if result.keys() <= {each.name for each in fields(kind)})
            return Told(float(at), Finished(from_plain(kind, result, name)))
        return Told(float(at), from_plain(_KINDS[name], said, name))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, StopIteration, InputError):
        return None


class Journal:
    """Appends what a run says. One at a time has it, the holder of the run's lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before: RunEvent | None = None
        self._progress_at = 0.0
        try:
            self._file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            _cut_half_line(self._file)
        except OSError as error:
            raise unwritable(folder, error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def add(self, event: RunEvent) -> bool:
        """Append an event, whole or not at all; say whether it was news. Raises DoesNotFit where the disk is full."""
        now = time.time()
        if event == self._before or (isinstance(event, Progress) and not self._due(event, now)):
            return False
        self._before = event
        line = as_line(Told(round(now, 3), event))
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(28, "No space left on device")
        except OSError as error:
            with suppress(OSError):  # the half line would be ignored anyway
                os.ftruncate(self._file, size)
            raise unwritable(self._folder, error) from error
        return True

    def _due(self, event: Progress, now: float) -> bool:
        """A phase is told of when it begins and when it is through, and in between now and then."""
        before = self._before
        if event.phase is Phase.TRAIN:
            return False  # each step tells of itself
        changes = not isinstance(before, Progress) or before.phase is not event.phase or event.done == event.total
        if not changes and now - self._progress_at < PROGRESS_SECONDS:
            return False
        self._progress_at = now
        return True


def _cut_half_line(file: int) -> None:
    """Take away what a worker that was killed had not finished writing; readers want whole lines."""
    size = os.fstat(file).st_size
    end = size
    while end:
        begin = max(0, end - _BLOCK)
        found = os.pread(file, end - begin, begin).rfind(b"\n")
        if found >= 0:
            end = begin + found + 1
            break
        end = begin
    if end != size:
        os.ftruncate(file, end)


def read_from(file: Path, offset: int) -> tuple[list[Told], int]:
    """The events behind an offset, as far as their lines are whole, and the offset behind them."""
    try:
        with file.open("rb") as opened:
            opened.seek(offset)
            content = opened.read()
    except FileNotFoundError:
        return [], offset
    end = content.rfind(b"\n") + 1
    told = (read_line(line) for line in content[:end].split(b"\n") if line)
    return [each for each in told if each], offset + end


def events(folder: Path) -> list[Told]:
    """Everything that a run said."""
    return read_from(folder / FILE, 0)[0]


def backwards(folder: Path) -> Iterator[bytes]:
    """The whole lines of the file from the last to the first, read in blocks: what is asked for is near the end."""
    try:
        opened = (folder / FILE).open("rb")
    except FileNotFoundError:
        return
    with opened:
        end = opened.seek(0, os.SEEK_END)
        rest: bytes | None = None  # the beginning of what was read, whose own beginning is in the block before
        while end:
            begin = max(0, end - _BLOCK)
            opened.seek(begin)
            lines = (opened.read(end - begin) + (rest or b"")).split(b"\n")
            if rest is None:
                lines[-1] = b""  # a half line, or nothing behind the last newline
            rest, end = lines[0], begin
            yield from (line for line in reversed(lines[1:]) if line)
        if rest:
            yield rest


def is_of(line: bytes, *names: str) -> bool:
    """Whether a line is that of an event with one of these names, told without reading it.

    Inside a text of the line a quotation mark has a backslash before it, so that nothing somebody wrote looks so.
    """
    return any(b'"event": "' + name.encode() + b'"' in line for name in names)


def last(folder: Path, *names: str) -> Told | None:
    """The last event with one of these names."""
    for line in backwards(folder):
        if is_of(line, *names) and (told := read_line(line)):
            return told
    return None
