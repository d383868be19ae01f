"""Set a merge up: an adapter, what it is, whether it fits its base, what that takes, and the button that begins it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from studio import keeping, merges
from studio.errors import InputError, StudioError
from studio.jobs.matching import Matched, match
from studio.jobs.rounding import WAYS_OF, how_trained, measure_ways
from studio.loading import Quantization
from studio.merges import MergeOrder
from studio.merges.adapters import made, named
from studio.merging import Choices
from studio.merging.plan import ORIGINAL
from studio.models import ModelRef
from studio.settings import Settings
from studio.ui import form, merge_view, training_setup, wording
from studio.ui.handlers import CHANGING, MODEL_QUEUE, Update, answering, hub_token, on, on_cancel, told

TAB_ID, LABEL = "merging", "Merge"
SETTING = "merge_"
"""Before the names of the widgets of a MergeOrder."""
_QUEUE: dict[str, Any] = {"concurrency_id": "matching", "concurrency_limit": 1, "trigger_mode": "always_last"}


def merge_setup(tab: gr.Tab, page: dict[str, Any], merge: gr.State, parts: gr.Tabs) -> dict[str, Any]:
    """Draw the panel and connect it. A merge that begins goes into `merge`, and the part that follows it is shown.

    `page` are the tabs of the page, and which of them is open. Returns what was drawn by name: `matched` is the state
    that holds the adapter as it was found, None before.
    """
    with gr.Tab("Set up", id="setup"), gr.Row(elem_id="merge-row"):
        with gr.Column(scale=7, min_width=320):
            drawn = _draw_adapter()
            with gr.Accordion("Advanced", open=False, elem_id="merge-advanced"):
                drawn |= _draw_advanced()
            drawn |= _draw_ways()
        with gr.Column(scale=3, min_width=290, elem_id="merge-side"):
            drawn |= _draw_side()
            drawn["matched"] = gr.State(None)
    outputs = {**drawn, "merge": merge, "parts": parts}
    asked = {name: drawn[name] for name in ("adapter", "base", "name", f"{SETTING}dtype")}
    seen = {"matched": outputs["matched"]}
    on(tab.select, opened, inputs=asked | seen, outputs=outputs, **_QUEUE)
    on(drawn["adapter"].input, chosen, inputs=asked, outputs=outputs, **_QUEUE)
    on([drawn["base"].submit, drawn["base"].blur], based, inputs=asked | seen, outputs=outputs, **_QUEUE)
    on(drawn[f"{SETTING}dtype"].input, weighed, inputs=seen | asked, outputs=outputs, queue=False)
    settings = {name: widget for name, widget in drawn.items() if name.startswith(SETTING)}
    begun = asked | settings | seen | {name: drawn[name] for name in ("prompts", "trained_in")}
    on(drawn["start"].click, start, inputs=begun, outputs=outputs, concurrency_id="runs", concurrency_limit=4)
    on(drawn["teach"].click, go_and_teach, inputs={}, outputs=page, queue=False)
    ways = {"stop": drawn["ways_stop"], "note": drawn["ways_note"], "found": drawn["ways_found"]}
    asking = seen | {"trained_in": drawn["trained_in"]}
    measuring = on(drawn["ways_measure"].click, measure, inputs=asking, outputs=ways, **MODEL_QUEUE)
    on_cancel(drawn["ways_stop"], [measuring], stopped, note=drawn["ways_note"], inputs={}, outputs=ways)
    return drawn


def _draw_adapter() -> dict[str, Any]:
    parts: dict[str, Any] = {"nothing": gr.HTML("", elem_id="merge-nothing", elem_classes="plainly")}
    with gr.Row(visible=False, elem_classes="button-row") as parts["first"]:
        parts["teach"] = gr.Button("Go to Fine-tune", variant="primary", min_width=170, scale=0, elem_id="merge-teach")
    parts["adapter"] = gr.Dropdown(
        [],
        label="Adapter",
        info="What a run has learnt; or write a folder that begins with / or ./, or owner/name on the Hub",
        elem_id="merge-adapter",
        **CHANGING,
    )
    with gr.Row(elem_classes="fields"):
        parts |= {
            "base": gr.Textbox(
                label="Base model",
                info="As the adapter says; another one is checked by names and shapes",
                max_lines=1,
                elem_id="merge-base",
            ),
            "name": gr.Textbox(
                label="Name of the merged model",
                info="A folder of this name among the models of the workspace",
                max_lines=1,
                elem_id="merge-name",
            ),
        }
    parts["about"] = gr.HTML("", elem_id="merge-about", elem_classes="plainly")
    return parts


def _draw_advanced() -> dict[str, Any]:
    with gr.Row(elem_classes="fields"):
        widgets = form.widgets(MergeOrder, only=("dtype", "shard_size", "prove"), prefix="merge")
    prompts = gr.Textbox(
        label="Prompts of the proof",
        info="Base with adapter and merged model have to answer them alike; one a line, beside four that are fixed",
        lines=3,
        elem_id="merge-prompts",
    )
    return {f"{SETTING}{name}": widget for name, widget in widgets.items()} | {"prompts": prompts}


def _draw_ways() -> dict[str, Any]:
    with gr.Accordion("Trained on a quantized base?", open=False, elem_id="merge-ways") as fold:
        gr.HTML(merge_view.ways_explained(), elem_classes="plainly", padding=False)
        with gr.Row(elem_classes="button-row"):
            trained_in = gr.Dropdown(
                list(WAYS_OF), value="nf4", label="Held as", min_width=140, scale=0, elem_id="ways-of"
            )
            button = gr.Button("Measure the three ways", min_width=220, scale=0, elem_id="ways-measure")
            stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="ways-stop")
        onto = form.widgets(MergeOrder, only=("onto",), prefix="merge")["onto"]
        note = gr.HTML("", elem_id="ways-note", elem_classes="note-line")
        found = gr.HTML("", elem_id="ways-found", elem_classes="plainly")
    return {
        "ways": fold,
        f"{SETTING}onto": onto,
        "trained_in": trained_in,
        "ways_measure": button,
        "ways_stop": stop,
        "ways_note": note,
        "ways_found": found,
    }


def _draw_side() -> dict[str, Any]:
    return {
        "takes": gr.HTML("", elem_id="merge-takes", elem_classes="plainly"),
        "start": gr.Button("Merge and prove", variant="primary", interactive=False, elem_id="merge-start"),
        "note": gr.HTML("", elem_id="merge-note", elem_classes="note-line"),
    }


# The adapter


def opened(*, adapter: str | None, matched: Matched | None, **values: Any) -> Iterator[Update]:
    """The tab when it is opened: the adapter that was made last, unless one is chosen."""
    try:
        merges.listing()  # visitors of a shared machine have none
    except StudioError as error:
        yield {"nothing": wording.problem(error), "start": gr.update(interactive=False)}
        return
    there = made()
    choices = [(each.label, each.value) for each in there]
    if not adapter and not there:
        yield {"nothing": merge_view.nothing(), "first": gr.update(visible=True), "takes": "", "about": ""}
        return
    shown = gr.update(choices=choices, value=adapter or there[0].value)
    yield {"nothing": "", "first": gr.update(visible=False), "adapter": shown}
    if not adapter or matched is None:
        yield from chosen(adapter=adapter or there[0].value, **values)
    elif (Settings.from_env().workspace / "models" / values["name"].strip()).exists():
        yield {"name": _free_name(matched)}  # it was merged since


def chosen(*, adapter: str | None, base: str, name: str, **values: Any) -> Iterator[Update]:
    """Another adapter, with the base that it names."""
    del base, name
    yield {"base": "", "name": "", "ways_found": ""}
    yield from _look(adapter, "", values[f"{SETTING}dtype"], fresh=True)


def based(*, adapter: str | None, base: str, matched: Matched | None, **values: Any) -> Iterator[Update]:
    """The same adapter on another base."""
    if not adapter or (matched and matched.base and base.strip() == str(matched.base)):
        return
    yield from _look(adapter, base, values[f"{SETTING}dtype"], fresh=False)


def _look(adapter: str | None, base: str, dtype: str, *, fresh: bool) -> Iterator[Update]:
    yield {
        "note": wording.note("Looking at the adapter…"),
        "about": "",
        "takes": "",
        "start": gr.update(interactive=False),
    }
    try:
        found: Matched = yield from told(match(adapter or "", base, token=hub_token()))
    except StudioError as error:
        yield {"note": wording.problem(error), "matched": None}
        return
    held = found.trained.precision if found.trained else None
    quantized = held is not None and held.quantizes
    yield {
        "matched": found,
        "base": str(found.base) if found.base else base,
        **({"name": _free_name(found)} if fresh else {}),
        "about": merge_view.about(found),
        "takes": merge_view.takes(found, dtype),
        **({"ways": gr.update(open=True), "trained_in": str(held)} if quantized else {}),
        "note": "",
        "nothing": "",
        "first": gr.update(visible=False),
        "start": gr.update(interactive=found.base is not None and (found.fits or found.fit is None)),
    }


def _free_name(found: Matched) -> str:
    """A name for what comes of it that is not taken."""
    return free_name(Settings.from_env().workspace / "models", called(found), "-merged")


def called(found: Matched) -> str:
    """An adapter by the name of its run, or of its folder."""
    return next((each.name for each in made() if str(each.folder) == found.ref.name), Path(found.ref.name).name)


def free_name(place: Path, called: str, ending: str) -> str:
    """A name with this ending for what comes of something, which nothing in a place has."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", called).strip("-._")[:60] or "model"
    names = (f"{stem}{ending}{f'-{number}' if number > 1 else ''}" for number in range(1, 1000))
    return next(name for name in names if not (place / name).exists())


def weighed(*, matched: Matched | None, **values: Any) -> Update:
    """What it takes in another dtype."""
    return {"takes": merge_view.takes(matched, values[f"{SETTING}dtype"])} if matched else {}


def go_and_teach() -> Update:
    """Open Fine-tune."""
    return {"tabs": gr.update(selected=training_setup.TAB_ID), "showing": training_setup.LABEL}


# The merge


def start(**values: Any) -> Iterator[Update]:
    """Begin the merge, and show it."""
    yield {"note": wording.note("Beginning…"), "start": gr.update(interactive=False)}
    try:
        id_ = merges.create(_order(values))
        merges.start(id_, token=hub_token())
    except StudioError as error:
        yield {"note": wording.problem(error), "start": gr.update(interactive=True)}
        return
    began = wording.done("It runs in a process of its own. Follow it under Result.")
    yield {"merge": id_, "parts": gr.update(selected="result"), "note": began, "start": gr.update(interactive=True)}


def _order(values: dict[str, Any]) -> MergeOrder:
    """What the widgets ask for. Raises InputError."""
    ref, run = named(values["adapter"] or "")
    settings = {key.removeprefix(SETTING): value for key, value in values.items() if key.startswith(SETTING)}
    precision, quantization = None, Quantization()
    if settings["onto"] != ORIGINAL:
        precision, quantization = how_trained(values["matched"], values["trained_in"])
    return MergeOrder(
        base=ModelRef.parse(values["base"]),
        adapter=ref,
        output=keeping.place(Settings.from_env().workspace, values["name"].strip()),
        dtype=settings["dtype"],
        shard_size=float(settings["shard_size"] or 0),
        onto=settings["onto"],
        precision=precision,
        quantization=quantization,
        prove=settings["prove"],
        prompts=tuple(line.strip() for line in (values["prompts"] or "").splitlines() if line.strip()),
        run=run,
    )


# The ways into a quantized base


@answering
def measure(*, matched: Matched | None, trained_in: str) -> Iterator[Update]:
    """Merge in memory on each of the three ways, and say how far each is from what was trained."""
    yield {"found": ""}
    if matched is None or matched.base is None:
        raise InputError("No adapter is chosen.", "Choose one above.")
    found: Choices = yield from told(measure_ways(matched, trained_in, token=hub_token()))
    yield {"found": merge_view.ways(found), "note": ""}


def stopped() -> Update:
    """After Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped.")}
