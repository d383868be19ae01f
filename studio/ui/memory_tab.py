"""Whether it fits: what a model takes to generate or to train, by part, live for every knob, before any download."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

import gradio as gr

from studio import advice, compute, jobs, memory
from studio.errors import InputError, StudioError
from studio.jobs import Answer
from studio.loading import AUTO, best_precision
from studio.memory import DEVICES, THIS, Point, Question
from studio.models import Precision
from studio.ui import form, memory_view, wording
from studio.ui.handed import Handed
from studio.ui.handlers import Update, answering, hub_token, on, on_cancel, told

LABEL, TAB_ID = "Memory", "memory"
LINK_FIELD = "memory"
"""The part of the page's address that holds a question."""
_QUEUE: dict[str, Any] = {"concurrency_id": "memory", "concurrency_limit": 8, "trigger_mode": "always_last"}
_FIRST = ("task", "context", "batch", "method", "rank", "checkpointing", "device")
"""The knobs that matter up front; the rest is under Advanced."""
_PURPOSE = "<p>Whether it fits, before anything is downloaded: move a knob and see what holds the memory.</p>"
_CONTEXTS = [str(1 << n) for n in range(9, 18)]
_COPY = f"""(query) => {{
  const url = location.origin + location.pathname + "?{LINK_FIELD}=" + encodeURIComponent(query);
  navigator.clipboard.writeText(url);
}}"""


def memory_tab(page: gr.Blocks, tabs: gr.Tabs, chosen: dict[str, Any], showing: gr.State) -> Handed:
    """Draw the tab and connect it. `chosen` are the strip's model and precision; `showing` which tab is open.

    Returns the Question that fits, for the tab that trains.
    """
    with gr.Tab(LABEL, id=TAB_ID) as tab, gr.Row(elem_id="memory-row"):
        with gr.Column(scale=7, min_width=320):
            shown = _answers()
        with gr.Column(scale=3, min_width=280, elem_id="memory-knobs"):
            knobs = _knobs()
            asked = gr.Textbox(visible="hidden", label="Asked")
            shown["question"] = gr.State(None)
    inputs = {**chosen, **knobs}
    # One listener for all of them: of several, one that began with the knobs half set could answer last.
    watched = [widget.change for name, widget in inputs.items() if name != "typed"]
    watched += [knobs["typed"].submit, knobs["typed"].blur, asked.change]
    on(watched, ask_while_open, inputs={**inputs, "showing": showing}, outputs=shown, **_QUEUE)
    on(tab.select, opened, inputs={}, outputs={"showing": showing, "asked": asked}, queue=False)
    running = on(shown["rehearse"].click, rehearse, inputs=inputs, outputs=shown, concurrency_id="rehearsal")
    on_cancel(shown["stop"], [running], stopped, note=shown["note"], inputs={}, outputs=shown)
    settings = {**knobs, "precision": chosen["precision"], "note": shown["note"]}
    on(shown["apply"].click, apply, inputs=inputs, outputs=settings)
    shown["copy"].click(None, inputs=shown["link"], js=_COPY)
    on(shown["copy"].click, link_copied, inputs={}, outputs={"note": shown["note"]}, queue=False)
    on(page.load, from_link, inputs={}, outputs={**settings, "tabs": tabs, "showing": showing, "asked": asked})
    return Handed(shown["question"], shown["send"])


def _answers() -> dict[str, Any]:
    gr.HTML(_PURPOSE, elem_id="memory-purpose")
    with gr.Row(elem_id="memory-buttons"):
        shown = {
            "rehearse": gr.Button(
                "Run the step on empty tensors", min_width=290, scale=0, variant="primary", elem_id="rehearse"
            ),
            "apply": gr.Button("Apply the changes", min_width=190, scale=0, visible=False, elem_id="apply-changes"),
            "send": gr.Button("Fine-tune with it", min_width=170, scale=0, visible=False, elem_id="memory-send"),
            "copy": gr.Button("Copy link", min_width=110, scale=0, elem_id="copy-link"),
            "stop": gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="stop-rehearsal"),
        }
    shown |= {
        "note": gr.HTML("", elem_id="memory-note", elem_classes="note-line"),
        "link": gr.Textbox(visible="hidden", label="Link", elem_id="memory-link"),
        "answer": gr.HTML("", elem_id="memory-answer", elem_classes="bare"),
        "fitting": gr.HTML("", elem_id="memory-fitting", elem_classes="bare"),
        "verdicts": gr.HTML("", elem_id="memory-devices", elem_classes="bare"),
    }
    with gr.Row(elem_id="memory-curves"):
        plain: dict[str, Any] = {"y": "GB", "y_lim": [0, None], "height": 220, "min_width": 280, "visible": False}
        shown["over_context"] = gr.LinePlot(x="Context", title="Peak over the context", **plain)
        shown["over_batch"] = gr.LinePlot(x="Batch", title="Peak over the batch", **plain)
    shown["record"] = gr.HTML("", elem_id="memory-record", elem_classes="bare")
    return shown


def _knobs() -> dict[str, Any]:
    about = {field.name: field for field in fields(Question)}
    places = [("This machine", THIS), *((device.name, key) for key, device in DEVICES.items()), ("No device", "")]
    knobs: dict[str, Any] = {
        "typed": gr.Textbox(
            label="Instead of the model above",
            info="A name, or numbers typed by hand",
            placeholder="8B, 32 layers",
            max_lines=1,
            elem_id="memory-typed",
        ),
        "task": gr.Radio(
            [("Train", "train"), ("Generate", "generate")], value="train", label="To", elem_id="memory-task"
        ),
        "context": gr.Dropdown(
            _CONTEXTS,
            value=str(about["context"].default),
            allow_custom_value=True,
            label="Context",
            info=about["context"].metadata["help"],
            elem_id="memory-context",
        ),
        "batch": gr.Number(
            about["batch"].default,
            label="Batch",
            info=about["batch"].metadata["help"],
            precision=0,
            elem_id="memory-batch",
        ),
        "method": gr.Dropdown(
            list(about["method"].metadata["choices"]),
            value=about["method"].default,
            label="Method",
            info=about["method"].metadata["help"],
            elem_id="memory-method",
        ),
        "rank": gr.Number(
            about["rank"].default, label="Rank", info=about["rank"].metadata["help"], precision=0, elem_id="memory-rank"
        ),
        "checkpointing": gr.Checkbox(
            True, label="Checkpointing", info=about["checkpointing"].metadata["help"], elem_id="memory-checkpointing"
        ),
        "device": gr.Dropdown(places, value=THIS, label="Make it fit", elem_id="memory-device"),
    }
    with gr.Accordion("Advanced", open=False, elem_id="memory-more"):
        knobs |= form.widgets(Question, but=("model", "precision", *_FIRST), prefix="memory")
    return knobs


def question_of(*, model: str | None, precision: str, typed: str | None, **knobs: Any) -> Question:
    """What the widgets ask. Raises InputError, naming the field, for what is no question."""
    whole = {name: _whole(name, knobs[name]) for name in ("context", "batch", "rank")}
    held = _settled(knobs["device"]) if precision == AUTO else Precision(precision)
    return Question(model=(typed or "").strip() or (model or "").strip(), precision=held, **knobs | whole)


def _settled(device: str) -> Precision:
    """What loading takes on a device where the precision is left to it; bf16 where no device is named."""
    if not device:
        return Precision.BF16
    place = memory.device(device)
    return best_precision(compute.Machine(place.kind, place.name, place.usable, has_bf16=place.bf16))[0]


def _asked(**values: Any) -> Generator[Update, None, Question]:
    """The question of the widgets, once this machine can be asked what it computes in."""
    for event in compute.imports():
        yield {"note": wording.progress(event)}
    return question_of(**values)


def _whole(name: str, value: Any) -> int:
    """What was typed into a field as a whole number."""
    text = str("" if value is None else value).strip().replace(",", "")
    try:
        return int(text)
    except ValueError as error:
        words = f"{name.capitalize()} is {text[:40]!r}, which is not a whole number."
        raise InputError(words, "Write digits, 2048 for example.") from error


def opened() -> Update:
    """Ask, now that the tab is open."""
    return {"showing": LABEL, "asked": str(time.time_ns())}


def ask_while_open(*, showing: str, **values: Any) -> Iterator[Update]:
    """Answer where the tab is the one that is open."""
    if showing == LABEL:
        yield from ask(**values)


def ask(**values: Any) -> Iterator[Update]:
    """Answer what the widgets ask, in closed form."""
    try:
        question = yield from _asked(**values)
        yield _drawn((yield from told(jobs.estimate(question, token=hub_token()))))
    except StudioError as error:
        yield {**_nothing(), "note": wording.problem(error)}


@answering
def rehearse(**values: Any) -> Iterator[Update]:
    """Carry out the real step on tensors without content, and show it beside the formula."""
    question = yield from _asked(**values)
    yield _drawn((yield from told(jobs.estimate(question, token=hub_token(), dry=True))))


def stopped() -> Update:
    """The tab after Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped.")}


def apply(**values: Any) -> Iterator[Update]:
    """Set the knobs, and the strip's precision, to what makes it fit the device; they bring the answer."""
    try:
        question = yield from _asked(**values)
        found: Answer = yield from told(jobs.estimate(question, token=hub_token()))
    except StudioError as error:
        yield {"note": wording.problem(error)}
        return
    if found.limits is None or not found.limits.fitting.changes:
        yield {"note": wording.done("Nothing has to be changed.")}
        return
    changes = {name: value for change in found.limits.fitting.changes for name, value in change.values}
    yield {"note": "", **{name: _shown(name, value) for name, value in changes.items()}}


def link_copied() -> Update:
    """Say that the link was copied."""
    return {"note": wording.done("The link is copied: it opens this page with the same question.")}


def from_link(request: gr.Request) -> Iterator[Update]:
    """Where the page's address holds a question, open the tab, set the knobs to it, and then ask."""
    query = request.query_params.get(LINK_FIELD)
    if query is None:
        yield {}
        return
    opening = {"tabs": gr.update(selected=TAB_ID), "showing": LABEL}
    try:
        values = {name: _shown(name, value) for name, value in asdict(Question.from_query(query)).items()}
    except StudioError as error:
        yield opening | {"note": wording.problem(error)}
        return
    values["typed"] = values.pop("model")
    yield opening | values
    yield {"asked": str(time.time_ns())}


def _shown(name: str, value: Any) -> Any:
    """A field of a question as its widget holds it."""
    return str(value) if name in ("context", "precision") else value


def _drawn(found: Answer) -> Update:
    """Everything that is shown of an answer."""
    target = memory.device(found.question.device) if found.question.device else None
    way = found.limits.fitting if found.limits else None
    rules = advice.on_memory(found.estimate, target, way)
    return {
        "answer": memory_view.answer(found, rules),
        "fitting": memory_view.fitting(found),
        "verdicts": memory_view.devices(found.fits),
        "record": memory_view.record(jobs.record(), found.fits[0].name),
        "over_context": _curve("Context", found.over_context),
        "over_batch": _curve("Batch", found.over_batch),
        "apply": gr.update(visible=bool(way and way.changes)),
        "question": way.question if way else found.question,
        "send": gr.update(visible=found.question.task == "train"),
        "link": found.question.query,
        "note": "",
    }


def _nothing() -> Update:
    """The tab without an answer."""
    hidden = gr.update(visible=False)
    return {
        "answer": "",
        "fitting": "",
        "verdicts": "",
        "record": "",
        "over_context": hidden,
        "over_batch": hidden,
        "apply": hidden,
        "question": None,
        "send": hidden,
    }


def _curve(axis: str, points: Sequence[Point]) -> Any:
    import pandas

    if not points:
        return gr.update(visible=False)
    rows = {axis: [point.value for point in points], "GB": [round(point.peak / 1e9, 3) for point in points]}
    return gr.update(value=pandas.DataFrame(rows), visible=True)
