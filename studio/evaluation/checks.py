"""What a dataset declares of how to measure whether it was learnt: data alone, and no code.

`checks.json` beside the rows holds {"checks": [...]}. The fields of a check:

    name       what a person reads
    kind       marks: a pattern has to be found; words: the words of the question have to come back;
               exact: the reply has to be the answer
    questions  a file of JSON Lines in the same folder, each row with prompt or messages, and with what the kind needs:
               completion, or a list of words. Without it the held-out rows of the run are the questions
    tells      learnt, which is what it is without it, or kept: what the model could do before and should not forget
    pattern    for marks: a regular expression, in which upper and lower case are the same
    least      for marks: how many different marks a reply has to hold; 1
    share      for words: which share of the words has to come back; 1
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from studio.dataset import ColumnMapping, Conversation, Format, as_conversation
from studio.errors import InputError
from studio.tokenizer import Message

MOST_CHECKS, MOST_QUESTIONS, MOST_WORDS = 20, 10_000, 200
MOST_BYTES = 10_000_000
"""Of `checks.json` and of a file of questions."""
MOST_CHARACTERS = {"name": 60, "pattern": 1000}
PATTERN_SECONDS = 0.2
"""How long a pattern may search one reply; a real one takes microseconds."""
Tells = Literal["learnt", "kept"]
_TURNS = ColumnMapping(Format.MESSAGES, (("messages", "messages"),))


class Kind(StrEnum):
    """What makes a reply a good one."""

    MARKS = "marks"
    """A pattern is found in it, with so many different marks."""
    WORDS = "words"
    """A share of the words of the question comes back."""
    EXACT = "exact"
    """It is the answer, to the letter."""


_FIELDS: dict[Kind, tuple[str, ...]] = {Kind.MARKS: ("pattern", "least"), Kind.WORDS: ("share",), Kind.EXACT: ()}


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked, and what the reply is held against."""

    messages: tuple[Message, ...]
    answer: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One figure: the share of the replies that are good."""

    name: str
    kind: Kind
    questions: tuple[Question, ...] | None = None
    """None takes the held-out rows."""
    tells: Tells = "learnt"
    pattern: str = ""
    least: int = 1
    share: float = 1.0

    def passes(self, reply: str, answer: str = "", words: tuple[str, ...] = ()) -> bool:
        """Whether a reply is good. Raises TimeoutError where the pattern takes too long."""
        match self.kind:
            case Kind.EXACT:
                return reply == answer
            case Kind.WORDS:
                text = reply.lower()
                return sum(word.lower() in text for word in words) >= self.share * len(words)
            case Kind.MARKS:
                return len(self._marks(reply)) >= self.least

    def _marks(self, reply: str) -> set[str]:
        """The different texts that the pattern is found as. Python's re cannot be stopped inside of a match."""
        import regex

        found = regex.finditer(self.pattern, reply, flags=regex.IGNORECASE, timeout=PATTERN_SECONDS)
        return {match[0].lower() for match in found}


def read_checks(folder: Path) -> tuple[Check, ...]:
    """The checks of a dataset in a folder; none where it declares none. Raises InputError that names the field."""
    file = folder / "checks.json"
    if not file.is_file():
        return ()
    try:
        content = json.loads(_text(file, file.name))
    except (ValueError, RecursionError) as error:
        raise InputError(f"checks.json is no JSON: {error}", "Correct it, or take the file away.") from error
    listed = content.get("checks") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed or len(listed) > MOST_CHECKS:
        raise InputError(
            "checks.json has no list of checks, or too long a one.",
            f'Write {{"checks": [...]}} with 1 to {MOST_CHECKS} of them.',
        )
    checks = tuple(_check(folder, entry, f"checks.json, check {number}") for number, entry in enumerate(listed, 1))
    for number, check in enumerate(checks, 1):
        if check.name in [other.name for other in checks[: number - 1]]:
            raise InputError(
                f"checks.json, check {number}: there is another one with the name {check.name!r}.", "Rename it."
            )
    return checks


def _check(folder: Path, entry: Any, place: str) -> Check:
    if not isinstance(entry, dict):
        raise InputError(f"{place} is no object.", 'Write {"name": ..., "kind": ...}.')
    kind = Kind(_one_of(entry, "kind", tuple(Kind), place))
    known = ("name", "kind", "questions", "tells", *_FIELDS[kind])
    if strange := [field for field in entry if field not in known]:
        raise InputError(
            f"{place}: there is no field {strange[0]!r} for the kind {kind}.", f"The fields are {', '.join(known)}."
        )
    check = Check(
        name=_written(entry, "name", place),
        kind=kind,
        questions=_questions(folder, _written(entry, "questions", place), kind) if "questions" in entry else None,
        tells=_one_of({"tells": "learnt", **entry}, "tells", get_args(Tells), place),
        pattern=_pattern(entry, place) if kind is Kind.MARKS else "",
        least=int(_number(entry, "least", place, (1, 1000), whole=True)),
        share=_number(entry, "share", place, (0.01, 1), whole=False),
    )
    if kind is Kind.WORDS and check.questions is None:
        raise InputError(f"{place}: questions is missing.", "The words of each question stand in a file of their own.")
    return check


def _pattern(entry: Mapping[str, Any], place: str) -> str:
    import regex

    pattern = _written(entry, "pattern", place)
    try:
        found = regex.compile(pattern, flags=regex.IGNORECASE)
    except (regex.error, OverflowError, RecursionError) as error:
        raise InputError(f"{place}: pattern is no regular expression: {error}", "Correct it.") from error
    if found.search("", timeout=PATTERN_SECONDS):
        raise InputError(f"{place}: pattern is found in an empty reply.", "Write one that every mark is some text of.")
    return pattern


def _questions(folder: Path, name: str, kind: Kind) -> tuple[Question, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or path.suffix != ".jsonl":
        raise InputError(
            f"checks.json: questions is {name!r}.", "Name a file that ends in .jsonl and is in the folder itself."
        )
    file = folder / path
    if not file.is_file():
        raise InputError(f"checks.json: questions is {name!r}, and there is no such file.", "Check the spelling.")
    lines = _text(file, name).splitlines()
    if not lines or len(lines) > MOST_QUESTIONS:
        raise InputError(f"{name} has {len(lines):,} questions.", f"Write 1 to {MOST_QUESTIONS:,} of them.")
    return tuple(_question(line, kind, f"{name}, row {number}") for number, line in enumerate(lines, 1))


def _question(line: str, kind: Kind, place: str) -> Question:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no JSON: {error}", "Write one object a line.") from error
    if not isinstance(row, dict):
        raise InputError(f"{place} is no object.", 'Write {"prompt": ...}.')
    if "messages" in row:
        example = as_conversation(row, _TURNS, place=place)
        assert isinstance(example, Conversation)
        said = example.messages[-1]
        turns, answer = (example.messages[:-1], said.content) if said.role == "assistant" else (example.messages, "")
    else:
        turns, answer = (Message("user", _written(row, "prompt", place)),), row.get("completion", "")
    words = row.get("words", [])
    if kind is Kind.WORDS and (
        not isinstance(words, list)
        or not 0 < len(words) <= MOST_WORDS
        or not all(isinstance(word, str) and word for word in words)
    ):
        raise InputError(f"{place}: words is {words!r:.60}.", f"Write a list of 1 to {MOST_WORDS} words.")
    if kind is Kind.EXACT and (not isinstance(answer, str) or not answer):
        raise InputError(f"{place}: completion is {answer!r:.60}.", "Write the answer that the reply has to be.")
    return Question(turns, answer, tuple(words) if kind is Kind.WORDS else ())


def _text(file: Path, name: str) -> str:
    if file.stat().st_size > MOST_BYTES:
        raise InputError(f"{name} has more than {MOST_BYTES:,} bytes.", "Shorten it.")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not written in UTF-8.", "Save it as UTF-8.") from error


def _written(entry: Mapping[str, Any], field: str, place: str) -> str:
    """Text that has to be there."""
    value, most = entry.get(field), MOST_CHARACTERS.get(field, MOST_BYTES)
    if not isinstance(value, str) or not value.strip() or len(value) > most:
        raise InputError(
            f"{place}: {field} is {value!r:.60}." if field in entry else f"{place}: {field} is missing.",
            f"Write some text of at most {most:,} characters.",
        )
    return value


def _one_of(entry: Mapping[str, Any], field: str, choices: tuple[Any, ...], place: str) -> Any:
    value = entry.get(field)
    if value not in choices:
        raise InputError(f"{place}: {field} is {value!r:.60}.", f"Choose one of {', '.join(choices)}.")
    return value


def _number(entry: Mapping[str, Any], field: str, place: str, bounds: tuple[float, float], *, whole: bool) -> float:
    value = entry.get(field, 1)
    kind = int if whole else int | float
    if not isinstance(value, kind) or isinstance(value, bool) or not bounds[0] <= value <= bounds[1]:
        said = "a whole number" if whole else "a number"
        raise InputError(f"{place}: {field} is {value!r:.60}.", f"Choose {said} from {bounds[0]} to {bounds[1]}.")
    return value
