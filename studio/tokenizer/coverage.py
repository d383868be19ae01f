"""Whether the tokens of a text, joined by their offsets, give the text again; and if not, what took the rest away."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

from studio.tokenizer.backend import described

_AROUND = 60
"""Characters before and after a gap that are enough to see who made it."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """`exact` where every character of the text belongs to a token. Otherwise `why` says, in one sentence, why not."""

    exact: bool
    offsets: bool
    """Whether the tokenizer tells at all where a token is in the text."""
    missing: int = 0
    """Characters that belong to no token."""
    gap: tuple[int, int] | None = None
    """The first characters that belong to none."""
    why: str = ""

    @classmethod
    def unknown(cls) -> Coverage:
        """That of a tokenizer without a Rust half."""
        why = "This tokenizer is written in Python and does not tell which characters a token stands for."
        return cls(exact=False, offsets=False, why=why)


def coverage(backend: Any, text: str, starts: array[int], ends: array[int]) -> Coverage:
    """Hold the offsets of all tokens against the text."""
    import numpy as np

    if not text:
        return Coverage(exact=True, offsets=True)
    first, last = np.asarray(starts), np.asarray(ends)
    # Where each begins no later than the one before ends, there is no hole: a tenth of the time that finding one takes.
    if len(first) and not first[0] and last.max() == len(text) and bool((first[1:] <= last[:-1]).all()):
        return Coverage(exact=True, offsets=True)
    of_text = last > first
    reached = np.concatenate([[0], np.maximum.accumulate(last[of_text])])
    next_start = np.concatenate([first[of_text], [len(text)]])
    holes = np.flatnonzero(next_start > reached)
    if not len(holes):
        return Coverage(exact=True, offsets=True)
    missing = int((next_start[holes] - reached[holes]).sum())
    gap = int(reached[holes[0]]), int(next_start[holes[0]])
    return Coverage(exact=False, offsets=True, missing=missing, gap=gap, why=_why(backend, text, gap))


def _why(backend: Any, text: str, gap: tuple[int, int]) -> str:
    """Which part of the tokenizer made a gap, seen by sending the text around it through one part after the other."""
    from tokenizers import PreTokenizedString, Regex

    start, end = gap[0], min(gap[1], gap[0] + _AROUND)
    begin = max(start - _AROUND, 0)
    seen = PreTokenizedString(text[begin : end + _AROUND])
    blank = text[start:end].isspace()
    what = "Spaces are" if blank else f"{text[start : min(end, start + 20)]!r} is"
    if normalizer := backend.normalizer:
        seen.normalize(lambda part: normalizer.normalize(part))
        single = PreTokenizedString(text[begin : end + _AROUND])
        single.normalize(lambda part: normalizer.normalize(part))
        single.split(lambda _, part: part.split(Regex(r"[\s\S]"), "isolated"))
        if not _kept(single, start - begin):
            return f"{what} taken out, or merged into the character before, by the normalizer ({_names(normalizer)})."
    if pre_tokenizer := backend.pre_tokenizer:
        pre_tokenizer.pre_tokenize(seen)
        if not _kept(seen, start - begin):
            return f"{what} dropped by the pre-tokenizer ({_names(pre_tokenizer)})."
    trims = [part["type"] for part in described(backend.post_processor) if part.get("trim_offsets")]
    if trims and blank:
        return f"Spaces belong to a token, but the post-processor ({', '.join(trims)}) leaves them out of its offsets."
    word = next(
        (part for part, (first, last), _ in seen.get_splits("original", "char") if first <= start - begin < last), ""
    )
    return (
        f"The vocabulary lacks a character of {word[:20]!r} and has no token for what is unknown: the character is "
        "dropped, and the tokens after it in that word seem to begin too early."
    )


def _kept(seen: Any, character: int) -> bool:
    """Whether a character is in one of the parts."""
    return any(start <= character < end for _, (start, end), _ in seen.get_splits("original", "char"))


def _names(component: Any) -> str:
    return ", ".join(part["type"] for part in described(component))
