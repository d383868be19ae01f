"""A run, followed: where it is, its curves, what the model says meanwhile, and the buttons that stop and resume it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio import runs
from studio.errors import StudioError
from studio.runs import Run, Told
from studio.training import Stop
from studio.ui import result_panel, run_log, run_view, wording
from studio.ui.handlers import Update, hub_token, on
from studio.ui.run_story import Story, story

BEAT_SECONDS = 1.0
"""How often the page looks. A look at a run that says nothing new reads no more than the size of a file."""
_PLOTS = {
    "rate": "Learning rate",
    "gradient": "Gradient norm",
    "pace": "Tokens a second",
    "held": "Memory, GB",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A run as far as this page has read it."""

    id: str
    offset: int = 0
    told: tuple[Told, ...] = ()
    state: str = ""
    """In which it was drawn last."""
    asked: int = 0
    """How often the model had been asked something by then."""


def run_panel(run: gr.State, tab_is_open: dict[str, Any], page: dict[str, Any]) -> None:
    """Draw the panel and connect it. `run` holds the id of the run that is looked at.

    `tab_is_open` are inputs by which `follow` tells whether anybody looks; `page` is what `connect_result` takes.
    """
    with gr.Tab("Run", id="run") as tab:
        outputs = {"seen": gr.State(None), **_draw_head(), **result_panel.result_panel()}
        outputs |= {**_draw_curves(), **_draw_samples()}
        with gr.Accordion("Log", open=False, elem_id="run-log-fold"):
            outputs["log"] = gr.HTML("", elem_id="run-log", elem_classes="bare")
        outputs |= result_panel.code_fold()
        timer = gr.Timer(BEAT_SECONDS)
    seen = {"run": run, "seen": outputs["seen"]}
    on(timer.tick, follow, inputs=seen | tab_is_open, outputs=outputs, queue=False, trigger_mode="always_last")
    on(run.change, opened, inputs={"run": run}, outputs=outputs, queue=False)
    on(tab.select, opened, inputs={"run": run}, outputs=outputs, queue=False)
    asking = {"note": outputs["note"], "stop": outputs["stop"], "ways": outputs["ways"]}
    on(outputs["stop"].click, ask_how, inputs={}, outputs=asking, queue=False)
    on(outputs["go_on"].click, gone_on, inputs={}, outputs=asking, queue=False)
    on(outputs["keep"].click, stop_and_keep, inputs={"run": run}, outputs=asking, queue=False)
    on(outputs["now"].click, stop_now, inputs={"run": run}, outputs=asking, queue=False)
    on(outputs["resume"].click, resume, inputs={"run": run}, outputs=outputs, queue=False)
    step = {"seen": outputs["seen"], "step": outputs["step"]}
    on(outputs["step"].input, step_chosen, inputs=step, outputs={"samples": outputs["samples"]}, queue=False)
    result_panel.connect_result(outputs, run, page)


def _draw_head() -> dict[str, Any]:
    parts = {"head": gr.HTML(_nothing(), elem_id="run-head", elem_classes="bare")}
    with gr.Row(elem_id="run-buttons", elem_classes="button-row"):
        parts |= {
            "stop": gr.Button("Stop…", variant="stop", min_width=110, scale=0, visible=False, elem_id="run-stop"),
            "resume": gr.Button(
                "Resume", variant="primary", min_width=120, scale=0, visible=False, elem_id="run-resume"
            ),
        }
    with gr.Row(visible=False, elem_id="run-ways", elem_classes="button-row") as ways:
        parts |= {
            "ways": ways,
            "keep": gr.Button(
                "Stop and keep a checkpoint", variant="primary", min_width=230, scale=0, elem_id="run-keep"
            ),
            "now": gr.Button("Stop now", variant="stop", min_width=110, scale=0, elem_id="run-now"),
            "go_on": gr.Button("Go on", min_width=110, scale=0, elem_id="run-go-on"),
        }
    parts["note"] = gr.HTML("", elem_id="run-note", elem_classes="note-line")
    return parts


def _draw_curves() -> dict[str, Any]:
    plain: dict[str, Any] = {"x": "Step", "visible": False}
    parts = {
        "loss": gr.LinePlot(
            y="Loss",
            color="Rows",
            color_map={"learnt": "#25957a", "held out": "#d97706"},
            title="Loss",
            height=260,
            elem_id="run-loss",
            **plain,
        )
    }
    with gr.Row(elem_id="run-curves"):
        for name, axis in _PLOTS.items():
            parts[name] = gr.LinePlot(y=axis, title=axis, height=180, min_width=270, elem_id=f"run-{name}", **plain)
    return parts


def _draw_samples() -> dict[str, Any]:
    with gr.Column(visible=False, elem_id="run-samples") as box:
        return {
            "box": box,
            "step": gr.Slider(
                0, 1, value=0, step=1, label="What the model says at step", elem_id="run-step", buttons=[]
            ),
            "samples": gr.HTML("", elem_id="run-said", elem_classes="bare"),
        }


def _nothing() -> str:
    return wording.done("No run yet. Press Start under Set up, or choose one under History.")


# Following


def follow(*, run: str | None, seen: Seen | None, showing: str, label: str) -> Update:
    """What is new of the run, where anybody looks at it."""
    if showing != label or not run:
        return {}
    try:
        return _news(run, seen)
    except StudioError as error:
        return {"head": wording.problem(error)}


def opened(*, run: str | None) -> Update:
    """All of a run."""
    if not run:
        return {"head": _nothing(), "seen": None, **_hidden()}
    try:
        return _news(run, None) | {"note": "", "ways": gr.update(visible=False)}
    except StudioError as error:
        return {"head": wording.problem(error), "seen": None, **_hidden()}


def _news(id_: str, seen: Seen | None) -> Update:
    before = seen if seen and seen.id == id_ else Seen(id_)
    run = runs.of(id_)
    with closing(runs.follow(id_, after=before.offset)) as news:
        new = next(news)
    told, state = (*before.told, *new.told), str(new.standing.state)
    if before.state == state and not new.told:
        return {}
    found = story(told)
    now = Seen(id_, new.offset, told, state, len(found.samples))
    update: Update = {"seen": now, "head": run_view.head(run, found), **_drawn(found, told)}
    if before.state != state:
        update |= _buttons(run, found) | result_panel.shown(run, found)
    if now.asked != before.asked or not before.state:
        update |= _last_said(found)
    return update


def _buttons(run: Run, found: Story) -> Update:
    state = run.standing.state
    return {
        "stop": gr.update(visible=state.is_alive and state is not runs.State.STOPPING),
        "resume": gr.update(visible=state.can_start, value="Resume" if found.steps else "Start again"),
        **({} if state.is_alive else {"ways": gr.update(visible=False)}),
    }


def _drawn(found: Story, told: tuple[Told, ...]) -> Update:
    return {
        "loss": gr.update(**run_view.loss_plot(found)),
        **{name: gr.update(**curve) for name, curve in run_view.plots(found).items()},
        "log": run_log.log(told),
    }


def _last_said(found: Story) -> Update:
    at = found.sampled_at
    last = at[-1] if at else 0
    return {
        "box": gr.update(visible=bool(at)),
        "step": gr.update(maximum=max(last, 1), value=last),
        "samples": run_view.samples(found, last),
    }


def _hidden() -> Update:
    names = ("stop", "resume", "ways", "loss", *_PLOTS, "box")
    return {**{name: gr.update(visible=False) for name in names}, "log": "", "samples": "", **result_panel.hidden()}


def step_chosen(*, seen: Seen | None, step: float) -> Update:
    """What the model said there."""
    return {"samples": run_view.samples(story(seen.told), int(step))} if seen else {}


# Stop and go on


def ask_how() -> Update:
    """Offer the three ways."""
    words = "With a checkpoint it goes on later as if it had never been stopped."
    return {"ways": gr.update(visible=True), "stop": gr.update(visible=False), "note": wording.done(words)}


def gone_on() -> Update:
    """It was not meant."""
    return {"ways": gr.update(visible=False), "stop": gr.update(visible=True), "note": ""}


def stop_and_keep(*, run: str | None) -> Update:
    """Ask it to end after the step at hand."""
    return _ask(run, Stop.CHECKPOINT, "It ends after the step at hand, and keeps a checkpoint.")


def stop_now(*, run: str | None) -> Update:
    """Ask it to end at once."""
    return _ask(run, Stop.NOW, "It ends at once. What was learnt since the last checkpoint is not kept.")


def _ask(run: str | None, how: Stop, words: str) -> Update:
    try:
        runs.ask_to_stop(run or "", how)
    except StudioError as error:
        return {"ways": gr.update(visible=False), "note": wording.problem(error)}
    return {"ways": gr.update(visible=False), "note": wording.done(words)}


def resume(*, run: str | None) -> Update:
    """Let it go on from its last checkpoint."""
    try:
        runs.start(run or "", token=hub_token())
        return _news(run or "", None) | {"note": ""}
    except StudioError as error:
        return {"note": wording.problem(error)}


def newest() -> str | None:
    """The run that a page opens on: one that is at work, or else the last one. None without any."""
    try:
        there = [each for each in runs.listing() if isinstance(each, Run)]
    except StudioError:  # visitors have none
        return None
    alive = [each for each in there if each.standing.state.is_alive]
    return (alive or there)[0].id if there else None
