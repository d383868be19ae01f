"""Byte-pair encoding, slowly enough to watch: which two symbols become one, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Model = dict[str, Any]
"""The model of tokenizer.json."""


@dataclass(frozen=True, slots=True)
class Merge:
    """Two symbols that become one: of all pairs in the word the one that was learned first, the leftmost of those."""

    rank: int
    """0 is the pair that training merged first."""
    left: str
    right: str
    at: int
    """Which symbol of those before the merge `left` is."""
    result: tuple[str, ...]
    """All symbols after it."""


@dataclass(frozen=True, slots=True)
class Merging:
    """How a word was merged; `whole` where it is in the vocabulary and the model does not look further."""

    begins_as: tuple[str, ...]
    merges: tuple[Merge, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class BytePairs:
    """A BPE, made fit for looking up."""

    vocabulary: frozenset[str]
    ranks: dict[tuple[str, str], int]
    """Pair → when training merged it."""
    prefix: str
    """What a symbol begins with that goes on within a word."""
    suffix: str
    """What a symbol ends in that ends a word."""
    unknown: str | None
    fuse_unknown: bool
    byte_fallback: bool
    ignore_merges: bool

    @classmethod
    def of(cls, model: Model) -> BytePairs:
        """The BPE of tokenizer.json. Older files write a pair as one text with a space; some have no merges."""
        pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model.get("merges") or ())
        return cls(
            vocabulary=frozenset(model["vocab"]),
            ranks={(left, right): rank for rank, (left, right) in enumerate(pairs)},
            prefix=model.get("continuing_subword_prefix") or "",
            suffix=model.get("end_of_word_suffix") or "",
            unknown=model.get("unk_token"),
            fuse_unknown=bool(model.get("fuse_unk")),
            byte_fallback=bool(model.get("byte_fallback")),
            ignore_merges=bool(model.get("ignore_merges")),
        )


def merge(model: BytePairs, word: str) -> Merging:
    """The merges of a word, as the tokenizers library applies them, without dropout."""
    if model.ignore_merges and word in model.vocabulary:
        return Merging((word,), (), whole=True)
    symbols = _symbols(model, word)
    merges: list[Merge] = []
    begins_as = tuple(symbols)
    while True:
        pairs = ((model.ranks.get((symbols[at], symbols[at + 1])), at) for at in range(len(symbols) - 1))
        best = min(((rank, at) for rank, at in pairs if rank is not None), default=None)
        if best is None:
            return Merging(begins_as, tuple(merges), whole=False)
        rank, at = best
        left, right = symbols[at : at + 2]
        symbols[at : at + 2] = [left + right.removeprefix(model.prefix)]
        merges.append(Merge(rank, left, right, at, tuple(symbols)))


def _symbols(model: BytePairs, word: str) -> list[str]:
    """What a word is before its first merge: characters, bytes for those that the vocabulary lacks, or unknown ones."""
    symbols: list[str] = []
    fusing = False
    for at, character in enumerate(word):
        symbol = (model.prefix if at else "") + character + (model.suffix if at == len(word) - 1 else "")
        known = _known(model, symbol)
        if known:
            symbols.extend(known)
        elif model.unknown is not None and not (fusing and model.fuse_unknown):
            symbols.append(model.unknown)
        fusing = not known
    return symbols


def _known(model: BytePairs, symbol: str) -> list[str]:
    """A symbol, or its bytes, as the vocabulary has them; empty where it has neither."""
    if symbol in model.vocabulary:
        return [symbol]
    spelled = [f"<0x{byte:02X}>" for byte in symbol.encode()] if model.byte_fallback else []
    return spelled if all(token in model.vocabulary for token in spelled) else []
