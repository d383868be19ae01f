"""What a limit on the length of rows costs, and what packing several rows into one sequence saves."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.dataset.lengths import FAILED, Lengths
from studio.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class CutOff:
    """A dataset whose rows are cut at `limit` tokens. Shares are from 0 to 1."""

    limit: int
    truncated: int
    truncated_share: float
    """Of the rows that could be read."""
    lost_tokens: int
    lost_share: float
    """Of all their tokens."""
    bins: int
    """Sequences of `limit` tokens that all rows fit into, each row whole."""
    saved_against_limit: float
    """Of the tokens that are computed when each row is padded to the limit."""
    saved_against_batch: float
    """Of those when each row is padded to the longest of its batch; below zero where packing computes more."""


def at_cut_off(lengths: Lengths, limit: int, *, batch: int = 8) -> CutOff:
    """What is lost and saved at a limit, with batches of so many rows in the order of the dataset. Takes milliseconds.

    Packing is best fit, the longest rows first.
    """
    if limit < 1:
        raise InputError(f"The limit is {limit} tokens.", "Choose 1 or more.")
    import numpy

    held = numpy.frombuffer(lengths.lengths, dtype=numpy.int32)
    held = held[held != FAILED]
    cut = numpy.minimum(held, limit)
    total, kept = int(held.sum()), int(cut.sum())
    truncated = int((held > limit).sum())
    bins = _bins(cut, limit)
    return CutOff(
        limit=limit,
        truncated=truncated,
        truncated_share=truncated / max(1, len(held)),
        lost_tokens=total - kept,
        lost_share=(total - kept) / max(1, total),
        bins=bins,
        saved_against_limit=1 - bins / max(1, len(held)),
        saved_against_batch=1 - bins * limit / max(1, _padded(cut, batch)),
    )


def saved_by_packing(lengths: array[int], limit: int, *, batch: int = 8) -> float:
    """The same `saved_against_batch` for one example and more, none longer than the limit; 0 where it saves nothing."""
    import numpy

    held = numpy.frombuffer(lengths, dtype=numpy.int32)
    return max(0.0, 1 - _bins(held, limit) * limit / _padded(held, batch))


def _bins(held: Numbers, limit: int) -> int:
    import numpy

    sizes, counts = numpy.unique(held, return_counts=True)
    return _best_fit({int(size): int(count) for size, count in zip(sizes, counts, strict=True) if size}, limit)


def _padded(held: Numbers, batch: int) -> int:
    """Tokens where each is padded to the longest of its batch."""
    import numpy

    starts = numpy.arange(0, len(held), batch)
    sizes = numpy.diff([*starts, len(held)])
    return int((numpy.maximum.reduceat(held, starts) * sizes).sum())


def _best_fit(counts: dict[int, int], limit: int) -> int:
    """Bins of `limit` for so many things of each size: the largest first, each where it leaves the least room.

    Things of one size and bins with the same room are handled together, and the rooms that there are are the bits of a
    number, so that millions of rows take no longer than the sizes that occur.
    """
    rooms: Counter[int] = Counter()
    mask = bins = 0
    for size in sorted(counts, reverse=True):
        left = counts[size]
        while left:
            fitting = mask >> size
            room = size + (fitting & -fitting).bit_length() - 1 if fitting else limit
            each = room // size
            there = rooms[room] if fitting else -(-left // each)
            used = min(there, left // each)
            rest = left - used * each if used < there else 0
            if not fitting:
                bins += used + bool(rest)
            left -= used * each + rest
            for many, room_left in ((used, room - each * size), (bool(rest), room - rest * size)):
                rooms[room_left] += many
                if many and room_left:
                    mask |= 1 << room_left
            if fitting:
                rooms[room] -= used + bool(rest)
                if not rooms[room]:
                    mask &= ~(1 << room)
    return bins
