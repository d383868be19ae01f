"""What was read of datasets does not pile up: what was not used for long goes, and the oldest where it is too much."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

IN_USE_SECONDS = 3600.0
"""What was used this lately is in use: whoever reads rows notes it with every batch."""
_DAY = 86_400.0


def note_use(file: Path) -> None:
    """Keep a file of rows from being swept away for the next hour."""
    with suppress(OSError):  # of somebody else, or gone: reading it says so
        os.utime(file)


def sweep(cache: Path, *, limit: int, days: float) -> None:
    """Remove from `cache` what was not used for so many days; then, while it has more than `limit` bytes, the oldest.

    What is in use stays, even where it is more than the limit.
    """
    now, kept = time.time(), []
    for used, size, file in _files(cache):
        abandoned = file.suffix != ".arrow"  # what a process that was killed had begun
        if now - used > (IN_USE_SECONDS if abandoned else max(days * _DAY, IN_USE_SECONDS)):
            _remove(file)
        else:
            kept.append((used, size, file))
    room = limit - sum(size for _, size, _ in kept)
    for used, size, file in sorted(kept):
        if room < 0 and now - used > IN_USE_SECONDS:
            _remove(file)
            room += size


def _files(cache: Path) -> Iterator[tuple[float, int, Path]]:
    """When each was last used, its bytes, and the file; those that only describe another one are not among them."""
    if not cache.is_dir():
        return
    for entry in os.scandir(cache):
        with suppress(OSError):  # swept by another one at this moment
            file, stat = Path(entry.path), entry.stat()
            if file.suffix in (".arrow", ".part") or not file.with_suffix(".arrow").exists():
                yield stat.st_mtime, stat.st_size, file


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
    with suppress(OSError):
        file.with_suffix(".json").unlink()
