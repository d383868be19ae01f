"""Where a model stands, in plain numbers, and what lies between two such standings: what was learnt and forgotten."""

from __future__ import annotations

from dataclasses import dataclass

from studio.errors import InputError
from studio.evaluation.checks import Tells

EXACT = "exact match"
"""The name of the figure that needs no declared check."""


@dataclass(frozen=True, slots=True)
class Score:
    """How many replies are good, of how many."""

    name: str
    tells: Tells
    good: int
    of: int
    note: str = ""
    """Why there is no figure, where there is none: `of` is 0 then."""

    @property
    def share(self) -> float | None:
        """From 0 to 1; None where nothing was asked."""
        return self.good / self.of if self.of else None


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answers to a prompt."""

    prompt: str
    reply: str
    ended: bool
    """By itself, before the limit."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What one model knows. Picklable; `dataclasses.asdict` makes JSON of it."""

    rows: int
    """Held-out rows that were looked at."""
    loss: float | None
    """Mean over their trained tokens; None without any."""
    loss_tokens: int
    exact: Score | None
    """Greedy replies that are the row's own, to the letter; None where no row has a prompt and a reply that ends."""
    scores: tuple[Score, ...]
    """One for each declared check."""
    perplexity: float
    """On a general text."""
    text_tokens: int
    said: tuple[Said, ...]
    asked: int
    """Different prompts, those of rows, checks and samples together."""
    ended: int
    """Replies, of these, that the model ended by itself."""
    limit: int
    """Tokens that a reply was given."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Change:
    """One figure before and after, as shares from 0 to 1."""

    name: str
    before: float
    after: float
    of: int
    """Replies that each is a share of."""

    @property
    def retained(self) -> float | None:
        """What is left, of what was there: 0.5 is half of it. None where there was nothing."""
        return self.after / self.before if self.before else None


@dataclass(frozen=True, slots=True)
class Meter:
    """What lies between two standings. Raises InputError where they answered different questions."""

    before: Standing
    after: Standing

    def __post_init__(self) -> None:
        asked = [(s.rows, s.loss_tokens, s.text_tokens, s.limit, _names(s)) for s in (self.before, self.after)]
        if asked[0] != asked[1]:
            raise InputError(
                "The two looks at the model did not ask the same.",
                "Look again, both times with the same rows, checks, text and limit.",
            )

    @property
    def loss_ratio(self) -> float | None:
        """Held-out loss after, as a share of the one before: 0.5 is halved. None without held-out rows."""
        if self.before.loss is None or self.after.loss is None or not self.before.loss:
            return None
        return self.after.loss / self.before.loss

    @property
    def halved(self) -> bool | None:
        """Whether the held-out loss is at most half of what it was."""
        return None if self.loss_ratio is None else self.loss_ratio <= 0.5

    @property
    def learnt(self) -> tuple[Change, ...]:
        """What was to be learnt: exact match, then the checks that tell it."""
        pair = self.before.exact, self.after.exact
        exact = [(pair[0], pair[1])] if pair[0] and pair[1] else []
        return _changes([*exact, *self._pairs("learnt")])

    @property
    def kept(self) -> tuple[Change, ...]:
        """What the model could do before, and how much of it there still is."""
        return _changes(self._pairs("kept"))

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity of the general text after, over the one before: 1 is nothing forgotten."""
        return self.after.perplexity / self.before.perplexity

    def _pairs(self, tells: Tells) -> list[tuple[Score, Score]]:
        pairs = zip(self.before.scores, self.after.scores, strict=True)
        return [(before, after) for before, after in pairs if before.tells == tells]


def _names(standing: Standing) -> list[str]:
    return [score.name for score in standing.scores]


def _changes(pairs: list[tuple[Score, Score]]) -> tuple[Change, ...]:
    """Of the figures that are there both times."""
    return tuple(
        Change(before.name, before.share, after.share, after.of)
        for before, after in pairs
        if before.share is not None and after.share is not None
    )
