"""The strip above the tabs: one model for the whole page, chosen once, and the bar that says what is in memory."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio import compute, hub, jobs
from studio.errors import StudioError
from studio.events import Finished
from studio.keeping import kept_models, kept_tokenizers
from studio.loading import AUTO, LoadPlan, Placement, Quantization, Resident
from studio.merging.outcome import merged_models
from studio.models import STARTER, ModelRef, Precision
from studio.settings import Settings
from studio.ui import form, wording
from studio.ui.find_panel import find_panel
from studio.ui.handlers import MODEL_QUEUE, Update, hub_token, on, on_cancel

BAR_SECONDS = 2.0
"""How often the session bar looks; it costs a fraction of a millisecond and is sent only when it changed."""


@dataclass(frozen=True, slots=True)
class Strip:
    """The strip as it was drawn."""

    plan: gr.State
    """The LoadPlan of the model that was loaded from this page."""
    made_for: gr.Textbox
    """What the model in memory was made for and how it is held: every other model is a change."""
    parts: dict[str, Any]

    @property
    def chosen(self) -> dict[str, Any]:
        """The widgets that say which model is wanted."""
        return {name: self.parts[name] for name in ("model", "precision")}


def draw_strip() -> Strip:
    """Draw the strip; `connect_strip` brings it to life once everything is there that says how to load."""
    plan = gr.State(None)
    # A component and not a State: the change of a State that a generator makes does not always reach its listeners.
    made_for = gr.Textbox(visible="hidden", label="Made for")
    with gr.Column(elem_id="model-strip"):
        with gr.Row(elem_id="model-choice"):
            model = gr.Dropdown(
                model_choices(),
                value=str(STARTER),
                label="Model",
                allow_custom_value=True,
                scale=6,
                min_width=170,
                elem_id="model",
            )
            held = [AUTO, *(precision for precision in Precision if precision.bits)]
            precision = gr.Dropdown(held, value=AUTO, label="Precision", scale=1, min_width=110, elem_id="precision")
            load = gr.Button("Load", variant="primary", scale=0, min_width=104, elem_id="load")
            cancel = gr.Button("Cancel", variant="stop", scale=0, min_width=104, elem_id="cancel-load", visible=False)
            unload = gr.Button("Unload", scale=0, min_width=104, elem_id="unload")
        note = gr.HTML("", elem_id="model-note")
        find_panel(model)
        bar = gr.HTML("", elem_id="session-bar")
    parts = {"model": model, "precision": precision, "load": load, "cancel": cancel, "unload": unload}
    return Strip(plan, made_for, {**parts, "note": note, "bar": bar})


def connect_strip(page: gr.Blocks, strip: Strip, how: dict[str, Any]) -> None:
    """Connect the strip's buttons. `how` are the widgets that say how to load, by the names of their fields."""
    parts, bar = strip.parts, strip.parts["bar"]
    outputs = {"plan": strip.plan, "made_for": strip.made_for, **parts}
    running = on(parts["load"].click, load_model, inputs={**strip.chosen, **how}, outputs=outputs, **MODEL_QUEUE)
    on_cancel(parts["cancel"], [running], cancelled, note=parts["note"], inputs={}, outputs=outputs)
    on(parts["unload"].click, unload_model, inputs={}, outputs=outputs, **MODEL_QUEUE)
    on(gr.Timer(BAR_SECONDS).tick, refreshed_bar, inputs={"shown": bar}, outputs={"bar": bar}, queue=False)
    on(page.load, found, inputs={}, outputs=outputs, queue=False)


def found() -> Update:
    """The page when it opens: it speaks of the model that is in memory, if there is one for this person."""
    resident = _own_resident()
    if resident is None:
        return {"bar": session_bar()}
    return {"made_for": _made_for(resident), "model": str(resident.plan.model), "bar": session_bar()}


def _own_resident() -> Resident | None:
    """The model in memory, where the only one who can have put it there is whoever is looking."""
    return None if Settings.from_env().shared else jobs.SESSION.status().resident


def _made_for(resident: Resident) -> str:
    """Conversations or texts; with its precision and name, so that every other model is a change."""
    held = resident.plan.precision.name if resident.plan.precision else ""
    return f"{'chat' if resident.has_chat_template else 'text'} {held} {resident.plan.model}"


def model_choices() -> list[str | tuple[str, str]]:
    """The starter, what was kept, merged or trained here, and the Hub's cache; visitors see the starter alone.

    What was trained is a tokenizer by itself, and goes by its name.
    """
    settings = Settings.from_env()
    if settings.shared:
        return [str(STARTER)]
    kept = [str(model.folder) for model in kept_models(settings.workspace)]
    merged = [str(folder) for folder in merged_models(settings.workspace)]
    trained = [(f"{folder.name} (tokenizer)", str(folder)) for folder in kept_tokenizers(settings.workspace)]
    return [str(STARTER), *kept, *merged, *trained, *(str(model.ref) for model in hub.cached_models())]


def plan_for(model: str, precision: str, *, attention: str = AUTO, **how: Any) -> LoadPlan:
    """The plan behind what was chosen; `auto` leaves the precision to the checkpoint and this machine."""
    return LoadPlan(
        ModelRef.parse(model),
        None if precision == AUTO else Precision(precision),
        quantization=form.read(Quantization, how) if how else Quantization(),
        attention=attention,
        placement=form.read(Placement, how) if how else Placement(),
    )


def default_plan() -> LoadPlan:
    """What a person talks to who has chosen nothing on this page: what is in memory, or the starter."""
    resident = _own_resident()
    return resident.plan if resident else plan_for(str(STARTER), AUTO)


def load_model(*, model: str | None, precision: str, seen: str = "", **how: Any) -> Iterator[Update]:
    """Download where needed, load, and say what it took."""
    yield {"load": gr.update(visible=False), "cancel": gr.update(visible=True), "note": wording.note("Getting ready…")}
    try:
        asked, _, pinned = (seen or "").partition("\n")
        plan = plan_for(pinned if pinned and asked == (model or "").strip() else model or "", precision, **how)
        began, phase = time.monotonic(), None
        with closing(jobs.load(plan, token=hub_token())) as events:
            for event in events:
                if isinstance(event, Finished):
                    yield _loaded(event.result, asked=model)
                    continue
                if getattr(event, "phase", None) is not phase:
                    began, phase = time.monotonic(), getattr(event, "phase", None)
                yield {"note": wording.progress(event, seconds=time.monotonic() - began)}
    except StudioError as error:
        yield {**_idle(), "note": wording.problem(error)}


def _idle() -> Update:
    return {"load": gr.update(visible=True), "cancel": gr.update(visible=False), "bar": session_bar()}


def _loaded(resident: Resident, *, asked: str | None) -> Update:
    plan = resident.plan
    update = {
        **_idle(),
        "plan": plan,
        "made_for": _made_for(resident),
        "note": wording.done(wording.resident_facts(resident)),
    }
    if plan.model.where == "hub":  # it may be new in the cache; an update of the choices opens the list, so not always
        update["model"] = gr.update(choices=model_choices(), value=asked)
    return update


def cancelled() -> Update:
    """The page after Cancel. What was downloaded stays, and the next try goes on from there."""
    return {**_idle(), "note": wording.done("Cancelled. What was downloaded is kept for the next try.")}


def unload_model() -> Iterator[Update]:
    """Let go of the model and say, measured, what is free."""
    with closing(jobs.unload()) as events:
        for event in events:
            if isinstance(event, Finished):
                yield {
                    **_idle(),
                    "note": wording.done(f"Unloaded. {wording.size(event.result)} are free."),
                }
            else:
                yield {"note": wording.progress(event)}


def refreshed_bar(*, shown: str | None) -> Update:
    """The session bar, where it has changed."""
    return {} if (bar := session_bar()) == shown else {"bar": bar}


def session_bar() -> str:
    """Which model is in memory, what it takes, what is free, and who has it."""
    status, cells = jobs.SESSION.status(), []
    if held := status.resident:
        adapter = f" + {held.plan.adapter.name}" if held.plan.adapter else ""
        cells.append(("In memory", f"{wording.model(held.plan.model)}{adapter}, {held.plan.precision}"))
        cells.append(("Weights", wording.size(held.weights)))
    else:
        cells.append(("In memory", "no model yet"))
    cells.append(("Studio takes", wording.size(compute.process_memory())))
    cells.append(("Free", wording.size(compute.free_ram())))
    line = f", {status.waiting} waiting" if status.waiting else ""
    cells.append(("Now", f"{status.busy_with}{line}" if status.busy_with else "idle"))
    told = "".join(f"<span><b>{label}</b> {html.escape(value)}</span>" for label, value in cells)
    return f'<div class="session" data-busy="{str(bool(status.busy_with)).lower()}">{told}</div>'
