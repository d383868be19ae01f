"""The rows that are learnt: where they come from, what they are taken for, and each as the model learns from it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from studio import advice, dataset, jobs, training
from studio.dataset import ColumnMapping, Preparation, Prepared, Recognition, Rows
from studio.errors import InputError, StudioError
from studio.jobs import Offer
from studio.settings import Settings
from studio.tokenizer import EndOfTurn, end_of_turn, generation_ends
from studio.training import Amount
from studio.ui import data_view, dataset_chooser, form, training_view, wording
from studio.ui.dataset_chooser import (
    RECOGNISED,
    Chooser,
    Looked,
    columns_of,
    draw_chooser,
    draw_mapping,
    format_chosen,
    is_on_the_hub,
    offered,
)
from studio.ui.handlers import CHANGING, Update, answering, hub_token, on, on_cancel, told
from studio.ui.tokenizer_panel import opened
from studio.ui.training_sources import A_SHARE, PREPARED, by_hand, mixed_of, naming, preparation_of, split_apart

_APART = ("validation", "valid", "dev", "eval", "test")
"""What splits are called that are there to measure with, the best one first."""
_QUEUE: dict[str, Any] = {"concurrency_id": "data", "concurrency_limit": 4}
CHECKED = 20_000
"""Rows that are checked without being asked for: that takes seconds, and tells of the others."""


@dataclass(frozen=True, slots=True)
class DataSection:
    """The section as it was drawn."""

    chooser: Chooser
    inputs: dict[str, Any]
    """What `sources_of` takes."""
    outputs: dict[str, Any]
    looked_at: gr.Textbox
    """Changes when there are other rows."""


def draw_data() -> dict[str, Any]:
    """What is always there: the chooser, the rows, and one of them in tokens."""
    parts: dict[str, Any] = {"chooser": draw_chooser("training")}
    with gr.Row(elem_id="training-data-buttons", elem_classes="button-row"):
        parts |= {
            "fetch": gr.Button("Show the rows", min_width=170, scale=0, visible=False, elem_id="training-fetch"),
            "check": gr.Button("Check every row", min_width=190, scale=0, visible=False, elem_id="training-check"),
            "stop": gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="training-stop"),
        }
    parts["note"] = gr.HTML("", elem_id="training-data-note", elem_classes="note-line")
    with gr.Row(visible=False, elem_id="training-row-bar", elem_classes="button-row") as bar:
        parts |= {
            "bar": bar,
            "back": gr.Button("◀", size="sm", min_width=44, scale=0, elem_id="training-row-back"),
            "title": gr.HTML("", elem_id="training-row-title", elem_classes="plainly"),
            "ahead": gr.Button("▶", size="sm", min_width=44, scale=0, elem_id="training-row-ahead"),
        }
    parts["row"] = gr.HTML("", elem_id="training-row", elem_classes="plainly")
    with gr.Accordion("The first rows", open=False, visible=False, elem_id="training-table-fold") as fold:
        parts |= {"fold": fold, "table": gr.HTML("", elem_id="training-table", elem_classes="bare")}
    parts["every"] = gr.HTML("", elem_id="training-every", elem_classes="bare")
    names = ("rows", "recognised", "amount", "at")
    parts |= {name: gr.State(0 if name == "at" else None) for name in names}
    parts["looked_at"] = gr.Textbox(visible="hidden", label="Looked at")
    return parts


def draw_meaning() -> dict[str, Any]:
    """What belongs under Advanced: the columns, which rows are held out, and how rows become examples."""
    parts = draw_mapping("training")
    parts["apart"] = gr.Dropdown(
        [A_SHARE],
        value=A_SHARE,
        label="Measured with",
        info="Rows that are not learnt",
        **CHANGING,
        elem_id="training-apart",
    )
    parts["mixed"] = gr.Textbox(
        label="Mix with",
        info="Other datasets, one a line, and how often their rows occur: orders 0.5 is every second one",
        placeholder="owner/name:split 0.5",
        lines=2,
        max_lines=6,
        elem_id="training-mixed",
    )
    with gr.Row(elem_classes="fields"):
        parts |= {f"{PREPARED}{name}": each for name, each in form.widgets(Preparation, prefix="prepare").items()}
    return parts


def connect_data(parts: dict[str, Any], meaning: dict[str, Any], model: gr.Dropdown, advanced: Any) -> DataSection:
    """Connect what was drawn. `advanced` is opened where a person has to say which column is what."""
    chooser: Chooser = parts.pop("chooser")
    split, config, looked = (chooser.shown[name] for name in ("split", "config", "looked"))
    named = {**chooser.named, "looked": looked, "split": split, **meaning}
    inputs = {**named, "model": model, "rows": parts["rows"], "recognised": parts["recognised"], "at": parts["at"]}
    outputs = {**chooser.named, **chooser.shown, **meaning, **parts, "advanced": advanced}
    live = _QUEUE | {"trigger_mode": "always_last"}
    running = [
        on(chooser.asks, look, inputs=inputs, outputs=outputs, **live),
        on(config.input, look_at_config, inputs=inputs | {"config": config}, outputs=outputs, **live),
        on([parts["fetch"].click, split.input], show_rows, inputs=inputs, outputs=outputs, **live),
    ]
    running.append(on(parts["check"].click, check_every, inputs=inputs, outputs=outputs, **live))
    format_of = {"format_": meaning["format_"], "rows": parts["rows"]}
    on(meaning["format_"].input, format_chosen, inputs=format_of, outputs=meaning, queue=False)
    for button, handler in (("back", row_before), ("ahead", row_behind)):
        on(parts[button].click, handler, inputs=inputs, outputs=outputs, **live)
    again = [meaning[name].input for name in meaning if name.startswith("column_")]
    again += [meaning[f"{PREPARED}{name}"].change for name in ("trained", "limit", "too_long")]
    on(again, same_row, inputs=inputs, outputs=outputs, **live)
    running.append(on([model.change, meaning["mixed"].blur], other_model, inputs=inputs, outputs=outputs, **live))
    on_cancel(parts["stop"], running, stopped, note=parts["note"], inputs={}, outputs=outputs)
    return DataSection(chooser, named, outputs, parts["looked_at"])


# Looking


def look(*, model: str | None, looked: Looked | None, **values: Any) -> Iterator[Update]:
    """Say what is there once something is named, and show its rows where nothing has to be downloaded for that."""
    yield _no_rows()
    source = naming(values)
    for update in dataset_chooser.look(looked=looked, **source):
        looked = update.get("looked", looked)
        yield update
    yield from _go_on(model, looked, values)


def look_at_config(*, config: str, model: str | None, looked: Looked | None, **values: Any) -> Iterator[Update]:
    """Another config of the dataset."""
    yield _no_rows()
    source = naming(values)
    for update in dataset_chooser.look_at_config(config=config, looked=looked, **source):
        looked = update.get("looked", looked)
        yield update
    yield from _go_on(model, looked, values)


def _go_on(model: str | None, looked: Looked | None, values: dict[str, Any]) -> Iterator[Update]:
    if looked is None:
        return
    yield _splits(looked)
    if is_on_the_hub(looked.source):
        yield {"fetch": gr.update(visible=True)}
        return
    fresh = values | {"format_": RECOGNISED, "split": None, "apart": _spare(looked)}
    yield from show_rows(model=model, looked=looked, **fresh)


def _splits(looked: Looked) -> Update:
    """The splits that may be held out; one that is there for that is."""
    names = [split.name for split in looked.offer.layout.splits]
    return {"apart": gr.update(choices=[A_SHARE, *(names if len(names) > 1 else [])], value=_spare(looked))}


def _spare(looked: Looked) -> str:
    names = [split.name for split in looked.offer.layout.splits]
    return next((name for word in _APART for name in names[1:] if name.lower().startswith(word)), A_SHARE)


def _no_rows() -> Update:
    hidden = gr.update(visible=False)
    cleared: Update = {
        "rows": None,
        "recognised": None,
        "amount": None,
        "at": 0,
        "row": "",
        "title": "",
        "table": "",
        "every": "",
    }
    return cleared | {"bar": hidden, "fold": hidden, "fetch": hidden, "check": hidden}


@answering
def show_rows(**values: Any) -> Iterator[Update]:
    """Read the rows, say what they are taken for, and show the first one as the model learns from it."""
    yield from read_rows(**values)


def read_rows(*, model: str | None, looked: Looked | None, split: str | None, **values: Any) -> Iterator[Update]:
    """The same, with what goes wrong raised."""
    yield _no_rows()
    offer = yield from offered(looked=looked, **naming(values))
    rows: Rows = yield from told(jobs.read_rows(offer, split, token=hub_token()))
    yield {"rows": rows, "table": training_view.rows_as_table(rows), "fold": gr.update(visible=True)}
    try:
        found = _recognised(rows, by_hand(values))
    except InputError:
        yield {"advanced": gr.update(open=True)}
        raise
    sure = found.confidence >= data_view.LEAST_SURE
    yield {"recognised": found, "note": training_view.recognised(rows, found, sure=sure)}
    if not sure:
        mapping = found.mapping
        yield {"format_": str(mapping.format), "advanced": gr.update(open=True)}
        yield columns_of(mapping.format, rows, mapping)
    mapping = by_hand(values) or found.mapping
    yield from _row(model, rows, mapping, values | {"at": 0})
    yield {"check": gr.update(visible=True)}
    yield from _every(model, rows, mapping, offer, values, most=CHECKED)
    yield {"note": training_view.recognised(rows, found, sure=sure)}


@answering
def check_every(
    *, model: str | None, rows: Rows | None, looked: Looked | None, recognised: Recognition | None, **values: Any
) -> Iterator[Update]:
    """Make examples of all rows, and say what became of them."""
    if rows is None or looked is None or recognised is None:
        raise InputError("There are no rows yet.", "Choose where they come from first.")
    yield from _every(model, rows, by_hand(values) or recognised.mapping, looked.offer, values, most=0)
    yield {"note": ""}


def _every(
    model: str | None, rows: Rows, mapping: ColumnMapping, offer: Offer, values: dict[str, Any], *, most: int
) -> Generator[Update, None, None]:
    """`most` is how many rows are looked at; 0 is all that the person wants to use."""
    preparation = preparation_of(values)
    if most and not 0 < preparation.most_rows < most:
        preparation = replace(preparation, most_rows=most)
    opener = yield from opened(model)
    apart, held_out = split_apart(values), None
    if apart:
        spare: Rows = yield from told(jobs.read_rows(offer, apart, token=hub_token()))
        held_out = (spare, mapping)
    work = dataset.prepare(
        [(rows, mapping, 1.0), *(yield from _mixed(values, preparation.most_rows))],
        opener.tokenizer,
        preparation,
        held_out=held_out,
        folder=Settings.from_env().workspace / "examples" / rows.file.stem,
    )
    found: Prepared = yield from told(work)
    part = found.rows < rows.count
    amount = _whole(training.amount_of(found), found.rows, rows.count) if most else training.amount_of(found)
    yield {
        "amount": amount,
        "every": training_view.prepared(found, part=part),
        "looked_at": f"{model} {found.fingerprint}",
    }


def _mixed(values: dict[str, Any], most: int) -> Generator[Update, None, list[tuple[Rows, ColumnMapping, float]]]:
    """The rows of the other datasets, what they mean, and how often they occur."""
    found = []
    for source in mixed_of(values):
        rows, recognition = yield from told(jobs.rows_of(source, most_rows=most, token=hub_token()))
        found.append((rows, recognition.mapping, source.weight))
    return found


def _whole(seen: Amount, looked_at: int, there: int) -> Amount:
    """How much all rows are, by those that were looked at."""
    if looked_at >= there:
        return seen
    return replace(seen, rows=seen.rows * there // looked_at, tokens=seen.tokens * there // looked_at)


def _recognised(rows: Rows, mapping: ColumnMapping | None) -> Recognition:
    if mapping is None:
        return dataset.recognise(rows)
    mapping.check(rows.columns)
    return Recognition(mapping, 1.0, "As you chose")


def other_model(**values: Any) -> Iterator[Update]:
    """The same rows in the tokens of another model, where they were looked at before."""
    rows, recognised, looked = (values[name] for name in ("rows", "recognised", "looked"))
    if rows is None or recognised is None or looked is None:
        return
    yield from same_row(**values)
    yield from _again(**values)


@answering
def _again(
    *, model: str | None, rows: Rows, looked: Looked, recognised: Recognition, **values: Any
) -> Iterator[Update]:
    yield from _every(model, rows, by_hand(values) or recognised.mapping, looked.offer, values, most=CHECKED)
    yield {"note": ""}


def stopped() -> Update:
    """The section after Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped.")}


# One row


def row_before(*, at: int, **values: Any) -> Iterator[Update]:
    """The row before."""
    yield from same_row(at=at - 1, **values)


def row_behind(*, at: int, **values: Any) -> Iterator[Update]:
    """The next row."""
    yield from same_row(at=at + 1, **values)


def same_row(
    *, model: str | None, rows: Rows | None, recognised: Recognition | None, **values: Any
) -> Iterator[Update]:
    """The same row, as it is learnt now."""
    if rows is None:
        return
    try:
        mapping = by_hand(values) or (recognised.mapping if recognised else None)
        if mapping:
            yield from _row(model, rows, mapping, values)
    except StudioError as error:
        yield {"row": wording.problem(error)}


def _row(
    model: str | None, rows: Rows, mapping: ColumnMapping, values: dict[str, Any]
) -> Generator[Update, None, None]:
    at = values["at"] % rows.count
    title = wording.done(f"Row {at + 1:,} of {rows.count:,} as it is learnt")
    yield {"at": at, "title": title, "bar": gr.update(visible=True)}
    try:
        opener = yield from opened(model)
        preparation = preparation_of(values)
        if split_apart(values):  # then every row of these is learnt
            preparation = replace(preparation, held_out=0.0)
        shown = dataset.preview(rows, at, opener.tokenizer, mapping, preparation)
        yield {"row": training_view.row(shown, advice.on_row(shown, _end(opener)))}
    except StudioError as error:
        yield {"row": wording.problem(error)}


def _end(opener: jobs.Opened) -> EndOfTurn | None:
    try:
        return end_of_turn(opener.tokenizer, generation_ends(opener.folder))
    except StudioError:
        return None  # no template, or one whose end cannot be told: the row is shown all the same
