"""PyTorch's caching allocator for CUDA, imitated: what it would count as allocated and as reserved.

The rules are those of c10/cuda/CUDACachingAllocator.cpp with its default settings and one stream: sizes in steps of 512
bytes, small blocks cut from segments of 2 MiB, medium ones from 20 MiB, large ones in segments of their own in steps of
2 MiB; the smallest free block that fits is taken, and neighbours that are free become one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

_MIB = 1 << 20
STEP = 512
_SMALL = 1 * _MIB
_SMALL_SEGMENT = 2 * _MIB
_MEDIUM = 10 * _MIB
_MEDIUM_SEGMENT = 20 * _MIB
_LARGE_STEP = 2 * _MIB


def rounded(count: int) -> int:
    """Bytes that a tensor of `count` bytes takes."""
    return max(STEP, -(count // -STEP) * STEP)


@dataclass(eq=False, slots=True)
class Block:
    """A piece of a segment, between the pieces beside it."""

    size: int
    small: bool
    free: bool = False
    asked: int = 0
    number: int = 0
    before: Block | None = None
    after: Block | None = None


class CachingAllocator:
    """Gives out and takes back blocks, and remembers how full it ever was."""

    def __init__(self) -> None:
        self.allocated = self.reserved = 0
        self.peak = self.peak_reserved = 0
        self._blocks = 0
        # Sorted by size, then by age: the number decides before two blocks would have to be compared.
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}

    def take(self, count: int) -> Block:
        """A block for `count` bytes."""
        size = rounded(count)
        small = size <= _SMALL
        free = self._free[small]
        at = bisect_left(free, (size, -1))
        block = free.pop(at)[2] if at < len(free) else self._segment(size, small=small)
        self._split(block, size)
        block.free, block.asked = False, size
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        return block

    def give_back(self, block: Block) -> None:
        """Take back a block; it joins the free ones beside it."""
        self.allocated -= block.asked
        if (after := block.after) and after.free:
            self._drop(after)
            self._join(block, after)
        if (before := block.before) and before.free:
            self._drop(before)
            self._join(before, block)
            block = before
        self._keep(block)

    def forget_peak(self) -> None:
        """Begin to watch for the fullest moment anew."""
        self.peak, self.peak_reserved = self.allocated, self.reserved

    def _segment(self, size: int, *, small: bool) -> Block:
        if small:
            whole = _SMALL_SEGMENT
        elif size < _MEDIUM:
            whole = _MEDIUM_SEGMENT
        else:
            whole = -(size // -_LARGE_STEP) * _LARGE_STEP
        self.reserved += whole
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return self._new(whole, small=small)

    def _new(self, size: int, *, small: bool) -> Block:
        self._blocks += 1
        return Block(size, small, number=self._blocks)

    def _split(self, block: Block, size: int) -> None:
        rest = block.size - size
        if rest >= STEP if block.small else rest > _SMALL:
            left = self._new(rest, small=block.small)
            left.before, left.after = block, block.after
            if block.after:
                block.after.before = left
            block.after, block.size = left, size
            self._keep(left)

    def _join(self, block: Block, after: Block) -> None:
        block.size += after.size
        block.after = after.after
        if after.after:
            after.after.before = block

    def _keep(self, block: Block) -> None:
        block.free = True
        insort(self._free[block.small], (block.size, block.number, block))

    def _drop(self, block: Block) -> None:
        free = self._free[block.small]
        del free[bisect_left(free, (block.size, block.number))]
