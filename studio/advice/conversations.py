"""Rules on how conversations are read and trained on."""

from __future__ import annotations

from collections.abc import Iterator

from studio.advice.rule import Advice
from studio.tokenizer import EndOfTurn, Form, Masked


def on_conversation(masked: Masked | None, end: EndOfTurn | None, ways: tuple[Form, ...]) -> list[Advice]:
    """What to know about how conversations are read and trained on, by one of them; None for what cannot be told."""
    ends = _eos_not_trained(masked, end) if masked and end else ()
    return [*ends, *template_mismatch(ways)]


def _eos_not_trained(masked: Masked, end: EndOfTurn) -> Iterator[Advice]:
    yield from end_not_trained(masked.ends_trained, end, len(masked.ids))


def end_not_trained(trained: bool | None, end: EndOfTurn, tokens: int) -> Iterator[Advice]:
    """Where the end of a turn is not trained on, or generation does not end at it."""
    if trained is False:
        what = f"The end of a turn, {end.token} ({end.id})," if end.token else "No token that ends a turn"
        yield Advice(
            "eos-not-trained",
            "warning",
            f"{what} is {'not ' if end.token else ''}among what is trained, so the tuned model never learns to stop."
            " Train by a template that has it within what the assistant says.",
            f"read off the mask of {tokens:,} tokens",
        )
    elif trained and not end.stops:
        yield Advice("eos-not-trained", "warning", end.consequence, "the template, and eos_token_id of the model")


def template_mismatch(ways: tuple[Form, ...]) -> Iterator[Advice]:
    """Where one conversation is read otherwise on another way than on the first."""
    for other in ways[1:]:
        if other.ids != ways[0].ids:
            ours, theirs = _apart(ways[0].text, other.text)
            yield Advice(
                "template-mismatch",
                "warning",
                f"The model reads {ours} in {ways[0].way} and {theirs} in {other.way}.",
                f"one conversation both ways, {len(ways[0].ids):,} and {len(other.ids):,} tokens",
            )


def _apart(one: str, other: str) -> tuple[str, str]:
    """Two texts around the place where they part, quoted."""
    pairs = zip(one, other, strict=False)
    at = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    start = max(0, at - 30)
    before = "…" if start else ""
    first, second = (f"“{before}{text[start : at + 50]}{'…' if text[at + 50 :] else ''}”" for text in (one, other))
    return first, second
