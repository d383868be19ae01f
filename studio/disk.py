"""Writing that outlives a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path

from studio.errors import DoesNotFit, InputError


def sync(path: Path) -> None:
    """Wait until the disk has a file or folder: a rename must not come before what it names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn what a disk complains of, while something is written that is to be at `target`, into our words."""
    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise DoesNotFit(
                f"The disk with {target.parent} is full, before {target.name} was whole.",
                "Free some space, or choose a folder on a larger disk. Nothing of it was kept.",
            ) from error
        raise InputError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Choose a folder that you may write to, with room for it.",
        ) from error
