"""Your own rows in tokens: where they come from, how long they are, and what a limit on their length costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio import jobs
from studio.dataset import ColumnMapping, Format, Rows, at_cut_off
from studio.errors import InputError, StudioError
from studio.jobs import Measured
from studio.models import ModelRef
from studio.ui import data_view, dataset_chooser, wording
from studio.ui.dataset_chooser import (
    RECOGNISED,
    STARTER_SET,
    Looked,
    choices,
    columns_of,
    draw_chooser,
    draw_mapping,
    format_chosen,
    is_on_the_hub,
    mapping_of,
    offered,
    source_of,
    split_chosen,
)
from studio.ui.handlers import Update, answering, hub_token, on, on_cancel, told
from studio.ui.tokenizer_panel import Panel

_QUEUE: dict[str, Any] = {"concurrency_id": "data", "concurrency_limit": 4}


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows that were measured, and where they are to be cut."""

    data: str
    """The name of the dataset, or of the file."""
    mapping: ColumnMapping
    limit: int
    """Tokens of a row that are kept."""


@dataclass(frozen=True, slots=True)
class DataPanel:
    """The panel, and what it hands on."""

    panel: Panel
    chosen: dict[str, Any]
    """The inputs that `offered` takes, and the split."""
    measured: gr.State
    """`Measured`, or None."""
    cut_off: gr.State
    """`Cut`, or None where nothing was measured."""
    send: gr.Button
    """Asks to go on to Fine-tune with it."""


def data_panel(model: gr.Dropdown) -> DataPanel:
    """Draw the panel and connect it."""
    with gr.Tab("Your data", id="data") as tab:
        gr.HTML(
            "<p>How long are your rows in tokens, and what does a limit on their length cost?</p>",
            padding=False,
            elem_classes="panel-line",
        )
        chooser = draw_chooser("data")
        with gr.Row(elem_id="data-buttons", elem_classes="button-row"):
            begin = gr.Button("Measure", variant="primary", min_width=140, scale=0, elem_id="measure")
            stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="measure-stop")
        note = gr.HTML("", elem_id="data-note", elem_classes="note-line")
        with gr.Accordion("Advanced", open=False, elem_id="data-mapping") as advanced:
            columns = draw_mapping("data")
        shown = _result_widgets()
        states = {name: gr.State(None) for name in ("rows", "measured", "cut_off")}
    looked, split = chooser.shown["looked"], chooser.shown["split"]
    chosen = {**chooser.named, "looked": looked}
    send = shown.pop("send")  # in a column that is hidden at first, among outputs it would lose its label
    outputs = {**chooser.named, **chooser.shown, **columns, **shown, **states}
    outputs |= {"advanced": advanced, "stop": stop, "note": note}
    asked = {**chosen, **columns, "split": split, "model": model}
    config, queue = chooser.shown["config"], _QUEUE | {"trigger_mode": "always_last"}
    running = [
        on(chooser.asks, look, inputs=chosen, outputs=outputs, **queue),
        on(config.input, look_at_config, inputs=chosen | {"config": config}, outputs=outputs, **queue),
        on(begin.click, measure, inputs=asked, outputs=outputs, **_QUEUE),
    ]
    on_cancel(stop, running, stopped, note=note, inputs={}, outputs=outputs)
    there = {"there": chooser.shown["there"]}
    on(split.input, split_chosen, inputs={"looked": looked, "split": split}, outputs=there, queue=False)
    by_hand = {"format_": columns["format_"], "rows": states["rows"]}
    on(columns["format_"].input, format_chosen, inputs=by_hand, outputs=columns, queue=False)
    cut = {"limit": shown["limit"], "measured": states["measured"]}
    on(shown["limit"].change, cut_at, inputs=cut, outputs=outputs, trigger_mode="always_last", queue=False)
    seen = {**chosen, "model": model, "measured": states["measured"]}
    panel = Panel(tab, show, seen, outputs, reads_text=False)
    return DataPanel(panel, chosen | {"split": split}, states["measured"], states["cut_off"], send)


def _result_widgets() -> dict[str, Any]:
    summary = gr.HTML("", elem_id="data-summary", elem_classes="bare")
    with gr.Column(visible=False, elem_id="data-lengths") as lengths:
        bars = gr.BarPlot(
            x="tokens",
            y="rows",
            y_aggregate="sum",
            height=240,
            x_title="Tokens",
            y_title="Rows",
            label="Rows by length",
            elem_id="data-bars",
        )
        beyond = gr.HTML("", elem_id="data-beyond", elem_classes="note-line")
        limit = gr.Slider(
            1, 1024, value=512, step=1, label="Cut-off", info="Tokens of a row that are kept", elem_id="data-limit"
        )
        cost = gr.HTML("", elem_id="data-cost", elem_classes="note-line")
        with gr.Row(elem_classes="button-row"):
            send = gr.Button("Fine-tune with this cut-off", min_width=220, scale=0, elem_id="data-send")
    outstanding = gr.HTML("", elem_id="data-outstanding", elem_classes="bare")
    return {
        "summary": summary,
        "lengths": lengths,
        "bars": bars,
        "beyond": beyond,
        "limit": limit,
        "cost": cost,
        "send": send,
        "outstanding": outstanding,
    }


# Looking


def look(*, looked: Looked | None, **named: Any) -> Iterator[Update]:
    """Show the fields of where the rows come from, and what is there; what was measured is of something else now."""
    yield _without_result()
    yield from dataset_chooser.look(looked=looked, **named)


def look_at_config(*, config: str, looked: Looked | None, **named: Any) -> Iterator[Update]:
    """Offer the splits of another config."""
    yield _without_result()
    yield from dataset_chooser.look_at_config(config=config, looked=looked, **named)


def _without_result() -> Update:
    return {
        "measured": None,
        "cut_off": None,
        "summary": "",
        "lengths": gr.update(visible=False),
        "outstanding": "",
    }


# Measuring


@answering
def measure(
    *, model: str | None, looked: Looked | None, split: str | None, format_: str, **values: Any
) -> Iterator[Update]:
    """Read the rows and count their tokens. Of a dataset on the Hub that was not looked at, say its size first."""
    columns = {name: values.pop(name) for name in list(values) if name.startswith("column_")}
    yield _without_result()
    source = source_of(**values)
    offer = yield from offered(looked=looked, **values)
    if looked is None or looked.offer is not offer:
        split = None
        yield choices(source, offer)
        if is_on_the_hub(source):
            yield {"note": wording.done("Press Measure again to download and count.")}
            return
    rows: Rows = yield from told(jobs.read_rows(offer, split, token=hub_token()))
    yield {"rows": rows}
    by_hand = mapping_of(format_, list(columns.values()))
    work = jobs.measure_rows(rows, ModelRef.parse(model or ""), by_hand, token=hub_token())
    try:
        measured: Measured = yield from told(work)
    except InputError:
        yield _by_hand(format_, rows, by_hand)
        raise
    yield _result(measured, by_hand)


def _by_hand(format_: str, rows: Rows, mapping: ColumnMapping | None) -> Update:
    """Open Advanced, with the columns that there are."""
    widgets = {} if format_ == RECOGNISED else columns_of(Format(format_), rows, mapping)
    return {"advanced": gr.update(open=True), **widgets}


def _result(measured: Measured, by_hand: ColumnMapping | None) -> Update:
    lengths, recognition = measured.lengths, measured.recognition
    limits = dict(lengths.percentiles)
    unsure = {}
    if by_hand is None and recognition.confidence < data_view.LEAST_SURE:
        mapping = recognition.mapping
        unsure = {"format_": str(mapping.format), **_by_hand(mapping.format, measured.rows, mapping)}
    return {
        **unsure,
        "measured": measured,
        "summary": data_view.summary(measured),
        "lengths": gr.update(visible=True),
        "bars": gr.update(**data_view.histogram(lengths)),
        "beyond": data_view.beyond(lengths),
        "limit": gr.update(maximum=max(limits[100], 2), value=limits[99]),
        **cut_at(limit=limits[99], measured=measured),
        "outstanding": data_view.details(measured),
        "note": wording.caution("It is not sure what the rows are meant as: look under Advanced.") if unsure else "",
    }


def cut_at(*, limit: float | None, measured: Measured | None) -> Update:
    """What it costs to cut the rows there; nothing is measured anew."""
    if measured is None or not limit:
        return {"cost": "", "cut_off": None}
    cut = Cut(measured.rows.name, measured.recognition.mapping, int(limit))
    return {"cost": data_view.cut_off(at_cut_off(measured.lengths, cut.limit)), "cut_off": cut}


def stopped() -> Update:
    """The panel after Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped.")}


def show(*, model: str | None, looked: Looked | None, measured: Measured | None, **named: Any) -> Iterator[Update]:
    """Say what the starter set takes, or that what was measured was measured with another model."""
    if measured:
        other = measured.model != str(ModelRef.parse(model or ""))
        words = f"This was measured with {measured.model}. Press Measure to count the tokens of {model}."
        yield {"note": wording.caution(words) if other else ""}
    elif looked is None and named["where"] == STARTER_SET:
        try:
            yield {**choices(source_of(**named), (yield from offered(looked=None, **named))), "note": ""}
        except StudioError as error:
            yield {"note": wording.problem(error)}
