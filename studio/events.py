"""What slow work says while it runs. Frozen, picklable, and free of any formatting: each face words it its own way."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Phase(StrEnum):
    """What a job is doing, in the order in which a job does it."""

    RESOLVE = "resolve"  # asking the Hub which files there are
    DOWNLOAD = "download"  # counted in bytes
    OPEN = "open"  # reading a tokenizer
    CONVERT = "convert"  # pickles into safetensors, counted in bytes of the pickles
    WARM_UP = "warm up"  # importing PyTorch and Transformers, once after a start
    MAKE_ROOM = "make room"  # letting go of the model that was there before
    READ = "read"  # weights from disk into memory, counted in tensors
    QUANTIZE = "quantize"  # the same, and quantized on the way
    CHECK = "check"  # looking for weights that are no numbers, counted in tensors
    RENDER = "render"  # a conversation by its chat template; nothing to count
    SEARCH = "search"  # a vocabulary; nothing to count
    READ_ROWS = "read rows"  # of a dataset, counted in bytes of its files
    COUNT = "count"  # how many tokens the rows of a dataset have, counted in rows
    PREPARE = "prepare"  # rows into examples to learn from, counted in rows
    EXPORT = "export"  # a model into a GGUF file, counted in its bytes
    FACTOR = "factor"  # updates of an adapter into their singular values, counted in modules
    MERGE = "merge"  # an adapter into its base, counted in bytes written
    SAVE = "save"  # weights from memory into a folder, counted in files
    MEASURE = "measure"  # how well a model reads a text, counted in tokens
    ASK = "ask"  # questions that a model answers, many at once, counted in answers
    GATHER = "gather"  # texts for a tokenizer, counted in bytes
    COUNT_WORDS = "count words"  # of these texts, counted in bytes
    LEARN = "learn"  # the vocabulary out of these words; nothing to count
    COMPARE = "compare"  # tokenizers on the same texts, counted in bytes
    TRAIN = "train"  # a model, counted in optimizer steps
    REHEARSE = "rehearse"  # a step carried out on tensors without content, counted in its phases
    ATTACH = "attach"  # an adapter onto a model in memory; nothing to count
    PREFILL = "prefill"  # the model reads the prompt, counted in layers
    HASH = "hash"  # files before they are uploaded, counted in bytes
    UPLOAD = "upload"  # counted in bytes of the large files
    COMPARE_FILES = "compare files"  # what the Hub has with what is here, counted in files
    DECODE = "decode"  # the model writes and cannot show its text yet, counted in tokens


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase has come: `done` of `total`, in the unit of the phase; `total` is None while unknown."""

    phase: Phase
    done: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Somebody else has the model: `ahead` jobs come first; the running one has been `busy_with` for `seconds`."""

    ahead: int
    busy_with: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Retrying:
    """Something failed that may work in a while: it is tried again after so many seconds."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the reply. `tokens` counts the tokens generated so far, those of this piece included."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Finished(Generic[T]):
    """Always the last event of a job that worked; carries its result."""

    result: T


def outcome(job: Generator[Progress | Finished[T], None, None]) -> Generator[Progress, None, T]:
    """Pass on what a job says and return what it ends with. Closing this closes the job at once."""
    with closing(job):
        for event in job:
            if isinstance(event, Finished):
                return event.result
            yield event
    raise AssertionError("a job ends with Finished or raises")
