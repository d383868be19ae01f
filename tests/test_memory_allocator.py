"""The allocator counts as PyTorch's own does, whatever is taken and given back in whatever order."""

from __future__ import annotations

import random

import pytest

from studio.memory.allocator import STEP, CachingAllocator, rounded

MIB = 1 << 20


@pytest.mark.parametrize(("asked", "taken"), [(1, 512), (512, 512), (513, 1024), (10 * MIB + 1, 10 * MIB + 512)])
def test_sizes_are_rounded_up_to_512_bytes(asked, taken):
    assert rounded(asked) == taken


@pytest.mark.parametrize(
    ("asked", "reserved"),
    [(1, 2 * MIB), (MIB, 2 * MIB), (MIB + 1, 20 * MIB), (9 * MIB, 20 * MIB), (11 * MIB, 12 * MIB)],
)
def test_small_medium_and_large_blocks_come_from_segments_of_their_own(asked, reserved):
    allocator = CachingAllocator()
    allocator.take(asked)
    assert (allocator.allocated, allocator.reserved) == (rounded(asked), reserved)


def test_what_was_given_back_is_used_again():
    allocator = CachingAllocator()
    block = allocator.take(100 * MIB)
    allocator.give_back(block)
    allocator.take(100 * MIB)
    assert allocator.reserved == 100 * MIB
    assert allocator.peak == 100 * MIB


def test_free_neighbours_become_one_block():
    allocator = CachingAllocator()
    blocks = [allocator.take(4 * MIB) for _ in range(5)]  # one segment of 20 MiB
    for block in (blocks[0], blocks[2], blocks[1]):
        allocator.give_back(block)
    allocator.take(9 * MIB)
    assert allocator.reserved == 20 * MIB


def test_a_hole_that_is_too_small_makes_a_new_segment():
    allocator = CachingAllocator()
    blocks = [allocator.take(4 * MIB) for _ in range(5)]
    allocator.give_back(blocks[0])
    allocator.give_back(blocks[2])
    allocator.take(8 * MIB)
    assert allocator.reserved == 40 * MIB


def test_the_peak_is_of_the_fullest_moment():
    allocator = CachingAllocator()
    first = allocator.take(30 * MIB)
    allocator.give_back(first)
    allocator.take(5 * MIB)
    assert (allocator.peak, allocator.allocated) == (30 * MIB, 5 * MIB)


def test_any_order_of_taking_and_giving_back_ends_with_nothing_and_whole_segments():
    chance = random.Random(0)
    allocator, held = CachingAllocator(), []
    for _ in range(3000):
        if held and chance.random() < 0.48:
            allocator.give_back(held.pop(chance.randrange(len(held))))
        else:
            held.append(allocator.take(int(2 ** chance.uniform(0, 25))))
        assert allocator.allocated == sum(block.asked for block in held)
        assert allocator.allocated <= allocator.reserved
    while held:
        allocator.give_back(held.pop())
    assert allocator.allocated == 0
    free = [block for blocks in allocator._free.values() for _, _, block in blocks]
    assert all(block.before is None and block.after is None for block in free), "a segment is still cut"
    assert sum(block.size for block in free) == allocator.reserved
    assert all(block.size % STEP == 0 for block in free)
