"""How right the estimates were on this machine: what was predicted and measured, kept, summed up, and learned from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

FILE = "estimates.jsonl"
"""In the workspace, one entry a line; what became too much is in a second file with `.old` behind its name."""
Work = Literal["load", "run"]

_LARGEST_FILE = 256 * 1024  # about 2,000 entries; with the old ones never more than twice as much
_LONGEST_LINE = 4000
_LONGEST_NAME = 80
_MOST_BYTES = 1 << 60
_RECENT = 20  # a constant of a device may change with its driver, and so do estimates with the studio
_FEWEST = 5
_SMALLEST = 1 << 20
_SPREAD = 0.1
_SIZES_APART = 1.5


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of work: what it was predicted to hold, and what it held. It names no person, folder or token."""

    work: Work
    device: str
    """Its name: NVIDIA H100 80GB HBM3."""
    model: str
    """As the Hub names it, starter, or empty for a folder."""
    precision: str
    predicted: int
    """Bytes."""
    measured: int
    """Bytes."""

    @property
    def error(self) -> float:
        """How far the prediction was off, as a share of what was measured; below 0 where it was too low."""
        return (self.predicted - self.measured) / self.measured


@dataclass(frozen=True, slots=True)
class Correction:
    """What a device holds beyond every prediction, whatever the model: a constant, shown and added openly.

    It is learned from the last twenty pieces of work of a kind, and only where there are at least five, of models of
    which the largest is at least half as large again as the smallest, each of them within a tenth of the same bytes
    off, and those are at least a mebibyte. Anything else is noise, or an error that a constant does not explain.
    """

    bytes: int
    """Below 0 where it holds less."""
    entries: int
    """How many pieces of work it was learned from: all of them were off by about so much."""
    work: Work


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How right the estimates of one kind of work were on one device."""

    work: Work
    device: str
    entries: int
    median_error: float
    """Of the predictions as they were made, as a share of what was measured."""
    worst_error: float
    correction: Correction | None
    """None where no constant explains what was off, which is not changed then."""


@dataclass(frozen=True, slots=True)
class Record:
    """All that was kept, summed up."""

    accuracies: tuple[Accuracy, ...]
    """The work and device with most entries first."""
    damaged: int
    """Lines that could not be read."""
    recent: tuple[Entry, ...] = ()
    """The last twenty of all, the newest first."""

    def of(self, work: Work, device: str) -> Accuracy | None:
        """That of one kind of work on one device; None where nothing was kept."""
        return next((a for a in self.accuracies if (a.work, a.device) == (work, device)), None)

    def correction(self, task: str, device: str) -> Correction | None:
        """What is to be added to every estimate of a task there; None where nothing was learned.

        Training is corrected by what runs taught, else by what loads did, which is in a run as well.
        """
        kinds: tuple[Work, ...] = ("run", "load") if task == "train" else ("load",)
        found = (accuracy.correction for kind in kinds if (accuracy := self.of(kind, device)))
        return next((correction for correction in found if correction), None)


def remember(workspace: Path, entry: Entry) -> bool:
    """Add an entry; say whether it was kept. A disk that is full or may not be written is no failure.

    Several processes may do so at once.
    """
    fields = {name: value[:_LONGEST_NAME] if isinstance(value, str) else value for name, value in asdict(entry).items()}
    line = json.dumps(fields).encode() + b"\n"
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        return _append(workspace / FILE, line)
    except OSError:
        return False


def _append(file: Path, line: bytes) -> bool:
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(handle).st_size
        if size:
            os.lseek(handle, -1, os.SEEK_END)
            if os.read(handle, 1) != b"\n":  # a disk was full in the middle of a line
                line = b"\n" + line
        # In one call: the system puts what is appended in one call behind what others append.
        whole = os.write(handle, line) == len(line)
        there = file.stat()
        if size > _LARGEST_FILE and os.path.samestat(there, os.fstat(handle)):  # nobody else has put it aside
            file.replace(_old(file))
        return whole
    finally:
        os.close(handle)


def entries(workspace: Path) -> tuple[tuple[Entry, ...], int]:
    """What was kept, the oldest first, and how many lines could not be read. Nothing where there is no file."""
    found: list[Entry] = []
    damaged = 0
    for line in _lines(workspace / FILE):
        entry = _read(line)
        if entry is None:
            damaged += 1
        else:
            found.append(entry)
    return tuple(found), damaged


def summary(workspace: Path) -> Record:
    """How right the estimates were, by kind of work and device."""
    found, damaged = entries(workspace)
    alike: dict[tuple[Work, str], list[Entry]] = {}
    for entry in found:
        alike.setdefault((entry.work, entry.device), []).append(entry)
    accuracies = (_accuracy(work, device, of) for (work, device), of in alike.items())
    recent = tuple(reversed(found[-_RECENT:]))
    return Record(tuple(sorted(accuracies, key=lambda a: -a.entries)), damaged, recent)


def _accuracy(work: Work, device: str, of: list[Entry]) -> Accuracy:
    errors = [abs(entry.error) for entry in of]
    return Accuracy(work, device, len(of), median(errors), max(errors), _correction(work, of[-_RECENT:]))


def _correction(work: Work, of: list[Entry]) -> Correction | None:
    """The constant that all of them were off by; None where they were not off by one.

    With models of one size a constant and a share look the same, so it takes two sizes to tell.
    """
    predicted = [entry.predicted for entry in of]
    if len(of) < _FEWEST or max(predicted) < _SIZES_APART * min(predicted):
        return None
    off = [entry.measured - entry.predicted for entry in of]
    constant = round(median(off))
    consistent = all(abs(value - constant) <= _SPREAD * abs(constant) for value in off)
    return Correction(constant, len(of), work) if consistent and abs(constant) >= _SMALLEST else None


def _old(file: Path) -> Path:
    return file.with_name(f"{file.name}.old")


def _lines(file: Path) -> Iterator[bytes]:
    for part in (_old(file), file):
        try:
            content = part.read_bytes()
        except OSError:
            continue
        yield from filter(None, content.split(b"\n"))


def _read(line: bytes) -> Entry | None:
    """The entry in a line; None where it is none."""
    if len(line) > _LONGEST_LINE:
        return None
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.keys() != Entry.__dataclass_fields__.keys() or not _is_sound(said):
        return None
    return Entry(**said)


def _is_sound(said: dict[str, Any]) -> bool:
    texts = [said[name] for name in ("work", "device", "model", "precision")]
    sizes = [said[name] for name in ("predicted", "measured")]
    return (
        all(isinstance(text, str) for text in texts)
        and said["work"] in get_args(Work)
        and all(type(size) is int and 0 < size <= _MOST_BYTES for size in sizes)
    )
