"""WordPiece and Unigram, slowly enough to watch: the longest match each time, or the likeliest of all ways."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

Model = dict[str, Any]
"""The model of tokenizer.json."""

_UNKNOWN_PENALTY = 10.0
"""How much less likely than the least likely token an unknown character is, in the tokenizers library."""

_Way = tuple[float, int, int, float]
"""A way to a position: its score, where its last step began, the rank of the way to there, the score of the step."""


@dataclass(frozen=True, slots=True)
class Match:
    """One step of a WordPiece: the longest beginning of `rest` that the vocabulary has."""

    rest: str
    token: str | None
    """None where it has no beginning at all; then the whole word is unknown."""
    tried: int
    """How many longer beginnings were looked up in vain."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """One way of a Unigram to take a word apart. `scores` and their sum are log probabilities, to the base e."""

    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    score: float


def longest_matches(model: Model, word: str) -> tuple[Match, ...]:
    """The steps of a WordPiece through a word; none where the word is too long to be looked at."""
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
    if len(word) > model["max_input_chars_per_word"]:
        return ()
    matches: list[Match] = []
    at = 0
    while at < len(word):
        before = prefix if at else ""
        lengths = range(len(word) - at, 0, -1)
        found = next((n for n in lengths if before + word[at : at + n] in vocabulary), 0)
        tried = len(word) - at - found
        matches.append(Match(word[at:], before + word[at : at + found] if found else None, tried))
        if not found:
            break
        at += found
    return tuple(matches)


@dataclass(frozen=True, slots=True)
class Unigram:
    """A Unigram, made fit for looking up."""

    scores: dict[str, float]
    """Token → log probability."""
    longest: int
    """Characters of its longest token."""
    lacking: float
    """The score of an unknown character."""
    byte_fallback: bool
    unknown: str | None

    @classmethod
    def of(cls, model: Model) -> Unigram:
        """The Unigram of tokenizer.json. Of a token that is there twice, the library keeps the last."""
        scores: dict[str, float] = dict(model["vocab"])
        unknown = model.get("unk_id")
        return cls(
            scores=scores,
            longest=max(map(len, scores), default=1),
            lacking=min(scores.values(), default=0.0) - _UNKNOWN_PENALTY,
            byte_fallback=bool(model.get("byte_fallback")),
            unknown=None if unknown is None else model["vocab"][unknown][0],
        )


def likeliest(model: Unigram, word: str, count: int) -> tuple[Segmentation, ...]:
    """The `count` likeliest ways to take a word apart, best first, as the tokenizers library scores them.

    The first way is the one that the tokenizer takes.
    """
    known = model.scores
    ways: list[list[_Way]] = [[(0.0, 0, 0, 0.0)], *([] for _ in word)]
    for start in range(len(word)):
        steps = [
            (end, known[word[start:end]])
            for end in range(start + 1, min(start + model.longest, len(word)) + 1)
            if word[start:end] in known
        ]
        if not any(end == start + 1 for end, _ in steps):
            steps.append((start + 1, model.lacking))
        ways[start] = heapq.nlargest(count, ways[start], key=lambda way: way[0])  # stable: of equals, the first found
        for end, score in steps:
            ways[end] += [(way[0] + score, start, rank, score) for rank, way in enumerate(ways[start])]
    ways[-1] = heapq.nlargest(count, ways[-1], key=lambda way: way[0])
    return tuple(_told(model, word, ways, rank) for rank in range(len(ways[-1]))) if word else ()


def _told(model: Unigram, word: str, ways: list[list[_Way]], rank: int) -> Segmentation:
    """The way that ends with rank `rank`, followed from its end to its beginning."""
    total, end = ways[-1][rank][0], len(word)
    pieces: list[tuple[str, float, bool]] = []
    while end > 0:
        _, start, rank_before, score = ways[end][rank]
        piece, unknown = word[start:end], word[start:end] not in model.scores
        if unknown and pieces and pieces[-1][2]:  # unknown characters in a row are one token
            after, more, _ = pieces.pop()
            piece, score = piece + after, score + more
        pieces.append((piece, score, unknown))
        end, rank = start, rank_before
    steps = [
        step
        for piece, score, unknown in reversed(pieces)
        for step in (_unknown(model, piece, score) if unknown else [(piece, score)])
    ]
    return Segmentation(tuple(token for token, _ in steps), tuple(score for _, score in steps), total)


def _unknown(model: Unigram, piece: str, score: float) -> list[tuple[str, float]]:
    """What is unknown as its bytes, where the vocabulary has them, or as the unknown token."""
    if model.byte_fallback:
        spelled = [f"<0x{byte:02X}>" for byte in piece.encode()]
        if all(token in model.scores for token in spelled):
            return [(token, score / len(spelled)) for token in spelled]
    return [(piece if model.unknown is None else model.unknown, score)]
