"""A conversation as the model reads it, what is to be known of that, and a template beside its edited copy, as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from studio.errors import StudioError
from studio.jobs import Shown
from studio.jobs.conversing import Refusal
from studio.tokenizer import EndOfTurn, Form, Masked, Trial
from studio.ui import sheet, tokens_view, wording

LONGEST_DRAWN = 20_000
"""Characters of a rendered text that are compared and drawn; finding the difference of longer ones takes seconds."""
_HOW = {
    "generation": "by {% generation %} in the template",
    "prefix": "by comparing prefixes",
    "everything": "all of it",
    "completion": "all of the reply",
}


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of an edited template, beside the original."""

    trial: Trial
    before: Trial | None
    """None where the model has no template."""
    masked: Masked | Refusal | None
    """None where nothing was rendered."""


def conversation(shown: Shown) -> str:
    """The tokens, those that are trained on bright, and what is to be known."""
    found, trained = shown.tokens, shown.trained
    drawn = tokens_view.tokens(found.window(0, tokens_view.WINDOW), total=len(found.ids), trained=trained)
    cut = len(found.ids) > tokens_view.WINDOW
    more = wording.done(f"The first {tokens_view.WINDOW:,} tokens are drawn.") if cut else ""
    return f"{_facts(shown)}{_legend() if trained is not None else ''}{drawn}{more}{findings(shown)}"


def _facts(shown: Shown) -> str:
    found, trained = shown.tokens, shown.trained
    told = [(f"{len(found.ids):,}", "tokens"), (f"{found.counts.characters:,}", "characters")]
    if trained is not None and isinstance(shown.masked, Masked):
        share = len(trained) / max(1, len(shown.masked.ids))
        told += [(f"{len(trained):,}", f"trained ({share:.0%})"), ("Proven", _HOW[shown.masked.how])]
    return wording.facts(told)


def _legend() -> str:
    return (
        '<p class="legend"><span><i></i> trained on</span><span><i class="m"></i> read, not trained on</span>'
        '<span><i class="s"></i> special token</span></p>'
    )


def findings(shown: Shown) -> str:
    """What was checked and how it came out, the worst first."""
    told = (*_of_mask(shown), *_of_end(shown), *_of_ways(shown), *_of_losses(shown))
    return sheet.findings(told, label="What was checked")


Told = tuple[str, str, str]
"""Severity, message, hint."""


def _of_mask(shown: Shown) -> Iterator[Told]:
    masked = shown.masked
    if isinstance(masked, Refusal):
        yield "warning", masked.message, masked.hint
        return
    if masked.note:
        yield "note", masked.note, ""
    if shown.trained is None:
        yield "note", "Asked for a reply, the template writes what is trained otherwise: it is not drawn.", ""


def _of_end(shown: Shown) -> Iterator[Told]:
    masked, end = shown.masked, shown.end
    if isinstance(end, Refusal):
        yield "warning", end.message, end.hint
        return
    for rule in shown.advice:
        if rule.id == "eos-not-trained" and rule.why != end.consequence:
            yield rule.severity, rule.why, f"Source: {rule.source}."
    if end.token:
        yield "good", f"A reply ends with {end.token} ({end.id}).", "" if end.special else "It is no special token."
        if isinstance(masked, Masked) and masked.ends_trained:
            yield "good", "That token is trained on, so a tuned model learns to stop.", ""
    if not end.stops:
        yield "warning", end.consequence, _remedy(end)
    elif end.is_eos:
        yield "good", "Generation ends at it: it is the eos_token of the tokenizer.", ""
    else:
        yield "note", "Generation ends at it by generation_config.json; the eos_token of the tokenizer is another.", ""


def _remedy(end: EndOfTurn) -> str:
    if end.token is None:
        return "Choose a template that ends a turn with a special token, and train by it."
    return f"Add {end.id} to eos_token_id in generation_config.json."


def _of_ways(shown: Shown) -> Iterator[Told]:
    yield from (
        (rule.severity, rule.why, f"Source: {rule.source}.") for rule in shown.advice if rule.id == "template-mismatch"
    )
    if len(shown.ways) > 1 and len({way.ids for way in shown.ways}) == 1:
        yield "good", f"{_listed(shown.ways)} read the same {len(shown.ways[0].ids):,} tokens before the reply.", ""


def _of_losses(shown: Shown) -> Iterator[Told]:
    if shown.tools_left_out:
        names = ", ".join(shown.tools_left_out)
        yield "warning", f"The template leaves out {names}: the model never hears of it.", "Choose one made for tools."
    for number in shown.turns_changed:
        yield "warning", f"Turn {number} does not stand in the text as it was written.", "Look at what became of it."


def _listed(ways: Sequence[Form]) -> str:
    *most, last = (way.way for way in ways)
    listed = f"{', '.join(most)} and {last}"
    return listed[0].upper() + listed[1:]


def tried(found: Tried) -> str:
    """An edited template: what it makes beside what the original makes, or why it makes nothing."""
    trial = found.trial
    if trial.text is None:
        where = f"Line {trial.line}: {trial.line_text}" if trial.line else "Undo the last change."
        return wording.problem(StudioError(f"The edited template fails: {trial.error}", where))
    tokens = _of_copy(found.masked) if found.masked else ""
    if found.before is None:
        return f'{tokens}<div class="pair">{_pane("The edited copy", _marked([("", trial.text)]))}</div>'
    if found.before.text is None:
        failed = wording.caution(f"The original fails here: {found.before.error}")
        return f'{failed}{tokens}<div class="pair">{_pane("The edited copy", _marked([("", trial.text)]))}</div>'
    if found.before.text == trial.text:
        return wording.done("Both templates make the same text of this conversation.") + tokens
    before, after = difference(found.before.text[:LONGEST_DRAWN], trial.text[:LONGEST_DRAWN])
    long = max(len(found.before.text), len(trial.text)) > LONGEST_DRAWN
    cut = wording.done(f"The first {LONGEST_DRAWN:,} characters are compared.") if long else ""
    panes = _pane("The original", _marked(before)) + _pane("The edited copy", _marked(after))
    return f'{tokens}{cut}<div class="pair">{panes}</div>'


def _of_copy(masked: Masked | Refusal) -> str:
    if isinstance(masked, Refusal):
        return wording.caution(f"With the copy: {masked.message} {masked.hint}")
    trained = sum(masked.trained)
    told = [(f"{len(masked.ids):,}", "tokens with the copy"), (f"{trained:,}", f"trained, {_HOW[masked.how]}")]
    return wording.facts(told)


Marked = list[tuple[str, str]]
"""Parts of a text, each with the element that marks it; an empty one for what is the same."""


def difference(one: str, other: str) -> tuple[Marked, Marked]:
    """Two texts line by line: the first with what is gone marked, the second with what is new."""
    before, after = one.splitlines(keepends=True), other.splitlines(keepends=True)
    left: Marked = []
    right: Marked = []
    for kind, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        same = kind == "equal"
        left.append(("" if same else "del", "".join(before[a:b])))
        right.append(("" if same else "ins", "".join(after[c:d])))
    return left, right


def _marked(parts: Marked) -> str:
    drawn = ((mark, html.escape(tokens_view.visible(text))) for mark, text in parts if text)
    return "".join(f"<{mark}>{text}</{mark}>" if mark else text for mark, text in drawn)


def _pane(title: str, body: str) -> str:
    return f'<div><h4>{html.escape(title)}</h4><div class="tokens plain">{body}</div></div>'


def source(file: str, name: str, *, several: bool) -> str:
    """Where a template comes from."""
    named = f"the template called {name}" if several else "the chat template"
    return wording.done(f"This is {named}, {f'from {file}' if file else 'as the tokenizer holds it'}.")
