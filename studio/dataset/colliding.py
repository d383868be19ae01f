"""Texts in which a special token is spelled out: a tokenizer reads it as the token, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AROUND = 30


@dataclass(frozen=True, slots=True)
class Collision:
    """Where a special token is spelled out, with the text around it."""

    row: int
    place: str
    column: str
    token: str
    around: str


class Spellings:
    """How the special tokens of a tokenizer are written."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        special = [(str(token), id_) for id_, token in tokenizer.added_tokens_decoder.items() if token.special]
        self._ids = {text: id_ for text, id_ in special if text}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._any = re.compile("|".join(re.escape(text) for text in longest_first)) if longest_first else None

    def find(self, row: int, place: str, texts: Iterable[tuple[str, str]]) -> Collision | None:
        """The first special token in these texts, each with its column, that would be read as one."""
        if self._any is None:
            return None
        for column, text in texts:
            for match in self._any.finditer(text):
                around = text[max(0, match.start() - _AROUND) : match.end() + _AROUND]
                # Asked, not assumed: some tokens count only as a word of their own.
                if self._ids[match[0]] in self._tokenizer(around, add_special_tokens=False).input_ids:
                    return Collision(row, place, column, match[0], around)
        return None
