"""What a model is, what loading it would take and where it would go; and, once it is loaded, what it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from studio import advice, compute, jobs
from studio.errors import InputError, PickleOnly, StudioError
from studio.inspection import Inspection
from studio.keeping import Kept
from studio.loading import ATTENTION, AUTO, Outlook, Placement, Quantization, Resident
from studio.models import ModelRef, Precision
from studio.quality import Quality
from studio.settings import Settings
from studio.speed import Speed
from studio.ui import form, loading_view, wording
from studio.ui.handlers import MODEL_QUEUE, Update, hub_token, on, on_cancel, told
from studio.ui.model_strip import plan_for

_DEFER = {"trigger_mode": "always_last"}
"""A click while the answer before is still coming is heard afterwards, where Gradio would drop it."""


def loading_tab(chosen: dict[str, Any], made_for: gr.Textbox) -> dict[str, Any]:
    """Draw the tab and connect it. `chosen` are the strip's model and precision; returns the widgets of how to load."""
    with gr.Tab("Load", id="loading") as tab, gr.Row(elem_id="loading-row"):
        with gr.Column(scale=7, min_width=320):
            shown = _answers()
            wished = _after()
        with (
            gr.Column(scale=3, min_width=280, elem_id="loading-settings"),
            gr.Accordion("Advanced", open=False, elem_id="how"),
        ):
            how = _how()
    running = [
        on([shown["ask"].click, tab.select], foresee, inputs={**chosen, **how}, outputs=shown, **_DEFER),
        on(shown["look"].click, look_inside, inputs={"model": chosen["model"]}, outputs=shown, **_DEFER),
        on(wished["keep"].click, keep, inputs={"name": wished["name"]}, outputs=shown, **MODEL_QUEUE),
        on(wished["quality"].click, check_quality, inputs={}, outputs=shown, **MODEL_QUEUE),
        on(wished["speed"].click, measure_speed, inputs={}, outputs=shown, **MODEL_QUEUE),
        on(shown["mend"].click, mend, inputs={"model": chosen["model"]}, outputs={**shown, **chosen}),
    ]
    on_cancel(shown["stop"], running, stopped, note=shown["note"], inputs={}, outputs=shown)
    on(made_for.change, show_resident, inputs={}, outputs={"held": shown["held"]}, queue=False)
    on(shown["apply"].click, applied, inputs={"label": shown["apply"]}, outputs={**shown, **chosen}, queue=False)
    return {"seen": shown["seen"], **how}


def _answers() -> dict[str, Any]:
    with gr.Row(elem_id="loading-buttons"):
        buttons = {
            "ask": gr.Button("What will it take?", min_width=190, scale=0, elem_id="foresee"),
            "look": gr.Button("Look inside", min_width=140, scale=0, elem_id="look-inside"),
            "apply": gr.Button("", min_width=150, scale=0, elem_id="apply-advice", visible=False),
            "mend": gr.Button("Convert to safetensors", min_width=220, scale=0, elem_id="convert", visible=False),
            "stop": gr.Button("Stop", variant="stop", min_width=96, scale=0, elem_id="stop-looking", visible=False),
        }
    return {
        **buttons,
        "note": gr.HTML("", elem_id="loading-note"),
        "seen": gr.Textbox(visible="hidden", label="Seen"),
        "held": gr.HTML("", elem_id="held"),
        "ahead": gr.HTML("", elem_id="outlook"),
        "inside": gr.HTML("", elem_id="inside"),
    }


def _after() -> dict[str, Any]:
    """What can be done with a model once it is in memory."""
    with gr.Row(elem_id="loaded-buttons"):
        return {
            "quality": gr.Button("Check the quality", min_width=170, scale=0, elem_id="check-quality"),
            "speed": gr.Button("Measure the speed", min_width=190, scale=0, elem_id="measure-speed"),
            "name": gr.Textbox(
                show_label=False,
                container=False,
                placeholder="Name to keep it under",
                min_width=170,
                elem_id="keep-name",
            ),
            "keep": gr.Button("Keep", min_width=90, scale=0, elem_id="keep"),
        }


def _how() -> dict[str, Any]:
    attention = gr.Dropdown(
        list(ATTENTION),
        value=AUTO,
        label="Attention",
        info="auto is the fastest that this machine has",
        elem_id="setting-attention",
    )
    return {"attention": attention, **form.widgets(Quantization), **form.widgets(Placement)}


def _answering(handler: Callable[..., Iterator[Update]]) -> Callable[..., Iterator[Update]]:
    """Show Stop while the handler runs, and what went wrong where the answer would stand."""

    @wraps(handler)
    def run(**values: Any) -> Iterator[Update]:
        yield {
            "stop": gr.update(visible=True),
            "mend": gr.update(visible=False),
            "note": wording.note("Getting ready…"),
        }
        try:
            yield from handler(**values)
            yield _idle()
        except StudioError as error:
            mend = gr.update(visible=isinstance(error, PickleOnly))
            yield {**_idle(), "note": wording.problem(error), "mend": mend}

    return run


def _idle() -> Update:
    return {"stop": gr.update(visible=False)}


@_answering
def foresee(*, model: str | None, precision: str, **how: Any) -> Iterator[Update]:
    """Estimate what loading would take, before anything is downloaded."""
    plan = plan_for(model or "", precision, **how)
    ahead: Outlook = yield from told(jobs.foresee(plan, token=hub_token()))
    rules = advice.on_loading(ahead, compute.machine())
    wish = next((rule.precision for rule in rules if rule.precision), None)
    yield {
        "ahead": loading_view.outlook(ahead, rules),
        "seen": _seen(model, str(ahead.plan.model)),
        "apply": gr.update(visible=wish is not None, value=f"Choose {wish}" if wish else ""),
        "note": "",
    }


@_answering
def look_inside(*, model: str | None) -> Iterator[Update]:
    """Read what a checkpoint holds, without loading or downloading it."""
    work = jobs.inspect(ModelRef.parse(model or ""), token=hub_token(), against_architecture=True)
    inside: Inspection = yield from told(work)
    pickles_only = any(finding.id == "pickle-only" for finding in inside.findings)
    yield {
        "inside": loading_view.inspection(inside, advice.on_checkpoint(inside)),
        "seen": _seen(model, f"{inside.model}@{inside.commit}" if inside.commit else inside.model),
        "mend": gr.update(visible=pickles_only),
        "note": "",
    }


@_answering
def mend(*, model: str | None) -> Iterator[Update]:
    """Convert a model that has pickle files only, and choose the folder that comes out."""
    folder: Path = yield from told(jobs.convert(ModelRef.parse(model or ""), token=hub_token()))
    words = f"Converted and compared byte for byte: {folder} is chosen now."
    yield {"model": str(folder), "note": wording.done(words)}


def _seen(model: str | None, pinned: str) -> str:
    """What was asked for, and the commit that was looked at: Load takes that one, whatever comes after it."""
    return f"{(model or '').strip()}\n{pinned}"


@_answering
def keep(*, name: str) -> Iterator[Update]:
    """Write the model in memory to a folder of the workspace, which loads again bit for bit."""
    kept: Kept = yield from told(jobs.keep(_resident().plan, name.strip(), token=hub_token()))
    words = (
        f"Kept in {kept.folder}: {wording.size(kept.after)}, from {wording.size(kept.before)}, in "
        f"{wording.duration(kept.seconds)}. {kept.tensors} tensors were read back and are equal bit for bit."
    )
    yield {"note": wording.done(words)}


@_answering
def check_quality() -> Iterator[Update]:
    """Hold the model in memory against itself in 16 bit."""
    found: Quality = yield from told(jobs.check_quality(_resident().plan, token=hub_token()))
    yield {"ahead": loading_view.quality(found), "note": ""}


@_answering
def measure_speed() -> Iterator[Update]:
    """Measure what each precision costs in speed on this machine."""
    found: tuple[Speed, ...] = yield from told(jobs.measure_speed())
    yield {"ahead": loading_view.speeds(found), "note": ""}


def _resident() -> Resident:
    held = None if Settings.from_env().shared else jobs.SESSION.status().resident
    if held is None:
        raise InputError("There is no model in memory.", "Press Load first.")
    return held


def stopped() -> Update:
    """The tab after Stop."""
    return {**_idle(), "note": wording.done("Stopped.")}


def applied(*, label: str) -> Update:
    """Choose the precision that the advice names; Load does the rest."""
    wish = Precision(label.removeprefix("Choose "))
    return {"precision": str(wish), "apply": gr.update(visible=False), "note": wording.done(f"{wish} is chosen.")}


def show_resident() -> Update:
    """What the model in memory took, to the one whose it is."""
    if Settings.from_env().shared:
        return {}
    resident = jobs.SESSION.status().resident
    return {"held": loading_view.resident(resident) if resident else ""}
