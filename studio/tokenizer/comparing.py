"""Several tokenizers on the same texts: how many tokens each needs, for what, how fast, and what they share."""

from __future__ import annotations

import re
import statistics
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from studio.errors import InputError
from studio.events import Finished, Phase, Progress
from studio.tokenizer.reading import encode
from studio.tokenizer.samples import Sample
from studio.tokenizer.surface import less_than_a_character, surfaces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST = 4
REPEATS = 5
TIMED_CHARACTERS = 50_000
"""What the speed is measured on. A tokenizer in Python needs 0.1 to 0.3 seconds for it."""
_BEAT_SECONDS = 0.1
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the tokenizers."""

    name: str
    vocabulary: int
    rust: bool
    """Whether it has a Rust backend; without one it runs in Python."""
    seconds_per_megabyte: float
    """Measured here, one text after another: the median of repeats in which the tokenizers take turns."""
    begin: str | None
    end: str | None
    pad: str | None
    unknown: str | None
    more: int
    """Special tokens beside these four."""
    template: bool
    """Whether it has a chat template."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one tokenizer made of a sample, without special tokens; a ratio is None where it would divide by zero."""

    tokens: int
    tokens_per_word: float | None
    """Words are runs of what is not white space, so this says nothing in Chinese, Japanese and Thai."""
    bytes_per_token: float | None
    characters_per_token: float | None
    unknown: int
    byte_tokens: int
    """Tokens that are less than a character: stand-ins for bytes, or pieces of a character."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sample, and what each tokenizer made of it, in their order."""

    sample: str
    words: int
    characters: int
    bytes: int
    counts: tuple[Counts, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """The tokens that two vocabularies share, by the text they stand for; special tokens are not counted."""

    first: str
    second: str
    shared: int
    of_first: float
    """Share of the first vocabulary that the second has too."""
    of_second: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact in which the tokenizers differ, and its value for each, in their order."""

    fact: str
    values: tuple[str | bool | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tokenizers beside each other."""

    tokenizers: tuple[Contender, ...]
    rows: tuple[Row, ...]
    overlaps: tuple[Overlap, ...]
    differences: tuple[Difference, ...]
    """In special tokens and chat template; empty where they agree."""
    repeats: int
    timed_bytes: int
    """Of text that the speed was measured on."""


def compare(
    tokenizers: Mapping[str, PreTrainedTokenizerBase], samples: Sequence[Sample]
) -> Generator[Progress | Finished[Comparison], None, None]:
    """Hold up to four tokenizers, by name, against each other on the same samples.

    Can be closed between two texts. Raises InputError for too many tokenizers and for samples without text.
    """
    _check(tokenizers, samples)
    timed = _timed_texts(samples)
    timed_bytes = _bytes(timed)
    walk = _Walk(len(tokenizers) * (sum(_bytes(sample.texts) for sample in samples) + REPEATS * timed_bytes))
    yield walk.progress
    parts = {}
    known = {}
    for name, tokenizer in tokenizers.items():
        parts[name] = less_than_a_character(tokenizer)
        known[name] = set(surfaces(tokenizer).values())
        yield walk.progress
    rows = []
    for sample in samples:
        counts = []
        for name, tokenizer in tokenizers.items():
            counts.append((yield from walk.count(tokenizer, sample, parts[name])))
        rows.append(Row(sample.name, *_measures(sample), tuple(counts)))
    seconds = yield from walk.time(tokenizers, timed)
    contenders = tuple(
        _contender(name, tokenizer, seconds[name] / timed_bytes * 1e6) for name, tokenizer in tokenizers.items()
    )
    yield Finished(
        Comparison(
            tokenizers=contenders,
            rows=tuple(rows),
            overlaps=tuple(_overlap(pair, known) for pair in combinations(tokenizers, 2)),
            differences=tuple(_differences(contenders)),
            repeats=REPEATS,
            timed_bytes=timed_bytes,
        )
    )


def _check(tokenizers: Mapping[str, PreTrainedTokenizerBase], samples: Sequence[Sample]) -> None:
    if not 1 <= len(tokenizers) <= MOST:
        raise InputError(f"{len(tokenizers)} tokenizers cannot be compared.", f"Choose from one to {MOST}.")
    for sample in samples:
        if any(_LONE_SURROGATE.search(text) for text in sample.texts):
            raise InputError(f"{sample.name} holds bytes that are not text.", "Type it anew, or save it as UTF-8.")
    if not any(text for sample in samples for text in sample.texts):
        raise InputError("There is no text to compare on.", "Type some, or choose the samples.")


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _measures(sample: Sample) -> tuple[int, int, int]:
    words = sum(len(text.split()) for text in sample.texts)
    return words, sum(len(text) for text in sample.texts), _bytes(sample.texts)


def _timed_texts(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The first texts, up to TIMED_CHARACTERS of them in all."""
    chosen = []
    room = TIMED_CHARACTERS
    for text in (text for sample in samples for text in sample.texts):
        if room > 0 and text:
            chosen.append(text[:room])
            room -= len(text)
    return tuple(chosen)


class _Walk:
    """The texts that were read so far, out of all that will be."""

    def __init__(self, total: int) -> None:
        self.progress = Progress(Phase.COMPARE, 0, total)
        self.beat = monotonic()

    def _step(self, text: str) -> Iterator[Progress]:
        self.progress = Progress(Phase.COMPARE, self.progress.done + len(text.encode()), self.progress.total)
        if monotonic() > self.beat + _BEAT_SECONDS:
            self.beat = monotonic()
            yield self.progress

    def count(
        self, tokenizer: PreTrainedTokenizerBase, sample: Sample, parts: frozenset[int]
    ) -> Generator[Progress, None, Counts]:
        """How many tokens a sample is."""
        tokens = unknown = bytes_ = 0
        for text in sample.texts:
            ids = encode(tokenizer, text, special_tokens=False)
            tokens += len(ids)
            unknown += 0 if tokenizer.unk_token_id is None else ids.count(tokenizer.unk_token_id)
            bytes_ += sum(number in parts for number in ids)
            yield from self._step(text)
        words, characters, size = _measures(sample)
        return Counts(
            tokens=tokens,
            tokens_per_word=tokens / words if words else None,
            bytes_per_token=size / tokens if tokens else None,
            characters_per_token=characters / tokens if tokens else None,
            unknown=unknown,
            byte_tokens=bytes_,
        )

    def time(
        self, tokenizers: Mapping[str, PreTrainedTokenizerBase], texts: Sequence[str]
    ) -> Generator[Progress, None, dict[str, float]]:
        """Median seconds for all texts. The tokenizers take turns, so that whatever else runs hits all of them."""
        seconds: dict[str, list[float]] = {name: [] for name in tokenizers}
        for _ in range(REPEATS):
            for name, tokenizer in tokenizers.items():
                spent = 0.0
                for text in texts:
                    begin = perf_counter()
                    encode(tokenizer, text, special_tokens=False)
                    spent += perf_counter() - begin
                    yield from self._step(text)
                seconds[name].append(spent)
        return {name: statistics.median(each) for name, each in seconds.items()}


def _contender(name: str, tokenizer: PreTrainedTokenizerBase, seconds_per_megabyte: float) -> Contender:
    named = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    begin, end, pad, unknown = (None if token is None else str(token) for token in named)
    return Contender(
        name=name,
        vocabulary=len(tokenizer),
        rust=bool(tokenizer.is_fast),
        seconds_per_megabyte=seconds_per_megabyte,
        begin=begin,
        end=end,
        pad=pad,
        unknown=unknown,
        more=len(set(tokenizer.all_special_tokens) - {begin, end, pad, unknown}),
        template=bool(tokenizer.chat_template),
    )


def _overlap(pair: tuple[str, str], known: dict[str, set[bytes]]) -> Overlap:
    first, second = pair
    shared = len(known[first] & known[second])
    return Overlap(first, second, shared, shared / max(1, len(known[first])), shared / max(1, len(known[second])))


def _differences(contenders: Sequence[Contender]) -> Iterator[Difference]:
    for fact in ("begin", "end", "pad", "unknown", "template"):
        values = tuple(getattr(contender, fact) for contender in contenders)
        if len(set(values)) > 1:
            yield Difference(fact, values)
