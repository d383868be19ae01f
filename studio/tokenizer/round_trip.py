"""Ids into text, and whether a text survives the way there and back."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from studio.errors import InputError
from studio.tokenizer.pieces import Tokenized, check_text, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Loss = Literal["unknown", "space", "case", "accent", "form", "removed", "added", "changed"]


def parse_ids(text: str) -> tuple[int, ...]:
    """The ids in what somebody typed: `1, 2 3 [4]`. Raises InputError for a word that is no number."""
    check_text(text)
    words = [word for word in re.split(r"[\s,;\[\](){}]+", text) if word]
    for word in words:
        if not re.fullmatch(r"-?[0-9]{1,18}", word):
            shown = word if len(word) <= 30 else f"{word[:30]}…"
            raise InputError(f"{shown!r} is not the id of a token.", "Write whole numbers, such as 1, 2, 3.")
    return tuple(int(word) for word in words)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, special_tokens: bool = True) -> str:
    """The text of some ids, as the tokenizer writes it; without its special tokens unless `special_tokens`.

    Raises InputError for an id that it does not have.
    """
    known: set[int] = set()
    for id in ids:
        if id not in known and not _has(tokenizer, id):
            raise InputError(
                f"There is no token with the id {id}: the vocabulary has {len(tokenizer):,} tokens.",
                f"Ids go from 0 to {len(tokenizer) - 1}. Is this the tokenizer that the ids were made with?",
            )
        known.add(id)
    return str(tokenizer.decode(list(ids), skip_special_tokens=not special_tokens))


def _has(tokenizer: PreTrainedTokenizerBase, id: int) -> bool:
    if not 0 <= id < 2**31:
        return False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Most tokenizers in Python make up a token for any id.
    return id < len(tokenizer) if backend is None else backend.id_to_token(id) is not None


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a text and what became of it part for the first time, in characters, and what kind of loss it is."""

    at: int
    before: str
    after: str
    loss: Loss
    by_normalizer: bool
    """Whether the normalizer did it, before there were tokens."""

    @property
    def words(self) -> str:
        """The loss in one sentence."""
        who = "The normalizer" if self.by_normalizer else "The tokenizer"
        where = f"at character {self.at + 1}"
        first, came = repr(self.before[:1]), repr(self.after[:1])
        return {
            "unknown": f"The vocabulary does not have {first} {where}: it became the token for what is unknown.",
            "space": f"{who} does not keep spaces as they are {where}.",
            "case": f"{who} does not keep upper and lower case: {first} became {came} {where}.",
            "accent": f"{who} drops accents: {first} became {came} {where}.",
            "form": f"{who} writes characters in another Unicode form: {first} became {came} {where}.",
            "removed": f"{who} drops {first} {where}.",
            "added": f"{who} adds {came} {where}.",
            "changed": f"{who} made {self.after[:10]!r} of {self.before[:10]!r} {where}.",
        }[self.loss]


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A text, its ids without special tokens around it, and the text that these ids stand for."""

    ids: tuple[int, ...]
    text: str
    difference: Difference | None
    """The first one; None where the text came back as it was."""


def round_trip(tokenizer: PreTrainedTokenizerBase, text: str) -> RoundTrip:
    """Send a text into ids and back."""
    tokens = tokenize(tokenizer, text, special_tokens=False)
    back = decoded(tokenizer, tokens.ids)
    return RoundTrip(tuple(tokens.ids), back, None if back == text else _difference(tokenizer, tokens, text, back))


def _difference(tokenizer: PreTrainedTokenizerBase, tokens: Tokenized, text: str, back: str) -> Difference:
    at = _parting(text, back)
    before, after = text[at : at + 40], back[at : at + 40]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    by_normalizer = False
    if backend is not None and backend.normalizer is not None:
        normalized = backend.normalizer.normalize_str(text[: at + 40])
        # It did where it parts from the text at the same place, towards the same character.
        by_normalizer = _parting(text, normalized) == at and normalized[at : at + 1] == after[:1]
    loss: Loss = "unknown" if _is_unknown(tokens, at) else _loss(before, after)
    return Difference(at, before, after, loss, by_normalizer)


def _parting(one: str, other: str) -> int:
    """The first position at which two texts differ."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # by halves, because comparing slices is a thousand times faster than a loop
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _is_unknown(tokens: Tokenized, at: int) -> bool:
    """Whether the character at a position belongs to an unknown token."""
    unknown = next((id for id, kind in tokens.kinds.items() if kind == "unknown"), None)
    if unknown is None or not tokens.starts:
        return False
    return any(id == unknown and tokens.starts[index] <= at < tokens.ends[index] for index, id in enumerate(tokens.ids))


def _loss(before: str, after: str) -> Loss:
    """What kind of loss it is where a text goes on with `before` and came back with `after`."""
    first, came = before[:1], after[:1]
    if first.isspace() or came.isspace():
        return "space"
    if first and came and (first.lower().startswith(came) or first.casefold() == came.casefold()):
        return "case"
    plain = _without_marks(first)
    if unicodedata.combining(first or " ") or (first and came and plain != first and _same(plain, came)):
        return "accent" if _without_marks(before[:8])[:1].lower() == _without_marks(after[:8])[:1].lower() else "form"
    if first and came and unicodedata.normalize("NFKC", before).startswith(unicodedata.normalize("NFKC", came)):
        return "form"
    rest = after[:8]
    if first and (before[1:].startswith(rest) if rest else True):
        return "removed"
    return "added" if came and after[1:].startswith(before[:8]) else "changed"


def _without_marks(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def _same(one: str, other: str) -> bool:
    return one.lower().startswith(other.lower())
