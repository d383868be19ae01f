"""A run as HTML and as what makes plots: where it is, its curves, what it said, what came of it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from studio.errors import StudioError
from studio.events import Phase, Progress, Waiting
from studio.runs import Run, Standing, State
from studio.training import Sampled, Warned
from studio.ui import run_log, run_story, sheet, wording
from studio.ui.run_story import Story

_WORTH = 0.1
"""Seconds that a phase has to take to be told of."""
STATES = {
    State.NEW: "not begun",
    State.QUEUED: "waits for its turn",
    State.PREPARING: "getting ready",
    State.RUNNING: "learning",
    State.STOPPING: "stopping",
    State.STOPPED: "stopped",
    State.FINISHED: "finished",
    State.FAILED: "failed",
    State.DIED: "broke off",
}


def head(run: Run, story: Story) -> str:
    """Where the run is, in words, with a bar, the figures so far and, where something went wrong, what to do."""
    standing = run.standing
    bad = standing.state in (State.FAILED, State.DIED)
    top = sheet.headline(f"{run.document.name}: {_where(standing, story)}", _time(standing, story), good=not bad)
    return (
        f'<div class="sheet run" data-state="{standing.state}">{top}{_bar(standing, story)}{stages(standing, story)}'
        f"{_figures(story)}{_went_wrong(standing)}{''.join(_warning(each) for each in story.warnings)}</div>"
    )


def _where(standing: Standing, story: Story) -> str:
    words = STATES[standing.state]
    if not story.total:
        return words
    if standing.state is State.FINISHED:
        return f"finished after {story.step:,} steps"
    if standing.state in (State.RUNNING, State.STOPPING):
        return f"{words}, step {story.step:,} of {story.total:,}"
    return f"{words} at step {story.step:,} of {story.total:,}" if story.steps else words


def _time(standing: Standing, story: Story) -> str:
    took = story.last_at - story.first_at
    if not standing.state.is_alive:
        return f"Took {wording.duration(took)}." if story.first_at else "Press Resume to begin."
    if standing.state is State.STOPPING:
        return "It ends after the step at hand, with a checkpoint."
    if isinstance(story.doing, Waiting):
        return f"{story.doing.busy_with} has the machine. {run_log.ahead(story.doing)}"
    left = story.seconds_left
    if left is not None:
        return f"About {wording.duration(left)} left. You may close the page: the run goes on without it."
    return "You may close the page: the run goes on without it."


def _bar(standing: Standing, story: Story) -> str:
    if not standing.state.is_alive and standing.state is not State.STOPPED:
        return ""
    value = f' value="{story.step / story.total:.3f}"' if story.total else ""
    words = "Steps that are done" if story.total else "Getting ready"
    return f'<progress class="wide"{value} aria-label="{words}"></progress>'


def stages(standing: Standing, story: Story) -> str:
    """What was done before the first step, and what is done now."""
    seconds: dict[str, float] = {}
    for stage in story.stages:
        words = _phase(stage.phase)
        seconds[words] = seconds.get(words, 0.0) + stage.seconds
    now = ""
    if standing.state.is_alive and isinstance(story.doing, Progress) and not story.is_learning:
        now = _phase(story.doing.phase)
        seconds.pop(now, None)
        if story.doing.total:
            now += f" {story.doing.done / story.doing.total:.0%}".replace("%", " %")
    done = [(words, took) for words, took in seconds.items() if took >= _WORTH]
    cells = [f"<li>{html.escape(words)} <small>{wording.duration(took)}</small></li>" for words, took in done]
    cells += [f'<li data-now="true">{html.escape(now)}…</li>'] if now else []
    return f'<ul class="phases" aria-label="Phases">{"".join(cells)}</ul>' if cells else ""


def _phase(phase: Phase) -> str:
    return "Looking for the files" if phase is Phase.RESOLVE else wording.phase(phase)


def _figures(story: Story) -> str:
    if not story.steps:
        return ""
    last, told = story.steps[-1], [(f"{story.steps[0].loss:.3f} → {story.steps[-1].loss:.3f}", "loss")]
    if story.looks:
        told.append((f"{story.looks[0].loss:.3f} → {story.looks[-1].loss:.3f}", "loss on held-out rows"))
    if last.seconds:
        told.append((f"{last.tokens / last.seconds:,.0f}", "tokens/s"))
    told.append((wording.size(last.memory), "memory at most"))
    if story.began:
        told.append((wording.count(story.began.trainable), f"parameters learn, on {story.began.device}"))
    return wording.facts(told)


def _went_wrong(standing: Standing) -> str:
    return wording.problem(StudioError(standing.message, standing.hint)) if standing.message else ""


def _warning(warned: Warned) -> str:
    return (
        f'<div class="advice" data-severity="{warned.severity}"><span>{html.escape(warned.message)}</span>'
        f"<small>{html.escape(warned.hint)}</small></div>"
    )


# Plots


def loss_plot(story: Story) -> dict[str, Any]:
    """The curve of the rows that are learnt beside that of the rows that are held out."""
    import pandas

    rows = pandas.DataFrame(run_story.losses(story), columns=["Step", "Loss", "Rows"])
    return {"value": rows, "x_lim": [0, max(story.total, 1)], "visible": bool(story.steps)}


def plots(story: Story) -> dict[str, dict[str, Any]]:
    """The four curves beside the loss, by name."""
    steps = story.steps
    curves: dict[str, tuple[str, list[tuple[float, float]]]] = {
        "rate": ("Learning rate", [(step.step, step.learning_rate) for step in steps]),
        "gradient": ("Gradient norm", [(step.step, step.gradient) for step in steps]),
        "pace": ("Tokens a second", run_story.speed(story)),
        "held": ("Memory, GB", [(step.step, step.memory / 1e9) for step in steps]),
    }
    return {name: _curve(axis, run_story.thinned(pairs), story.total) for name, (axis, pairs) in curves.items()}


def _curve(axis: str, pairs: Sequence[tuple[float, float]], total: int) -> dict[str, Any]:
    import pandas

    rows = pandas.DataFrame(pairs, columns=["Step", axis])
    return {"value": rows, "x_lim": [0, max(total, 1)], "visible": bool(len(rows))}


# Samples


def samples(story: Story, step: int) -> str:
    """What the model said at a step, beside what it said before it learnt anything."""
    then, first = story.samples_at(step), story.samples_at(0)
    if not then:
        return ""
    at = then[0].step
    before = {sample.prompt: sample.reply for sample in first}
    cells = "".join(_sample(sample, before.get(sample.prompt) if at else None) for sample in then)
    title = f"At step {at:,}" if at else "Before anything was learnt"
    return f'<div class="sheet samples"><h4>{title}</h4>{cells}</div>'


def _sample(sample: Sampled, before: str | None) -> str:
    was = f'<p class="was"><small>before</small>{html.escape(before)}</p>' if before is not None else ""
    said = html.escape(sample.reply) or "<em>nothing</em>"
    return f'<article><b>{html.escape(sample.prompt)}</b>{was}<p class="now">{said}</p></article>'
