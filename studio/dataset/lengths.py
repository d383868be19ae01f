"""What a dataset is in tokens, under the chat template of the model: how long its rows are, and what stands out."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import ceil
from threading import Event
from typing import TYPE_CHECKING, Any

from studio.dataset.colliding import Collision, Spellings
from studio.dataset.conversing import Completion, Example, Passage, as_conversation, as_turns
from studio.dataset.counting import Counter
from studio.dataset.formats import ColumnMapping, texts_of
from studio.dataset.rows import Rows
from studio.dataset.stopping import Stopped
from studio.errors import InputError
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat
from studio.tokenizer import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAILED = -1
"""The length of a row that could not be read."""
PERCENTILES = (50, 90, 95, 99, 100)
_EXAMPLES = 10
_BEGINNING = 200
_BINS = 24
_BEAT_SECONDS = 0.1
_CHUNK_CHARS = 100_000  # some 30 ms of counting, so that Stop is heard
_CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows that have at least `start` tokens and fewer than `end`; the last bin has no end."""

    start: int
    end: int | None
    rows: int


@dataclass(frozen=True, slots=True)
class LongRow:
    """One of the longest rows, and how it begins."""

    row: int
    place: str
    tokens: int
    beginning: str


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that could not be read, and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lengths:
    """A dataset in tokens."""

    lengths: array[int]
    """Tokens by the index of the row; FAILED for one that could not be read. Four bytes a row."""
    rows: int
    tokens: int
    """Of all rows that could be read."""
    percentiles: tuple[tuple[int, int], ...]
    """(95, 812): 95 % of the rows have at most 812 tokens. 100 is the longest."""
    histogram: tuple[Bin, ...]
    longest: tuple[LongRow, ...]
    failed: int
    failures: tuple[FailedRow, ...]
    """The first of them."""
    colliding: int
    """Rows in whose text a special token is spelled out, and would be read as one."""
    collisions: tuple[Collision, ...]
    """The first of them."""


def measure(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, mapping: ColumnMapping
) -> Generator[Progress | Finished[Lengths], None, None]:
    """Count the tokens of every row as the model would read it. Ends with `Finished(Lengths)`.

    A row that cannot be read is listed, not raised. Closing stops within 0.3 seconds. Raises InputError where a column
    of the mapping is not there, or no row can be read.
    """
    mapping.check(rows.columns)
    total, last = rows.count, 0

    def tell(said: list[int]) -> list[Progress]:
        nonlocal last
        last = said[-1] if said else last
        return [Progress(Phase.COUNT, last, total)]

    def work(say: Callable[[int], None], stop: Event) -> Lengths:
        return _Measuring(rows, tokenizer, mapping, say, stop).result()

    yield Progress(Phase.COUNT, 0, total)
    yield Finished((yield from heartbeat(work, tell, every=_BEAT_SECONDS)))


def as_text(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    """What the model reads of an example: by its chat template, or one text after the other where it has none."""
    if isinstance(example, Passage):
        return example.text
    messages = as_turns(example)
    if tokenizer.chat_template:
        return render(tokenizer, messages, tools=example.tools, generation_prompt=False)
    between = "" if isinstance(example, Completion) else "\n"
    return between.join(message.content for message in messages)


def percentiles(held: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(95, 812): 95 % of these lengths, which ascend, are at most 812. 100 is the longest."""
    return tuple((share, held[ceil(share * len(held) / 100) - 1]) for share in PERCENTILES)


class _Measuring:
    """The work, on its thread."""

    def __init__(
        self,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        mapping: ColumnMapping,
        say: Callable[[int], None],
        stop: Event,
    ) -> None:
        self._rows, self._tokenizer, self._mapping = rows, tokenizer, mapping
        self._say, self._stop = say, stop
        self._count = Counter(tokenizer, stop)
        self._spellings = Spellings(tokenizer)
        self._lengths = array("i")
        self._longest: list[tuple[int, int, str]] = []
        self._failures: list[FailedRow] = []
        self._collisions: list[Collision] = []
        self._failed = self._colliding = 0

    def result(self) -> Lengths:
        waiting: list[tuple[int, str, bool]] = []
        chars = 0
        for start, batch in self._rows.batches(self._mapping.used):
            for index, row in enumerate(batch, start=start):
                if self._stop.is_set():
                    raise Stopped
                self._lengths.append(FAILED)
                if (read := self._read(index, row)) is not None:
                    waiting.append((index, *read))
                    chars += len(read[0])
                if len(waiting) >= _CHUNK_ROWS or chars > _CHUNK_CHARS:
                    self._take(waiting)
                    waiting, chars = [], 0
            self._say(start + len(batch))
        self._take(waiting)
        return self._summary()

    def _read(self, index: int, row: dict[str, Any]) -> tuple[str, bool] | None:
        """A row as text, and whether the tokenizer puts its own special tokens around it."""
        place = self._rows.place(index)
        try:
            example = as_conversation(row, self._mapping, place=place)
            text = as_text(self._tokenizer, example)
        except InputError as error:
            self._failed += 1
            if len(self._failures) < _EXAMPLES:
                self._failures.append(FailedRow(index, error.message))
            return None
        found = self._spellings.find(index, place, texts_of(row, self._mapping))
        if found is not None:
            self._colliding += 1
            if len(self._collisions) < _EXAMPLES:
                self._collisions.append(found)
        return text, isinstance(example, Passage) or not self._tokenizer.chat_template

    def _take(self, waiting: Sequence[tuple[int, str, bool]]) -> None:
        """Count some rows together."""
        for special in (False, True):
            chosen = [(index, text) for index, text, wants in waiting if wants == special]
            counts = self._count([text for _, text in chosen], special_tokens=special)
            for (index, text), tokens in zip(chosen, counts, strict=True):
                self._lengths[index] = tokens
                # Of rows that are equally long the first is kept.
                entry = (tokens, -index, text[:_BEGINNING])
                keep = heapq.heappush if len(self._longest) < _EXAMPLES else heapq.heappushpop
                keep(self._longest, entry)

    def _summary(self) -> Lengths:
        held = sorted(length for length in self._lengths if length != FAILED)
        if not held:
            raise InputError(
                f"No row of {self._rows.name} can be read: {self._failures[0].reason}",
                "Choose other columns, or correct the rows.",
            )
        return Lengths(
            lengths=self._lengths,
            rows=len(self._lengths),
            tokens=sum(held),
            percentiles=percentiles(held),
            histogram=_histogram(held),
            longest=tuple(
                LongRow(-index, self._rows.place(-index), tokens, beginning)
                for tokens, index, beginning in sorted(self._longest, reverse=True)
            ),
            failed=self._failed,
            failures=tuple(self._failures),
            colliding=self._colliding,
            collisions=tuple(self._collisions),
        )


def _histogram(held: Sequence[int]) -> tuple[Bin, ...]:
    """Bins of a round width up to where 99 % of the rows are, and one for the few that are longer."""
    reach = held[ceil(0.99 * len(held)) - 1] + 1
    width = next(step * 10**power for power in range(12) for step in (1, 2, 5) if step * 10**power * _BINS >= reach)
    edge = ceil(reach / width) * width
    rows = [0] * (edge // width)
    beyond = 0
    for length in held:
        if length < edge:
            rows[length // width] += 1
        else:
            beyond += 1
    bins = [Bin(number * width, (number + 1) * width, count) for number, count in enumerate(rows)]
    return (*bins, Bin(edge, None, beyond)) if beyond else tuple(bins)
