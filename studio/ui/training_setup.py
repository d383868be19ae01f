"""Set up a run: rows, how they are learnt, what that takes, and the button that begins it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from studio import runs
from studio.errors import StudioError
from studio.jobs.planning import Ahead, look_ahead
from studio.jobs.rehearsing import rehearse as rehearsal
from studio.jobs.training import settings_for
from studio.loading import Placement, Quantization
from studio.memory import Question
from studio.training import Rehearsal, TrainingRun
from studio.ui import training_data, training_how, training_sources, training_view, wording
from studio.ui.data_panel import Cut
from studio.ui.handlers import Update, answering, hub_token, on, on_cancel, told
from studio.ui.model_strip import Strip, plan_for

_QUEUE: dict[str, Any] = {"concurrency_id": "ahead", "concurrency_limit": 4, "trigger_mode": "always_last"}
TAB_ID, LABEL = "training", "Fine-tune"
LOADING = (
    "attention",
    *(field.name for field in fields(Quantization)),
    *(field.name for field in fields(Placement)),
)
"""The widgets of the Load tab that say how a model is held."""


@dataclass(frozen=True, slots=True)
class SetupPanel:
    """The panel as it was drawn."""

    inputs: dict[str, Any]
    """All of its widgets, by name."""
    outputs: dict[str, Any]
    """What looking at the rows changes."""
    planned: dict[str, Any]
    """What looking ahead changes."""


def setup_panel(strip: Strip, how: dict[str, Any], run: gr.State, parts: gr.Tabs) -> SetupPanel:
    """Draw the panel and connect it. `how` says how the model is loaded; a run that begins goes into `run`, and the
    part of the tab that follows it is shown."""
    with gr.Tab("Set up", id="setup"), gr.Row(elem_id="training-row"):
        with gr.Column(scale=7, min_width=320):
            drawn = training_data.draw_data()
            with gr.Accordion("Advanced", open=False, elem_id="training-advanced") as advanced:
                gr.HTML("<h4>The rows</h4>", elem_classes="group")
                meaning = training_data.draw_meaning()
                settings = {**training_how.draw_settings(), **training_how.draw_prompts()}
        with gr.Column(scale=3, min_width=290, elem_id="training-side"):
            buttons = training_how.draw_how()
    model = strip.parts["model"]
    data = training_data.connect_data(drawn, meaning, model, advanced)
    learnt = {name: data.outputs[name] for name in ("rows", "amount", "recognised")}
    asked = {**strip.chosen, **how, **data.inputs, **settings, **learnt, "preset": buttons["preset"]}
    prepared = {name: widget for name, widget in meaning.items() if name.startswith(training_sources.PREPARED)}
    outputs = {**settings, **prepared, **buttons, "run": run, "parts": parts}
    watched = [data.looked_at.change, strip.chosen["precision"].change, buttons["preset"].input]
    on(watched, plan_ahead, inputs=asked, outputs=outputs, **_QUEUE)
    edited = [widget.input for name, widget in settings.items() if name.startswith(training_how.SETTING)]
    edited += [prepared[f"{training_sources.PREPARED}{name}"].input for name in ("limit", "most_rows")]
    on(edited, plan_own, inputs=asked, outputs=outputs, **_QUEUE)
    on(buttons["start"].click, start, inputs=asked, outputs=outputs, concurrency_id="runs", concurrency_limit=4)
    running = on(buttons["rehearse"].click, rehearse, inputs=asked, outputs=outputs, concurrency_id="rehearsal")
    on_cancel(buttons["stop"], [running], stopped, note=buttons["note"], inputs={}, outputs=outputs)
    return SetupPanel(asked, data.outputs, outputs)


# What is wished for


def run_of(values: dict[str, Any]) -> tuple[TrainingRun, tuple[Path, ...]]:
    """The run that the widgets describe, and the files that were given for it. Raises InputError."""
    source, held_out, files = training_sources.sources_of(values)
    run = TrainingRun(
        plan=plan_for(values["model"] or "", values["precision"], **{name: values[name] for name in LOADING}),
        data=(source, *training_sources.mixed_of(values)),
        held_out=held_out,
        preparation=training_sources.preparation_of(values),
        settings=training_how.settings_of(values),
        prompts=_prompts(values),
    )
    return run, files


def _prompts(values: dict[str, Any]) -> tuple[str, ...]:
    """What is asked on the way: what was written, or what the first rows ask."""
    written = tuple(line.strip() for line in (values["prompts"] or "").splitlines() if line.strip())
    return written or training_sources.first_prompts(values["rows"], values["recognised"])


# Before it begins


def plan_ahead(**values: Any) -> Iterator[Update]:
    """Choose what the preset chooses, and say what the run would take."""
    try:
        found: Ahead = yield from _ahead(values)
    except StudioError as error:
        yield {"takes": "", "note": wording.problem(error)}
        return
    choices = training_view.module_choices(found)
    yield {
        **(_chosen(found) if found.preset else {}),
        "meaning": training_view.meaning(found.preset),
        "takes": training_view.takes(found),
        training_how.TARGETS: gr.update(choices=choices, value=list(found.run.settings.target_names)),
        "note": "",
    }


def _ahead(values: dict[str, Any]) -> Generator[Update, None, Ahead]:
    run, _ = run_of(values)
    preset = training_how.PRESETS.get(values["preset"], "")
    found: Ahead = yield from told(look_ahead(run, amount=values["amount"], preset=preset, token=hub_token()))
    return found


def _chosen(found: Ahead) -> Update:
    """What a preset chose, in its widgets."""
    names = {
        f"{training_sources.PREPARED}{name}": getattr(found.run.preparation, name) for name in ("limit", "most_rows")
    }
    return {**training_how.shown(found.run.settings), **names}


def take_cut(*, cut: Cut | None, **values: Any) -> Iterator[Update]:
    """Open the tab with the cut-off that was chosen under Your data, and say what the run takes with it."""
    if cut is None:
        return
    limit = {f"{training_sources.PREPARED}limit": cut.limit}
    yield {**limit, "tabs": gr.update(selected=TAB_ID), "showing": LABEL}
    yield from plan_own(**values | limit)


def take_question(*, question: Question | None, **values: Any) -> Iterator[Update]:
    """Open the tab with what was weighed under Memory, and say what the run takes with it."""
    if question is None:
        return
    settings = settings_for(question, training_how.settings_of(values))
    taken = {
        "model": question.model,
        "precision": str(question.precision),
        "double_quant": question.double_quant,
        f"{training_sources.PREPARED}limit": question.context,
        **training_how.shown(settings),
    }
    opened = {"tabs": gr.update(selected=TAB_ID), "showing": LABEL, "advanced": gr.update(open=True)}
    yield taken | opened
    yield from plan_own(**values | taken)


def plan_own(**values: Any) -> Iterator[Update]:
    """The same, now that a setting is one's own."""
    yield {"preset": training_how.OWN}
    yield from plan_ahead(**values | {"preset": training_how.OWN})


@answering
def rehearse(**values: Any) -> Iterator[Update]:
    """Carry out two real steps on the longest batch, and say what they took."""
    yield {"rehearsed": ""}
    ahead = yield from _ahead(values)
    _, files = run_of(values)
    found: Rehearsal = yield from told(rehearsal(ahead.run, files, token=hub_token()))
    yield {"rehearsed": training_view.rehearsed(found, ahead), "note": ""}


def stopped() -> Update:
    """The panel after Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped.")}


def start(**values: Any) -> Iterator[Update]:
    """Begin the run, and show it."""
    yield {"note": wording.note("Beginning…"), "start": gr.update(interactive=False)}
    try:
        if values["amount"] is None and values["preset"] != training_how.OWN:
            values |= yield from _looked_at(values)
        run = (yield from _ahead(values)).run
        _, files = run_of(values)
        id_ = runs.create(run, files, name=(values["run_name"] or "").strip())
        runs.start(id_, token=hub_token())
    except StudioError as error:
        yield {"note": wording.problem(error), "start": gr.update(interactive=True)}
        return
    began = wording.done("It runs in a process of its own. Follow it under Run.")
    yield {"run": id_, "parts": gr.update(selected="run"), "note": began, "start": gr.update(interactive=True)}


def _looked_at(values: dict[str, Any]) -> Generator[Update, None, dict[str, Any]]:
    """The rows, where Start was pressed before they were shown: a preset goes by how many there are."""
    found: dict[str, Any] = {}
    for update in training_data.read_rows(**values):
        found |= {name: update[name] for name in ("rows", "recognised", "amount") if name in update}
        if "note" in update:
            yield {"note": update["note"]}
    return found
