"""How rows become examples to learn from, and what was made of them: tokens on the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from studio import fields

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True)
class Preparation:
    """How rows are made into examples. The form, the command line and the saved file read these fields."""

    trained: str = field(
        default="assistant",
        metadata={
            "help": "What is learnt: all replies, the last one, or every token",
            "choices": ("assistant", "last", "all"),
        },
    )
    limit: int = field(
        default=1024,
        metadata={"help": "Longest example in tokens; the rest of a row is cut off", "min": 8, "max": 1_048_576},
    )
    too_long: str = field(default="cut", metadata={"help": "What becomes of a longer row", "choices": ("cut", "drop")})
    held_out: float = field(
        default=0.05,
        metadata={"help": "Share of the rows to measure with and not to learn from", "min": 0.0, "max": 0.9},
    )
    most_rows: int = field(
        default=0,
        metadata={
            "help": "Rows that are used at most, the first; 0 is all. Of the Hub whole files are fetched all the same",
            "min": 0,
            "max": 2**31 - 1,
        },
    )
    seed: int = field(default=0, metadata={"help": "Decides which rows are held out", "min": 0, "max": 2**31 - 1})

    def __post_init__(self) -> None:
        fields.check(self)


@dataclass(frozen=True, slots=True)
class Examples:
    """Tokens to learn from, in an Arrow file that is mapped into memory. Picklable; `open` costs milliseconds."""

    file: Path
    count: int
    tokens: int
    trained: int
    """Tokens that are learnt, of these."""
    longest: int

    def open(self) -> Dataset:
        """Columns: `input_ids` int32 list, `trained` bool list of the same length, `length` int32, `row` int32.

        `row` counts the rows of the first source from 0 and goes on with those of the next.
        """
        from datasets import Dataset

        return Dataset.from_file(str(self.file))


@dataclass(frozen=True, slots=True)
class Dropped:
    """Rows that are left out for one reason."""

    reason: str
    rows: int
    places: tuple[str, ...]
    """Where the first of them are: file and row."""
    example: str
    """What is wrong with the first one, in a sentence."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was made of the rows."""

    learn: Examples
    held_out: Examples | None
    rows: int
    """That were looked at."""
    dropped: tuple[Dropped, ...]
    cut: int
    """Rows that were too long and are cut at the limit."""
    lost: int
    """Tokens that were cut off."""
    endless: int
    """Examples whose replies do not end with a trained end-of-turn token."""
    percentiles: tuple[tuple[int, int], ...]
    """(95, 812): 95 % of the examples have at most 812 tokens. 100 is the longest."""
    packing: float
    """Share of the padded tokens of a batch of eight that packing would save; 0 where it saves nothing."""
    fingerprint: str
    """SHA-256 over rows, mapping, tokenizer, template and preparation: two that are equal are the same examples."""
