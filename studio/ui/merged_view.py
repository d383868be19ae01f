"""A merge as HTML: where it is, and the verdict of its proof with every check."""

from __future__ import annotations

import html
from collections.abc import Sequence

from studio import merging
from studio.errors import StudioError
from studio.events import Waiting
from studio.merges import Merge
from studio.merging import Check, Proof
from studio.merging.outcome import Outcome
from studio.runs import State, Told
from studio.ui import run_log, run_story, run_view, sheet, wording
from studio.ui.run_story import Story

_STATES = {
    State.NEW: "not begun",
    State.QUEUED: "waits for its turn",
    State.PREPARING: "at work",
    State.RUNNING: "at work",
    State.STOPPING: "stopping",
    State.STOPPED: "stopped",
    State.FINISHED: "finished",
    State.FAILED: "failed",
    State.DIED: "broke off",
}
_MARKS = {"passed": "good", "failed": "error", "not done": "note"}
_NUMBERED = ("adapted weights", "scores", "mean score", "KL", "replies", "perplexity")
"""Checks whose number is a distance; the others say theirs in words."""
_WORDS = {"passed": "passed", "failed": "failed", "not done": "not done"}


def head(merge: Merge, told: Sequence[Told]) -> str:
    """Where a merge is, in words, with a bar; once it is finished, its verdict."""
    if merge.outcome and merge.standing.state is State.FINISHED:
        return verdict(merge.outcome)
    story, standing = run_story.story(told), merge.standing
    bad = standing.state in (State.FAILED, State.DIED)
    top = sheet.headline(f"{merge.order.output.name}: {_STATES[standing.state]}", _more(merge, story), good=not bad)
    wrong = wording.problem(StudioError(standing.message, standing.hint)) if standing.message else ""
    return (
        f'<div class="sheet run merge" data-state="{standing.state}">{top}{_bar(merge, story)}'
        f"{run_view.stages(standing, story)}{wrong}</div>"
    )


def state_in_words(merge: Merge) -> str:
    """How a merge stands, with its verdict."""
    outcome = merge.outcome
    if merge.standing.state is not State.FINISHED or outcome is None:
        return _STATES[merge.standing.state]
    return {True: "proven", False: "NOT PROVEN", None: "finished, not proven"}[outcome.passed]


def _more(merge: Merge, story: Story) -> str:
    state = merge.standing.state
    if state is State.STOPPED:
        return "Nothing of it was left."
    if not state.is_alive:
        return f"{wording.model(merge.order.adapter)} into {wording.model(merge.order.base)}."
    if isinstance(story.doing, Waiting):
        return f"{story.doing.busy_with} has the machine. {run_log.ahead(story.doing)}"
    return "You may close the page: the merge goes on without it. Its folder gets its name once it is proven."


def _bar(merge: Merge, story: Story) -> str:
    if not merge.standing.state.is_alive:
        return ""
    doing = story.doing
    known = doing is not None and not isinstance(doing, Waiting) and doing.total
    value = f' value="{doing.done / doing.total:.3f}"' if known and doing else ""  # type: ignore[union-attr, operator]
    return f'<progress class="wide"{value} aria-label="Progress"></progress>'


# The verdict


def verdict(outcome: Outcome) -> str:
    """What the proof found, check by check."""
    proof = merging.read_proof(outcome.folder)
    first, second, good = _sentence(outcome, proof)
    parts = [sheet.headline(first, second, good=good), wording.facts(_figures(outcome, proof))]
    if outcome.why:
        parts.append(wording.done(f"Merged in memory: {outcome.why}."))
    if proof:
        parts += [_checks(proof), _replies(proof), _made_with(proof)]
    parts.append(_place(outcome))
    state = {True: "proven", False: "not-proven", None: "without-proof"}[outcome.passed]
    return f'<div class="sheet run merge" data-state="finished" data-verdict="{state}">{"".join(parts)}</div>'


def _sentence(outcome: Outcome, proof: Proof | None) -> tuple[str, str, bool]:
    if outcome.passed is None:
        return "Merged, and not proven", outcome.covered or "No proof was asked for.", True
    if proof is None and not outcome.failed and not outcome.passed:
        return "Not proven", outcome.covered, False
    if proof is None:
        return (
            "Not proven any more",
            "The folder is gone, or its files are not those that were proven. Merge again to be sure.",
            False,
        )
    done = [check for check in proof.checks if check.state != "not done"]
    if proof.passed:
        return f"Proven: {len(done)} of {len(done)} checks passed", f"Looked at: {proof.covered}", True
    return (
        f"NOT PROVEN: {len(proof.failed)} of {len(done)} checks failed",
        f"Do not use it in the place of base and adapter. Looked at: {proof.covered}",
        False,
    )


def _figures(outcome: Outcome, proof: Proof | None) -> list[tuple[str, str]]:
    told = [
        (wording.size(outcome.bytes), f"in {outcome.files:,} {'files' if outcome.files > 1 else 'file'}"),
        (f"{outcome.changed:,} of {outcome.tensors:,}", "tensors changed"),
        (wording.duration(outcome.seconds), f"to merge, {outcome.way}"),
    ]
    if proof:
        told.append((wording.duration(proof.seconds), "to prove"))
    told.append((wording.size(outcome.peak), "memory at most, of the whole process"))
    return told


def _checks(proof: Proof) -> str:
    order = {"failed": 0, "passed": 1, "not done": 2}
    rows = "".join(_check(check) for check in sorted(proof.checks, key=lambda check: order[check.state]))
    return f'<ul class="findings checks" aria-label="Checks of the proof">{rows}</ul>'


def _check(check: Check) -> str:
    name = html.escape(check.name[:1].upper() + check.name[1:])
    number = ""
    if check.name in _NUMBERED and check.found is not None and check.limit is not None:
        number = f"<small>found {check.found:.3g}, at most {check.limit:.3g}</small>"
    return (
        f'<li data-severity="{_MARKS[check.state]}" data-check="{html.escape(check.name)}"><b>{name}</b>'
        f" <em>{_WORDS[check.state]}</em> {html.escape(check.words)} {number}</li>"
    )


def _replies(proof: Proof) -> str:
    if not proof.differing:
        return ""
    rows = [(each.prompt, each.before, each.after) for each in proof.differing]
    explained = proof["replies"].state == "passed"
    title = "Replies that differ, as rounding explains" if explained else "Replies that differ"
    return f"<h4>{title}</h4>{sheet.table(('Prompt', 'Base with adapter', 'Merged'), rows)}"


def _made_with(proof: Proof) -> str:
    return wording.done("Proven with " + ", ".join(f"{name} {number}" for name, number in proof.versions) + ".")


def _place(outcome: Outcome) -> str:
    words = "It is in" if outcome.passed is not False else "What was made is in"
    return f"<p class='place'>{words} <code>{wording.place(outcome.folder)}</code></p>"
