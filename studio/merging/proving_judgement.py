"""What was heard of base with adapter and of the merge, into checks with their limits."""

from __future__ import annotations

import math

from studio.merging.proof import Check
from studio.merging.proving_replies import Distance, Expectation, Heard, apart

NAMES = ("scores", "mean score", "KL", "replies", "perplexity")


def judge(reference: Heard, merged: Heard, expected: Expectation, rows: int) -> list[Check]:
    """Every check of what the models say."""
    if reference.scores[0].shape != merged.scores[0].shape:
        words = f"The merge scores {merged.scores[0].shape[1]:,} tokens and the base {reference.scores[0].shape[1]:,}."
        return [Check(name, "failed", words) for name in NAMES]
    found, limit = apart(reference.scores, merged.scores), expected.limit
    return [
        *_distances(found, expected, limit),
        _replies(reference, merged, 2 * limit.largest),
        _perplexity(reference, merged, 2 * limit.mean, rows),
    ]


def _distances(found: Distance, expected: Expectation, limit: Distance) -> list[Check]:
    adapter, rounded = expected.adapter, expected.rounded
    hidden = adapter.largest <= limit.largest
    words = f"The scores are at most {found.largest:.3g} apart; rounding alone makes {rounded.largest:.3g}, and the"
    words += f" adapter {adapter.largest:.3g}."
    words += " So small an adapter is hidden by rounding here, and the tensors alone tell." if hidden else ""
    mean = f"They are {found.mean:.3g} apart on average; rounding alone makes {rounded.mean:.3g}."
    kl = f"KL from the base with its adapter is {found.kl:.3g} nats a token; rounding alone makes {rounded.kl:.3g}."
    return [
        _within("scores", words, found.largest, limit.largest),
        _within("mean score", mean, found.mean, limit.mean),
        _within("KL", kl, found.kl, limit.kl),
    ]


def _replies(reference: Heard, merged: Heard, limit: float) -> Check:
    """Greedy replies are the same, or part at two tokens that are as good as each other.

    The scores of two tokens move by at most the limit each: where they are closer than twice that, either may win.
    """
    tokens = sum(len(reply) for reply in reference.replies)
    worst, told = 0.0, []
    for number, (ours, theirs) in enumerate(zip(reference.replies, merged.replies, strict=True)):
        at = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        if at is None:
            continue
        # The place before the token scores it, and the last place has none to score.
        scores = reference.scores[number][at - len(ours) - 1]
        margin = float(scores[ours[at]] - scores[theirs[at]])
        worst = max(worst, margin if margin == margin else math.inf)
        told.append(
            f"Reply {number + 1} differs from token {at + 1} on, between two whose scores are {margin:.3g} apart:"
            f" {reference.texts[number]!r} became {merged.texts[number]!r}."
        )
    if not told:
        return Check(
            "replies", "passed", f"All {tokens} tokens of {len(reference.replies)} replies are the same.", 0, limit
        )
    tie = " Rounding explains that." if worst <= limit else ""
    return _within("replies", f"{told[0]}{tie}", worst, limit)


def _perplexity(reference: Heard, merged: Heard, limit: float, rows: int) -> Check:
    """The loss of a token moves by what its own score and the mean of all do: at most twice their mean distance."""
    if reference.loss is None or merged.loss is None:
        return Check("perplexity", "not done", "No held-out rows were given.")
    before, after = (math.exp(min(loss, 700.0)) for loss in (reference.loss, merged.loss))
    words = f"{after:.5g} on {rows} held-out rows, and {before:.5g} with base and adapter."
    return _within("perplexity", words, abs(merged.loss - reference.loss), limit)


def _within(name: str, words: str, found: float, limit: float) -> Check:
    return Check(name, "passed" if found <= limit else "failed", words, found, limit)
