"""Your own rows in tokens: where they come from, how long they are, and what a limit on their length costs."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio import jobs
from studio.dataset import OPTIONAL, REQUIRED, ColumnMapping, Format, Rows, at_cut_off
from studio.errors import InputError, StudioError
from studio.jobs import Measured, Offer, Upload
from studio.models import BUNDLED, DatasetRef, ModelRef
from studio.ui import data_view, wording
from studio.ui.handlers import Update, answering, hub_token, on, on_cancel, told
from studio.ui.tokenizer_panel import Panel

STARTER_SET, FILE, HUB = "A starter set", "A file of yours", "The Hub"
RECOGNISED = "recognise it"
NO_COLUMN = "none"
COLUMNS = 4
"""As many parts as a format has at most."""
_QUEUE: dict[str, Any] = {"concurrency_id": "data", "concurrency_limit": 4}


@dataclass(frozen=True, slots=True)
class DataPanel:
    """The panel, and what it hands on."""

    panel: Panel
    chosen: dict[str, Any]
    """The inputs that `offered` takes, and the split."""
    measured: gr.State
    """`Measured`, or None."""
    cut_off: gr.State
    """The limit that was chosen, in tokens, or None."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at, and what was found there."""

    source: DatasetRef | Upload
    offer: Offer


def data_panel(model: gr.Dropdown) -> DataPanel:
    """Draw the panel and connect it."""
    with gr.Tab("Your data", id="data") as tab:
        gr.HTML(
            "<p>How long are your rows in tokens, and what does a limit on their length cost?</p>",
            padding=False,
            elem_classes="panel-line",
        )
        source = _source_widgets()
        part = _part_widgets()
        with gr.Row(elem_id="data-buttons", elem_classes="button-row"):
            begin = gr.Button("Measure", variant="primary", min_width=140, scale=0, elem_id="measure")
            stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="measure-stop")
        note = gr.HTML("", elem_id="data-note", elem_classes="note-line")
        mapping = _mapping_widgets()
        shown = _result_widgets()
        states = {name: gr.State(None) for name in ("looked", "rows", "measured", "cut_off")}
    chosen = {**source["inputs"], "looked": states["looked"]}
    outputs = {**source["shown"], **part, **mapping, **shown, **states, "stop": stop, "note": note}
    columns = {name: widget for name, widget in mapping.items() if name != "advanced"}
    asked = {**chosen, **columns, "split": part["split"], "model": model}
    named, queue = source["inputs"], _QUEUE | {"trigger_mode": "always_last"}
    changes = [named["where"].input, named["bundled"].input, named["file"].upload, named["file"].clear]
    asks = [*changes, source["find"].click, named["name"].submit]
    of_config = chosen | {"config": part["config"]}
    running = [
        on(asks, look, inputs=chosen, outputs=outputs, **queue),
        on(part["config"].input, look_at_config, inputs=of_config, outputs=outputs, **queue),
        on(begin.click, measure, inputs=asked, outputs=outputs, **_QUEUE),
    ]
    on_cancel(stop, running, stopped, note=note, inputs={}, outputs=outputs)
    of_split = {"looked": states["looked"], "split": part["split"]}
    on(part["split"].input, split_chosen, inputs=of_split, outputs={"there": part["there"]}, queue=False)
    by_hand = {"format_": mapping["format_"], "rows": states["rows"]}
    on(mapping["format_"].input, format_chosen, inputs=by_hand, outputs=mapping, queue=False)
    cut = {"limit": shown["limit"], "measured": states["measured"]}
    on(shown["limit"].change, cut_at, inputs=cut, outputs=outputs, trigger_mode="always_last", queue=False)
    seen = {**chosen, "model": model, "measured": states["measured"]}
    panel = Panel(tab, show, seen, outputs, reads_text=False)
    return DataPanel(panel, chosen | {"split": part["split"]}, states["measured"], states["cut_off"])


def _source_widgets() -> dict[str, Any]:
    where = gr.Radio([STARTER_SET, FILE, HUB], value=STARTER_SET, label="Rows from", elem_id="data-where")
    sets = [("persona: talk like a pirate", BUNDLED[0]), ("orders: a sentence into JSON", BUNDLED[1])]
    bundled = gr.Dropdown(sets, value=BUNDLED[0], label="Starter set", elem_id="data-bundled")
    file = gr.File(label="JSON Lines, JSON, CSV, Parquet or text", visible=False, height=140, elem_id="data-file")
    with gr.Row(visible=False, elem_id="data-hub") as row:
        name = gr.Textbox(
            label="Name on the Hub",
            placeholder="owner/name, its address, or owner/name:config:split",
            max_lines=1,
            scale=4,
            min_width=200,
            elem_id="data-name",
        )
        find = gr.Button("Look", min_width=90, scale=0, elem_id="data-look")
    inputs = {"where": where, "bundled": bundled, "file": file, "name": name}
    return {"inputs": inputs, "find": find, "shown": {"bundled": bundled, "file": file, "hub": row}}


def _part_widgets() -> dict[str, Any]:
    with gr.Row(elem_id="data-part"):
        config = gr.Dropdown([], label="Config", visible=False, min_width=160, elem_id="data-config")
        split = gr.Dropdown([], label="Split", visible=False, min_width=160, elem_id="data-split")
    return {"config": config, "split": split, "there": gr.HTML("", elem_id="data-there", elem_classes="note-line")}


def _mapping_widgets() -> dict[str, Any]:
    with gr.Accordion("Advanced", open=False, elem_id="data-mapping") as advanced:
        format_ = gr.Dropdown(
            [RECOGNISED, *Format],
            value=RECOGNISED,
            label="Format of the rows",
            info="What a row is meant as; choose it where it is not recognised",
            elem_id="data-format",
        )
        with gr.Row(elem_id="data-columns"):
            columns = {
                f"column_{number}": gr.Dropdown(
                    [], visible=False, allow_custom_value=True, min_width=160, elem_id=f"data-column-{number}"
                )
                for number in range(COLUMNS)
            }
    return {"advanced": advanced, "format_": format_, **columns}


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
    outstanding = gr.HTML("", elem_id="data-outstanding", elem_classes="bare")
    return {
        "summary": summary,
        "lengths": lengths,
        "bars": bars,
        "beyond": beyond,
        "limit": limit,
        "cost": cost,
        "outstanding": outstanding,
    }


# Looking


def source_of(*, where: str, bundled: str, file: str | None, name: str) -> DatasetRef | Upload:
    """What the widgets name. Raises InputError where that is nothing."""
    if where == STARTER_SET:
        return DatasetRef.parse(bundled)
    if where == HUB:
        return DatasetRef.parse(name or "")
    if not file:
        raise InputError("No file is chosen.", "Drop one into the field above, or click there.")
    return Upload(Path(file))


def offered(*, looked: Looked | None, **named: Any) -> Generator[Update, None, Offer]:
    """What there is to choose from in what the widgets name, looked at where that was not done yet."""
    source = source_of(**named)
    if looked and looked.source == source:
        return looked.offer
    offer: Offer = yield from told(jobs.look_at_dataset(source, token=hub_token()))
    return offer


def look(*, looked: Looked | None, **named: Any) -> Iterator[Update]:
    """Show the fields of where the rows come from, and the configs and splits there, once something is named."""
    where = named["where"]
    yield {
        **_nothing_measured(),
        "bundled": gr.update(visible=where == STARTER_SET),
        "file": gr.update(visible=where == FILE),
        "hub": gr.update(visible=where == HUB),
    }
    if (where == FILE and not named["file"]) or (where == HUB and not (named["name"] or "").strip()):
        return
    yield from _look(looked=looked, **named)


@answering
def _look(*, config: str | None = None, looked: Looked | None, **named: Any) -> Iterator[Update]:
    source = source_of(**named)
    if config:
        offer: Offer = yield from told(jobs.look_at_dataset(source, config=config, token=hub_token()))
    else:
        offer = yield from offered(looked=looked, **named)
    yield {**_choices(source, offer), "note": ""}


def look_at_config(*, config: str, looked: Looked | None, **named: Any) -> Iterator[Update]:
    """Offer the splits of another config."""
    yield _nothing_measured() | {"looked": looked}
    yield from _look(config=config, looked=looked, **named)


def _nothing_measured() -> Update:
    """The panel of a dataset that was not looked at."""
    return {
        **_without_result(),
        "looked": None,
        "rows": None,
        "note": "",
        "there": "",
        "config": gr.update(choices=[], value=None, visible=False),
        "split": gr.update(choices=[], value=None, visible=False),
        "format_": RECOGNISED,
        **{f"column_{number}": gr.update(visible=False) for number in range(COLUMNS)},
    }


def _without_result() -> Update:
    return {
        "measured": None,
        "cut_off": None,
        "summary": "",
        "lengths": gr.update(visible=False),
        "outstanding": "",
    }


def _choices(source: DatasetRef | Upload, offer: Offer) -> Update:
    """The configs and splits as drop-downs, where there are several."""
    layout = offer.layout
    names = [split.name for split in layout.splits]
    wished = None if isinstance(source, Upload) else source.split
    chosen = wished or ("train" if "train" in names else names[0])
    return {
        "looked": Looked(source, offer),
        "config": gr.update(choices=list(layout.configs), value=layout.config, visible=len(layout.configs) > 1),
        "split": gr.update(choices=names, value=chosen, visible=len(names) > 1),
        "there": data_view.what_is_there(offer, layout.split(chosen)),
    }


def split_chosen(*, looked: Looked | None, split: str) -> Update:
    """Say what the split takes."""
    return {"there": data_view.what_is_there(looked.offer, looked.offer.layout.split(split))} if looked else {}


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
        choices, split = _choices(source, offer), None
        yield choices
        if isinstance(source, DatasetRef) and source.where == "hub":
            yield {"note": wording.done("Press Measure again to download and count.")}
            return
    rows: Rows = yield from told(jobs.read_rows(offer, split, token=hub_token()))
    yield {"rows": rows}
    by_hand = _mapping(format_, list(columns.values()))
    work = jobs.measure_rows(rows, ModelRef.parse(model or ""), by_hand, token=hub_token())
    try:
        measured: Measured = yield from told(work)
    except InputError:
        yield _by_hand(format_, rows, by_hand)
        raise
    yield _result(measured, by_hand)


def _mapping(format_: str, columns: list[str | None]) -> ColumnMapping | None:
    """What was chosen by hand; None where the rows are to be recognised."""
    if format_ == RECOGNISED:
        return None
    chosen = zip(_parts(Format(format_)), columns, strict=False)
    return ColumnMapping(Format(format_), tuple((part, name) for part, name in chosen if name and name != NO_COLUMN))


def _parts(format_: Format) -> tuple[str, ...]:
    return REQUIRED[format_] + OPTIONAL[format_]


def _by_hand(format_: str, rows: Rows, mapping: ColumnMapping | None) -> Update:
    """Open Advanced, with the columns that there are."""
    widgets = {} if format_ == RECOGNISED else _columns(Format(format_), rows, mapping)
    return {"advanced": gr.update(open=True), **widgets}


def format_chosen(*, format_: str, rows: Rows | None) -> Update:
    """Offer a column for each part of the format."""
    if format_ == RECOGNISED:
        return {f"column_{number}": gr.update(visible=False, value=None) for number in range(COLUMNS)}
    return _columns(Format(format_), rows, None)


def _columns(format_: Format, rows: Rows | None, mapping: ColumnMapping | None) -> Update:
    parts, there = _parts(format_), list(rows.columns) if rows else []
    updates: Update = {f"column_{number}": gr.update(visible=False, value=None) for number in range(COLUMNS)}
    for number, part in enumerate(parts):
        needed = part in REQUIRED[format_]
        known = mapping.column(part) if mapping else part if part in there else None
        updates[f"column_{number}"] = gr.update(
            visible=True,
            label=part.capitalize(),
            choices=there if needed else [NO_COLUMN, *there],
            value=known or (None if needed else NO_COLUMN),
        )
    return updates


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
    return {"cost": data_view.cut_off(at_cut_off(measured.lengths, int(limit))), "cut_off": int(limit)}


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
            yield {**_choices(source_of(**named), (yield from offered(looked=None, **named))), "note": ""}
        except StudioError as error:
            yield {"note": wording.problem(error)}
