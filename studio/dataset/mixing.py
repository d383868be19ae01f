"""Which rows are used, how often, and which are held out: decided by what a row says and a seed, not by chance."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from hashlib import blake2b

from studio.dataset.conversing import Example, Passage, as_turns
from studio.errors import InputError

MOST_TIMES = 1000
"""How often a row may occur in an epoch."""


def check_weight(name: str, weight: float) -> None:
    """Raise InputError for a weight that is none."""
    if not 0 < weight <= MOST_TIMES:  # which is false for what is no number, too
        raise InputError(
            f"The weight of {name} is {weight:g}.", f"Choose more than 0 and at most {MOST_TIMES:,}; 1 is once."
        )


def fair_shares(counts: Sequence[int], most: int) -> tuple[int, ...]:
    """How many rows of each source are used where there may be `most` in all; 0 is no limit.

    As many of one as of another; what a small one does not have goes to those that have more.
    """
    if not most:
        return tuple(counts)
    shares, left = [0] * len(counts), most
    for position, number in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        shares[number] = min(counts[number], math.ceil(left / (len(counts) - position)))
        left -= shares[number]
    return tuple(shares)


def content_key(example: Example) -> int:
    """A number of 64 bits for what a row says, the same for the same turns however they were written down."""
    if isinstance(example, Passage):
        said: object = example.text.strip()
    else:
        said = [
            [turn.role, turn.content.strip(), [[call.name, call.arguments] for call in turn.tool_calls]]
            for turn in as_turns(example)
        ]
    return _number(json.dumps(said, ensure_ascii=True, sort_keys=True, default=str))


def is_held_out(key: int, share: float, seed: int) -> bool:
    """Whether what has this key is held out. The same row always is, whatever other rows there are."""
    return _number(f"held out {seed} {key}") < share * 2**64


def times(weight: float, source: int, row: int, seed: int) -> int:
    """How often a row of a source is learnt in an epoch: of a weight of 2.5 twice, and half of them a third time."""
    whole = math.floor(weight)
    return whole + (_number(f"drawn {seed} {source} {row}") < (weight - whole) * 2**64)


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
