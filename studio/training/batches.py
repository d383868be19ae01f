"""Which rows are learnt from at once: rows of like length, as many as a budget of tokens holds, anew in each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from datasets import Dataset

Sequence = tuple[int, ...]
"""Rows that stand in one sequence: one, or several where they are packed."""
IGNORED = -100
"""The label of a token that is not trained, as PyTorch has it."""
_STEPS_OF_LENGTH = 16
"""Rows whose lengths differ by less than a sixteenth are alike: 3 % more padding, and other neighbours each epoch."""


class Batches:
    """The batches of every epoch: which rows are together is drawn from the seed and the epoch, how many never changes.

    A batch sampler for PyTorch: iterating gives the batches of the epoch that was set, each a list of sequences.
    """

    def __init__(self, lengths: numpy.ndarray[Any, Any], budget: int, *, seed: int, packs: bool = False) -> None:
        import numpy

        self.lengths, self.seed, self.epoch = lengths, seed, 0
        self._alike = _alike(lengths)
        ascending = numpy.sort(self._alike)
        # Which places of the ascending order are together depends on the lengths alone, so every epoch has as many.
        self._places = _packed(ascending, budget) if packs else _cut(ascending, budget)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[list[Sequence]]:
        return iter(self.of(self.epoch))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of."""
        self.epoch = epoch

    def of(self, epoch: int) -> list[list[Sequence]]:
        """The batches of an epoch, in their order."""
        import numpy

        random = numpy.random.default_rng((self.seed, epoch))
        rows = numpy.lexsort((random.random(len(self.lengths)), self._alike)).tolist()
        batches = [[tuple(rows[place] for place in sequence) for sequence in batch] for batch in self._places]
        return [batches[index] for index in random.permutation(len(batches)).tolist()]

    def in_order(self) -> list[list[Sequence]]:
        """The batches by length and without chance, as rows are only measured on."""
        import numpy

        rows = numpy.argsort(self._alike, kind="stable").tolist()
        return [[tuple(rows[place] for place in sequence) for sequence in batch] for batch in self._places]

    def padded(self, batch: list[Sequence]) -> int:
        """Tokens that are computed for a batch, padding included."""
        return len(batch) * max(sum(int(self.lengths[row]) for row in sequence) for sequence in batch)


class Share:
    """The batches of one of several processes that learn together: of each step its part, and empty ones to be even."""

    def __init__(self, batches: Batches, accumulation: int, *, rank: int, size: int) -> None:
        self._batches, self._accumulation, self._rank, self._size = batches, accumulation, rank, size

    def __len__(self) -> int:
        steps, rest = divmod(len(self._batches), self._accumulation)
        return steps * self._even(self._accumulation) + self._even(rest)

    def __iter__(self) -> Iterator[list[Sequence]]:
        every = list(self._batches)
        for begin in range(0, len(every), self._accumulation):
            step = every[begin : begin + self._accumulation]
            own = step[self._rank :: self._size]
            yield from own
            yield from ([] for _ in range(self._even(len(step)) - len(own)))

    def _even(self, batches: int) -> int:
        """How many of so many each process gets."""
        return -(-batches // self._size)


def _alike(lengths: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """Lengths rounded up to a sixteenth of the power of two below them."""
    import numpy

    step = numpy.maximum(1, 2 ** numpy.floor(numpy.log2(numpy.maximum(lengths, 1))).astype(int) // _STEPS_OF_LENGTH)
    rounded: numpy.ndarray[Any, Any] = -(-lengths // step) * step
    return rounded


def _cut(ascending: numpy.ndarray[Any, Any], budget: int) -> list[list[Sequence]]:
    """Each row in a sequence of its own, and as many sequences as the budget holds when all are as long as the last."""
    batches: list[list[Sequence]] = [[]]
    for place, length in enumerate(ascending.tolist()):
        if batches[-1] and (len(batches[-1]) + 1) * length > budget:
            batches.append([])
        batches[-1].append((place,))
    return [batch for batch in batches if batch]


def _packed(ascending: numpy.ndarray[Any, Any], budget: int) -> list[list[Sequence]]:
    """Sequences as long as the longest row, filled best fit from the longest row down, as many as the budget holds.

    Sequences with the same room wait on one stack, and the rooms that there are are the bits of a number.
    """
    longest = int(ascending[-1])
    sequences: list[list[int]] = []
    stacks: dict[int, list[int]] = {}
    rooms = 0
    for place in range(len(ascending) - 1, -1, -1):
        size = int(ascending[place])
        if fitting := rooms >> size:
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = stacks[room].pop()
            if not stacks[room]:
                rooms &= ~(1 << room)
        else:
            room, chosen = longest, len(sequences)
            sequences.append([])
        sequences[chosen].append(place)
        stacks.setdefault(room - size, []).append(chosen)
        rooms |= 1 << (room - size)
    at_once = max(1, budget // longest)
    return [[tuple(each) for each in sequences[i : i + at_once]] for i in range(0, len(sequences), at_once)]


class Named:
    """The dataset that a DataLoader asks for single sequences: it gives back their names, the collator reads them."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, sequence: Sequence) -> Sequence:
        return sequence


class Collator:
    """Sequences of rows as the tensors that a model gets, padded on the right."""

    def __init__(self, dataset: Dataset, *, pad: int, mask: bool, packs: bool) -> None:
        self._rows = dataset.with_format("arrow")
        self._pad, self._mask, self._packs = pad, mask, packs

    def __call__(self, batch: list[Sequence]) -> dict[str, Any]:
        """`input_ids`, `labels`, `attention_mask` or `position_ids` where asked for, and how many `tokens` there are.

        The first label of each row is left out: nothing of its own row comes before it. No sequences are one token
        that is not trained.
        """
        import numpy
        import torch

        rows = iter(self._read([row for sequence in batch for row in sequence]) if batch else [])
        sequences = [[next(rows) for _ in sequence] for sequence in batch]
        sizes = [sum(len(ids) for ids, _ in sequence) for sequence in sequences]
        shape = (max(1, len(sizes)), max(sizes, default=1))
        ids, labels = numpy.full(shape, self._pad, dtype=numpy.int64), numpy.full(shape, IGNORED, dtype=numpy.int64)
        positions = numpy.zeros(shape, dtype=numpy.int64)
        for line, sequence in enumerate(sequences):
            begin = 0
            for tokens, trained in sequence:
                end = begin + len(tokens)
                ids[line, begin:end] = tokens
                labels[line, begin:end] = numpy.where(trained, tokens, IGNORED)
                labels[line, begin] = IGNORED
                positions[line, begin:end] = numpy.arange(len(tokens))
                begin = end
            positions[line, begin:] = numpy.arange(shape[1] - begin)
        made: dict[str, Any] = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        if self._packs:
            made["position_ids"] = torch.from_numpy(positions)
        elif self._mask:
            ends = numpy.array(sizes or [1])[:, None]
            made["attention_mask"] = torch.from_numpy(numpy.arange(shape[1]) < ends).long()
        return made | {"tokens": sum(sizes)}

    def _read(self, rows: list[int]) -> list[tuple[Any, Any]]:
        """Ids and what is trained of them, row by row."""
        table = self._rows[rows]
        columns = []
        for name in ("input_ids", "trained"):
            lists = table.column(name).combine_chunks()
            offsets = lists.offsets.to_numpy().tolist()
            values = lists.values.to_numpy(zero_copy_only=False)
            columns.append([values[begin:end] for begin, end in pairwise(offsets)])
        return list(zip(*columns, strict=True))
