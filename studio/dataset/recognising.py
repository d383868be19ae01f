"""What the rows of a dataset are meant as, told from their columns and from what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from studio.dataset.conversing import as_conversation
from studio.dataset.formats import ColumnMapping, Format, turns_in
from studio.dataset.rows import Rows
from studio.errors import InputError

_SAMPLE = 100
_PAIRS = (
    *(("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response")),
    *(("question", "response"), ("input", "output"), ("problem", "solution")),
    *(("prompt", "answer"), ("user", "assistant"), ("question", "output"), ("query", "answer"), ("source", "target")),
)
_INPUTS = ("input", "context")
_OUTPUTS = ("output", "response", "answer")
_TEXTS = ("text", "content", "document", "body", "story")


@dataclass(frozen=True, slots=True)
class Recognition:
    """A format with its columns, how sure that is from 0 to 1, and what it was told from."""

    mapping: ColumnMapping
    confidence: float
    why: str


@dataclass(frozen=True, slots=True)
class _Guess:
    mapping: ColumnMapping
    sure: float
    why: str


def recognise(rows: Rows) -> Recognition:
    """What the rows are meant as; a hundred of them, from all over, are looked at.

    Raises InputError where nothing fits: then a person has to say which column is what.
    """
    data = rows.open()
    sample = [data[index * rows.count // _SAMPLE] for index in range(_SAMPLE)] if rows.count > _SAMPLE else list(data)
    best: Recognition | None = None
    for guess in _guesses(rows.columns, sample):
        fits = sum(_reads(row, guess.mapping) for row in sample)
        said = f"{guess.why}; {fits} of {len(sample)} rows that were looked at can be read so."
        found = Recognition(guess.mapping, guess.sure * fits / len(sample), said)
        if best is None or found.confidence > best.confidence:
            best = found
    if best is None:
        raise InputError(
            f"What the rows of {rows.name} are meant as is not clear: the columns are {', '.join(rows.columns)}.",
            "Say which column is the prompt and which the answer, or which holds the text.",
        )
    return best


def _reads(row: dict[str, Any], mapping: ColumnMapping) -> bool:
    try:
        as_conversation(row, mapping)
    except InputError:
        return False
    return True


def _guesses(columns: Sequence[str], sample: list[dict[str, Any]]) -> Iterator[_Guess]:
    """What it may be, the surest first; of equals the first is taken."""
    named = {column.lower(): column for column in reversed(columns)}
    tools = {"tools": named["tools"]} if "tools" in named else {}
    system = {part: named[name] for part, name in (("system", "system"),) if name in named}
    if "chosen" in named and "rejected" in named:
        prompt = {"prompt": named["prompt"]} if "prompt" in named else {}
        yield _guess(Format.PREFERENCE, 1.0, chosen=named["chosen"], rejected=named["rejected"], **prompt)
    yield from _conversations(columns, sample, tools, system)
    output = next((named[name] for name in _OUTPUTS if name in named), None)
    if "instruction" in named and output:
        given = next(({"input": named[name]} for name in _INPUTS if name in named), {})
        yield _guess(Format.ALPACA, 1.0, instruction=named["instruction"], output=output, **given, **system)
    for prompt_name, completion_name in _PAIRS:
        if prompt_name in named and completion_name in named:
            sure = 1.0 if completion_name == "completion" else 0.8
            pair = {"prompt": named[prompt_name], "completion": named[completion_name]}
            yield _guess(Format.PROMPT_COMPLETION, sure, **pair, **tools, **system)
    yield from _texts(named, columns, sample)


def _conversations(
    columns: Sequence[str], sample: list[dict[str, Any]], tools: dict[str, str], system: dict[str, str]
) -> Iterator[_Guess]:
    for column in columns:
        sure = 1.0 if column.lower() in ("messages", "conversations", "conversation") else 0.7
        turns = [turn for row in sample for turn in turns_in(row.get(column)) or () if isinstance(turn, dict)]
        if turns and column.lower() not in ("tools", "prompt", "completion", "chosen", "rejected"):
            if any("from" in turn for turn in turns):
                yield _guess(Format.SHAREGPT, sure, conversations=column, **tools, **system)
            elif any("role" in turn for turn in turns):
                yield _guess(Format.MESSAGES, sure, messages=column, **tools)


def _texts(named: dict[str, str], columns: Sequence[str], sample: list[dict[str, Any]]) -> Iterator[_Guess]:
    for name in _TEXTS:
        if name in named:
            yield _guess(Format.TEXT, 0.9 if name == "text" else 0.6, text=named[name])
    texts = [column for column in columns if any(isinstance(row.get(column), str) for row in sample)]
    if len(texts) == 1 and not any(turns_in(row.get(texts[0])) for row in sample):
        yield _Guess(
            ColumnMapping.of(Format.TEXT, text=texts[0]), 0.5, f"{texts[0]!r} is the only column that holds text"
        )


def _guess(format_: Format, sure: float, **columns: str) -> _Guess:
    parts = [f"{column!r} as {part}" if column != part else f"{column!r}" for part, column in columns.items()]
    return _Guess(ColumnMapping.of(format_, **columns), sure, f"There is {' and '.join(parts)}")
