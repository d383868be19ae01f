"""What is about to be learnt, and how, as HTML with every foreign text escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

from studio import advice, memory
from studio.advice import Advice
from studio.dataset import Prepared, Preview, Recognition, Rows
from studio.jobs.planning import Ahead
from studio.memory import THIS
from studio.training import Preset, Rehearsal
from studio.ui import sheet, tokens_view, wording

SHOWN_ROWS = 5
_LONGEST_CELL = 160
_BEHIND = 80
"""Tokens behind the limit that are shown."""


def rows_as_table(rows: Rows) -> str:
    """The first rows as they are."""
    data = rows.open()
    first = [data[index] for index in range(min(SHOWN_ROWS, rows.count))]
    cells = [[str(number), *(_cell(row[column]) for column in rows.columns)] for number, row in enumerate(first, 1)]
    return f'<div class="sheet plain">{sheet.table(("Row", *rows.columns), cells)}</div>'


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"


def recognised(rows: Rows, found: Recognition, *, sure: bool) -> str:
    """What the rows are taken for."""
    words = f"{rows.count:,} rows, read as {found.mapping.format}. {found.why.rstrip('.')}."
    if sure:
        return wording.done(words)
    return wording.caution(f"{words} That is not sure: look at the columns under Advanced.")


def prepared(found: Prepared, *, part: bool) -> str:
    """What became of the rows, or of a `part` of them: how many are learnt, dropped, cut, and how long they are."""
    learn, held = found.learn, found.held_out
    share = learn.trained / max(1, learn.tokens)
    head = sheet.headline(
        f"{learn.count:,} examples to learn from, {held.count if held else 0:,} held out",
        f"{f'Of the first {found.rows:,} rows: ' if part else ''}{learn.tokens:,} tokens, of which {learn.trained:,} "
        f"({_percent(share)}) are learnt.",
        good=not found.dropped and not found.endless,
    )
    told = [(f"{tokens:,}", _length(percent)) for percent, tokens in found.percentiles]
    if found.packing > 0:
        told.append((_percent(found.packing), "of the padding would be saved by packing"))
    dropped = [(each.reason, f"{each.rows:,}", each.example, ", ".join(each.places[:3])) for each in found.dropped]
    table = sheet.table(("Left out because", "Rows", "The first one", "Where"), dropped) if dropped else ""
    rules = "".join(map(sheet.advice, advice.on_examples(found)))
    return f'<div class="sheet">{head}{wording.facts(told)}{rules}{table}</div>'


def _length(percent: int) -> str:
    names = {50: "tokens at most in half of them", 100: "in the longest"}
    return names.get(percent, f"in {percent} %")


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


# One row


_SIDES = {"learn": "is learnt", "held out": "is held out, to measure with", "dropped": "is left out"}


def row(shown: Preview, rules: Sequence[Advice]) -> str:
    """The tokens of a row, those that are learnt bright, with the line where it is cut, and what to know of it."""
    within = shown.pieces[: shown.kept]
    drawn = tokens_view.tokens(within, total=shown.tokens, trained=frozenset(shown.trained)) if within else ""
    share = len(shown.trained) / max(1, shown.kept)
    told = [
        (f"{shown.kept:,}", "tokens"),
        (f"{len(shown.trained):,}", f"learnt ({_percent(share)})"),
        (shown.place, f"{_SIDES[shown.side]}, by {shown.way}" if shown.way else _SIDES[shown.side]),
    ]
    parts = [wording.facts(told), _legend(), drawn, _cut(shown), *map(sheet.advice, rules)]
    return "".join(parts)


def _cut(shown: Preview) -> str:
    if shown.kept >= shown.tokens:
        return ""
    words = f"✂ Cut here: {shown.tokens - shown.kept:,} of {shown.tokens:,} tokens are behind the limit."
    behind = "".join(piece.text for piece in shown.pieces[shown.kept : shown.kept + _BEHIND])
    return f'<p class="cut">{words}</p><p class="behind">{html.escape(behind)}</p>'


def _legend() -> str:
    return (
        '<p class="legend"><span><i></i> learnt</span><span><i class="m"></i> read, not learnt</span>'
        '<span><i class="s"></i> special token</span></p>'
    )


# What it takes


_WORDS = {
    "fits": "fits",
    "tight": "is tight",
    "probably not": "probably does not fit",
    "no": "does not fit",
}


def takes(found: Ahead) -> str:
    """Memory against what there is, and what is learnt."""
    here = found.answer.fits[0]
    estimate = found.answer.estimate
    good = here.verdict in ("fits", "tight")
    head = sheet.headline(
        f"{wording.size(here.peak)} of {wording.size(here.usable)}: {_WORDS[here.verdict]}",
        f"{wording.count(estimate.trainable)} of {wording.count(estimate.parameters)} parameters learn; "
        f"the adapter takes {wording.size(found.adapter_bytes)}.",
        good=good,
    )
    limits = found.answer.limits
    rules = advice.on_memory(estimate, memory.device(THIS), limits.fitting if limits else None)
    # Where there is room, it is no use to be told how to do with less.
    worth = [rule for rule in rules if rule.severity == "warning" and here.verdict != "fits"]
    return f"{head}{_way(found)}{''.join(map(sheet.advice, (*worth, *found.advice)))}"


def meaning(preset: Preset | None) -> str:
    """What a preset means: how long it takes, and why it is as it is."""
    if preset is None:
        return wording.done("Every setting is under Advanced.")
    took = (
        f"About {wording.duration(preset.seconds)} of learning on this machine; Rehearse measures it."
        if preset.seconds
        else "Rehearse says how long."
    )
    reasons = "".join(f"<li>{html.escape(each)}</li>" for each in preset.why)
    return f"{wording.done(took)}{sheet.folded('What that means', f'<ul>{reasons}</ul>')}"


def rehearsed(found: Rehearsal, expected: Ahead) -> str:
    """What two real steps took."""
    head = sheet.headline(
        f"{wording.duration(found.expected)} for {found.steps:,} steps",
        f"Two steps on the longest batch, {found.tokens:,} tokens, were carried out in {found.compute}; "
        f"a checkpoint of {wording.size(found.checkpoint)} was written and read back.",
        good=True,
    )
    told = [
        (wording.duration(found.seconds), "the longest step"),
        (wording.size(found.peak), f"held at most, {wording.size(found.peak - found.before)} of it by the steps"),
        (wording.size(expected.answer.estimate.peak), "were expected"),
        (f"{found.loss:.3f}", "loss at first"),
        (f"{found.gradient:.3f}", "gradient norm"),
    ]
    return f'<div class="sheet">{head}{wording.facts(told)}</div>'


def _way(found: Ahead) -> str:
    limits = found.answer.limits
    if limits is None or not limits.fitting.changes:
        return ""
    said = "; ".join(", ".join(f"{name} {value}" for name, value in change.values) for change in limits.fitting.changes)
    return wording.caution(f"It would fit with: {said}.")


def module_choices(found: Ahead) -> list[tuple[str, str]]:
    """(what is said, name) of each module that can have an adapter."""
    settings, groups = found.run.settings, found.targets.groups if found.targets else ()
    dora = settings.method == "dora"
    return [
        (f"{each.name} · {each.count} × · {wording.count(each.parameters(settings.rank, dora=dora))}", each.name)
        for each in groups
        if not each.refused
    ]
