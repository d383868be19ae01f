"""Whether the numbers of an adapter are numbers: it reads all of them, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from studio.adapters.adapter import PREFIX, WEIGHTS, Adapter
from studio.adapters.stored import not_finite, places, read_rows, steps
from studio.errors import Damaged


def check_finite(adapter: Adapter) -> Iterator[int]:
    """Read every tensor, and yield the bytes read since the last time.

    Raises Damaged, naming it, where one holds a number that is none.
    """
    for name, place in places([Path(adapter.folder, WEIGHTS)]).items():
        for first, count in steps(place.shape):
            rows = read_rows(place, first, count) if place.shape else read_rows(place)
            if not_finite(rows):
                raise Damaged(
                    f"The adapter holds values that are not numbers, in {name.removeprefix(PREFIX)}.",
                    "Its training broke. Choose an earlier checkpoint, or train again with a lower learning rate.",
                )
            yield rows.numel() * rows.element_size()
