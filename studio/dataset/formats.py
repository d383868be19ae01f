"""How the rows of a dataset are meant: the formats that there are, and which columns play which part in one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from studio.errors import InputError


class Format(StrEnum):
    """What a row is."""

    MESSAGES = "messages"
    """A conversation, each turn with role and content."""
    SHAREGPT = "sharegpt"
    """A conversation, each turn with from and value."""
    ALPACA = "alpaca"
    """An instruction, with an input or without, and the output."""
    PROMPT_COMPLETION = "prompt-completion"
    """A prompt and what follows it, both texts or both lists of turns."""
    PREFERENCE = "preference"
    """Two answers, of which one is chosen and one rejected."""
    TEXT = "text"
    """A text by itself."""


REQUIRED = {
    Format.MESSAGES: ("messages",),
    Format.SHAREGPT: ("conversations",),
    Format.ALPACA: ("instruction", "output"),
    Format.PROMPT_COMPLETION: ("prompt", "completion"),
    Format.PREFERENCE: ("chosen", "rejected"),
    Format.TEXT: ("text",),
}
"""The parts that a format cannot do without."""
OPTIONAL = {
    Format.MESSAGES: ("tools",),
    Format.SHAREGPT: ("system", "tools"),
    Format.ALPACA: ("input", "system"),
    Format.PROMPT_COMPLETION: ("system", "tools"),
    Format.PREFERENCE: ("prompt",),
    Format.TEXT: (),
}
"""The parts that it may have besides."""


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """A format, and the column for each of its parts."""

    format: Format
    columns: tuple[tuple[str, str], ...]
    """(part, column), for example ("output", "answer")."""

    def __post_init__(self) -> None:
        parts = [part for part, _ in self.columns]
        known = REQUIRED[self.format] + OPTIONAL[self.format]
        if missing := [part for part in REQUIRED[self.format] if part not in parts]:
            raise InputError(f"{self.format} needs a column for {missing[0]!r}.", "Choose the column that holds it.")
        if other := [part for part in parts if part not in known]:
            raise InputError(f"{self.format} has no part called {other[0]!r}.", f"Its parts are {', '.join(known)}.")

    @classmethod
    def of(cls, format_: Format, **columns: str) -> ColumnMapping:
        """A mapping by hand: ColumnMapping.of(Format.ALPACA, instruction="question", output="answer")."""
        return cls(format_, tuple(columns.items()))

    def column(self, part: str) -> str | None:
        """The column of a part, if it has one."""
        return dict(self.columns).get(part)

    @property
    def used(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        return tuple(dict.fromkeys(column for _, column in self.columns))

    def check(self, columns: Iterable[str]) -> None:
        """Raise InputError where a column is not among these."""
        there = list(columns)
        for part, column in self.columns:
            if column not in there:
                close = get_close_matches(column, there, 1)
                did = f" Did you mean {close[0]!r}?" if close else ""
                raise InputError(
                    f"There is no column {column!r} for {part!r}.", f"The columns are {', '.join(there)}.{did}"
                )


def mapping_of(format_: str, columns: str) -> ColumnMapping | None:
    """A mapping as it is written, `alpaca` and `instruction=question, output=answer`; None where no format is named.

    A part whose column is called like it need not be written. Raises InputError where it is none.
    """
    if not format_:
        if columns.strip():
            raise InputError("Columns are given without a format.", f"Choose one of {', '.join(Format)}.")
        return None
    if format_ not in list(Format):
        raise InputError(f"There is no format {format_!r}.", f"Choose one of {', '.join(Format)}.")
    chosen = {part: part for part in REQUIRED[Format(format_)]}
    for entry in columns.split(","):
        part, equals, column = (word.strip() for word in entry.partition("="))
        if part and not (equals and column):
            raise InputError(f"{entry.strip()!r} does not name a column.", "Write part=column, as prompt=question.")
        if part:
            chosen[part] = column
    return ColumnMapping.of(Format(format_), **chosen)


def turns_in(value: Any) -> list[Any] | None:
    """The list that a column holds, which may be written as JSON text; None where it holds none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def texts_of(row: Mapping[str, Any], mapping: ColumnMapping) -> Iterator[tuple[str, str]]:
    """Every text that somebody wrote in the mapped columns of a row, with its column: what a tokenizer gets to see."""
    for part, column in mapping.columns:
        value = row.get(column)
        if part == "tools":
            continue
        turns = turns_in(value)
        if turns is None:
            if isinstance(value, str):
                yield column, value
            continue
        for turn in turns:
            said = (turn.get("content") or turn.get("value")) if isinstance(turn, dict) else turn
            for piece in said if isinstance(said, list) else [said]:
                text = piece.get("text") if isinstance(piece, dict) else piece
                if isinstance(text, str):
                    yield column, text
