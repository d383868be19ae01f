"""What came of a run, as HTML: what it took against what was expected, what it learnt and what it forgot."""

from __future__ import annotations

from collections.abc import Sequence

from studio.evaluation import Change, Meter
from studio.runs.forecast import Forecast
from studio.training import Learnt
from studio.ui import sheet, wording
from studio.ui.run_story import Story


def result(learnt: Learnt, story: Story, forecast: Forecast | None) -> str:
    """The outcome in figures."""
    before = story.looks[0].loss if story.looks else None
    said = (
        f"{wording.count(learnt.trainable)} parameters learnt from {learnt.tokens:,} tokens in {learnt.steps:,} steps."
    )
    head = sheet.headline(_learnt(before, learnt), said, good=_is_better(before, learnt))
    told = [
        (wording.duration(learnt.seconds), "of learning"),
        (wording.size(learnt.peak), "memory of the whole process, measured"),
        *(
            [(wording.size(forecast.predicted), "expected for the model and its steps")]
            if forecast and forecast.predicted
            else []
        ),
        (f"{learnt.loss:.3f}", "loss of the last step"),
    ]
    place = f"<p class='place'>The adapter is in <code>{wording.place(learnt.folder)}</code></p>"
    return f'<div class="sheet">{head}{wording.facts(told)}{place}</div>'


def _learnt(before: float | None, learnt: Learnt) -> str:
    if before is None or learnt.held_out_loss is None:
        return "Finished; no rows were held out to measure with"
    return f"Loss on held-out rows: {before:.3f} → {learnt.held_out_loss:.3f}"


def _is_better(before: float | None, learnt: Learnt) -> bool:
    return before is None or learnt.held_out_loss is None or learnt.held_out_loss < before


def meter(found: Meter) -> str:
    """What it learnt and what it forgot."""
    before, after = found.before, found.after
    learnt = [(each.name, *_shares(each)) for each in found.learnt]
    if before.loss is not None and after.loss is not None:
        learnt.insert(0, ("loss on held-out rows", f"{before.loss:.3f}", f"{after.loss:.3f}", f"{before.rows:,} rows"))
    kept = [(each.name, *_shares(each)) for each in found.kept]
    general = f"{before.perplexity:,.1f}", f"{after.perplexity:,.1f}", f"{before.text_tokens:,} tokens"
    kept.append(("perplexity of a general text", *general))
    ended = f"{after.ended:,} of {after.asked:,} replies end by themselves, {before.ended:,} before."
    head = sheet.headline("What it learnt, and what it forgot", _words(found), good=found.perplexity_ratio < _MUCH)
    return f'<div class="sheet meter">{head}{_table("Learnt", learnt)}{_table("Kept", kept)}{wording.done(ended)}</div>'


_MUCH = 2.0
"""Times the perplexity: then a model reads other texts far worse than before."""


def _words(found: Meter) -> str:
    ratio = found.perplexity_ratio
    if ratio >= _MUCH:
        return f"It reads other texts {ratio:.1f} times worse than before: mix in rows of other kinds, or learn less."
    return f"Other texts: perplexity {ratio:.2f} times what it was."


def _shares(change: Change) -> tuple[str, str, str]:
    return f"{change.before:.0%}".replace("%", " %"), f"{change.after:.0%}".replace("%", " %"), f"{change.of:,} replies"


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> str:
    return sheet.table((title, "Before", "After", "Measured on"), rows)
