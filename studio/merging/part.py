"""The folder beside the output in which a merge is made, and which becomes the output all at once."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio.disk import explained, sync
from studio.errors import Busy, DoesNotFit, InputError

_MARGIN = 20_000_000
"""Bytes that stay free on the disk beside the merged model, for the log of whoever else writes there."""


def check_output(output: Path) -> None:
    """Raise InputError where something is in the way of the merged model."""
    if not output.name:
        raise InputError(f"{output} is no folder that can be made.", "Choose one that is not there yet.")
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise InputError(f"{output} exists already and is not empty.", "Choose a folder that is new or empty.")


def check_disk(folder: Path, needed: int) -> None:
    """Raise DoesNotFit where the disk of a folder has less than `needed` bytes free."""
    if (free := shutil.disk_usage(folder).free) < needed + _MARGIN:
        raise DoesNotFit(
            f"The merged model takes {needed / 1e9:.2f} GB, and the disk with {folder.parent} has {free / 1e9:.2f} GB"
            " free.",
            "Free some space, or choose a folder on a larger disk.",
        )


@contextmanager
def made_beside(output: Path) -> Iterator[Path]:
    """An empty folder for this merge alone, which `put` renames; whatever happens otherwise, nothing is left of it.

    One that a killed merge left is taken over. Raises Busy where another merge is writing the same output.
    """
    part = output.with_name(output.name + ".part")
    with explained(output):
        part.mkdir(parents=True, exist_ok=True)
        number = os.open(part, os.O_RDONLY)
    try:
        _lock(number, part)
        try:
            with explained(output):
                _empty(part)
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(number)


def put(part: Path, output: Path) -> None:
    """Rename the folder into its place, once all of it is on the disk."""
    with explained(output):
        sync(part)
        check_output(output)
        part.rename(output)
        sync(output.parent)


def _lock(number: int, part: Path) -> None:
    """The system takes it away again however this process ends."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(f"Another merge is writing {part.stem}.", "Wait for it, or choose another folder.") from error
    if not part.is_dir() or part.stat().st_ino != os.fstat(number).st_ino:
        raise Busy(f"Another merge has just ended in {part.stem}.", "Look at what it made, and try again.")


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
