"""What a vocabulary is made of: its tokens by length and by script."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from studio.tokenizer.vocabulary import Entry, all_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_SHOWN = 20
_NAMES = {"CJK": "Chinese characters", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}


@dataclass(frozen=True, slots=True)
class Share:
    """Tokens that have something in common."""

    name: str
    tokens: int
    share: float
    """Of all tokens."""


@dataclass(frozen=True, slots=True)
class Census:
    """A vocabulary in numbers."""

    tokens: int
    special: int
    added: int
    lengths: tuple[tuple[int, int], ...]
    """Characters → how many tokens have so many, special ones and parts of characters left out."""
    mean_length: float
    scripts: tuple[Share, ...]
    """The largest first."""
    longest: tuple[Entry, ...]


def census(tokenizer: PreTrainedTokenizerBase) -> Census:
    """Count the tokens of a tokenizer."""
    entries = all_tokens(tokenizer).entries
    scripts = Counter(script(entry) for entry in entries)
    words = [entry for entry in entries if script(entry) not in ("special", "parts of characters")]
    lengths = Counter(len(entry.text) for entry in words)
    letters = sum(length * count for length, count in lengths.items())
    shares = sorted((Share(name, count, count / len(entries)) for name, count in scripts.items()), key=_largest_first)
    return Census(
        tokens=len(entries),
        special=sum(entry.special for entry in entries),
        added=sum(entry.added for entry in entries),
        lengths=tuple(sorted(lengths.items())),
        mean_length=letters / max(1, len(words)),
        scripts=tuple(shares),
        longest=tuple(sorted(words, key=lambda entry: (-len(entry.text), entry.id))[:LONGEST_SHOWN]),
    )


def script(entry: Entry) -> str:
    """What a token is written in: the script of its first letter, or what it is made of where it has none."""
    if entry.special:
        return "special"
    if "\ufffd" in entry.text and "\ufffd" not in entry.raw:
        return "parts of characters"
    bare = entry.text.strip()
    if not bare:
        return "whitespace"
    return next((kind for sign in bare if (kind := _letter(sign))), None) or (
        "digits" if any(sign.isnumeric() for sign in bare) else _signs(bare)
    )


@lru_cache(maxsize=200_000)
def _letter(sign: str) -> str:
    """The script of a letter; empty for anything else."""
    if not sign.isalpha():
        return ""
    name = unicodedata.name(sign, "OTHER").split()[0].split("-")[0]
    return _NAMES.get(name, name.capitalize())


def _signs(bare: str) -> str:
    return "punctuation" if any(unicodedata.category(sign).startswith("P") for sign in bare) else "symbols"


def _largest_first(share: Share) -> tuple[int, str]:
    return -share.tokens, share.name
