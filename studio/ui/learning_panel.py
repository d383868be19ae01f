"""Train a tokenizer of your own, see what it learned beside the model's, and use it on every panel."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from studio import jobs
from studio.errors import InputError
from studio.models import ModelRef
from studio.tokenizer import Learned, Recipe
from studio.tokenizer.pieces import tokenize
from studio.ui import form, learning_view, wording
from studio.ui.data_panel import DataPanel
from studio.ui.dataset_chooser import chosen_rows
from studio.ui.handlers import CHANGING, Update, answering, hub_token, on, on_cancel, told
from studio.ui.model_strip import model_choices
from studio.ui.tokenizer_panel import Panel, opened

ROWS, FILES = "The rows under Your data", "Text files"
ALL_COLUMNS = "all columns"
FIRST = ("kind", "vocabulary_size")
SPECIAL_TOKENS = ("end_token", "pad_token", "more_tokens")
SHOWN_TOKENS = 2000
_FIELDS = [field.name for field in dataclasses.fields(Recipe)]
_LATER = set(_FIELDS) - {*FIRST, *SPECIAL_TOKENS}
_QUEUE: dict[str, Any] = {"concurrency_id": "learn", "concurrency_limit": 2}


def learning_panel(model: gr.Dropdown, text: gr.Textbox, data: DataPanel) -> Panel:
    """Draw the panel and connect it. `text` is shown in the tokens of what was learned, `data` the rows to learn from.

    A tokenizer that is to be used goes into `model`.
    """
    with gr.Tab("Train", id="train") as tab:
        gr.HTML(
            "<p>A tokenizer that learns from your own texts needs fewer tokens for texts like them.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        source = _source_widgets()
        with gr.Row(elem_classes="fields"):
            recipe = form.widgets(Recipe, only=FIRST)
            name = gr.Textbox(
                "my-tokenizer", label="Name", info="Of its folder in the workspace", max_lines=1, elem_id="learn-name"
            )
        with gr.Row(elem_classes="fields"):
            recipe |= form.widgets(Recipe, only=SPECIAL_TOKENS)
        with gr.Accordion("Advanced", open=False, elem_id="learn-advanced"), gr.Row(elem_classes="fields"):
            recipe |= form.widgets(Recipe, only=_LATER)
        with gr.Row(elem_id="learn-buttons", elem_classes="button-row"):
            begin = gr.Button("Train", variant="primary", min_width=140, scale=0, elem_id="learn")
            stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="learn-stop")
            use = gr.Button("Use it", min_width=120, scale=0, visible=False, elem_id="learn-use")
        note = gr.HTML("", elem_id="learn-note", elem_classes="note-line")
        found = gr.HTML("", elem_id="learned", elem_classes="bare")
        made = gr.State(None)
    shown = {"files": source["files"], "column": source["column"]}
    outputs = {**shown, "stop": stop, "use": use, "note": note, "found": found, "made": made}
    recipe = {f"recipe_{field}": widget for field, widget in recipe.items()}
    asked = {**source, **recipe, **data.chosen, "learned_name": name, "model": model, "text": text}
    run = on(begin.click, train_tokenizer, inputs=asked, outputs=outputs, **_QUEUE)
    on_cancel(stop, [run], stopped, note=note, inputs={}, outputs=outputs)
    on(
        source["learn_from"].input,
        source_chosen,
        inputs={"learn_from": source["learn_from"]},
        outputs=shown,
        queue=False,
    )
    on(use.click, used, inputs={"made": made}, outputs={"model": model, "note": note}, queue=False)
    return Panel(tab, show, {"measured": data.measured}, {"column": source["column"]})


def _source_widgets() -> dict[str, Any]:
    with gr.Row(elem_id="learn-source"):
        learn_from = gr.Radio([ROWS, FILES], value=ROWS, label="Learn from", min_width=280, elem_id="learn-from")
        column = gr.Dropdown(
            [ALL_COLUMNS],
            value=ALL_COLUMNS,
            label="Column",
            info="Text, or the turns of a conversation",
            **CHANGING,
            min_width=220,
            elem_id="learn-column",
        )
    files = gr.File(
        label="Text files in UTF-8", file_count="multiple", visible=False, height=140, elem_id="learn-files"
    )
    return {"learn_from": learn_from, "column": column, "files": files}


def source_chosen(*, learn_from: str) -> Update:
    """Show what the source has to be told."""
    return {"files": gr.update(visible=learn_from == FILES), "column": gr.update(visible=learn_from == ROWS)}


def show(*, measured: jobs.Measured | None) -> Iterator[Update]:
    """Offer the columns of the rows that were measured."""
    yield {"column": gr.update(choices=[ALL_COLUMNS, *(measured.rows.columns if measured else ())])}


@answering
def train_tokenizer(
    *, learn_from: str, column: str, files: list[str] | None, learned_name: str, model: str, text: str, **values: Any
) -> Iterator[Update]:
    """Train, and show what came of it."""
    recipe = form.read(Recipe, {field: values.pop(f"recipe_{field}") for field in _FIELDS})
    source = yield from (_written(column, **values) if learn_from == ROWS else _files(files))
    current = ModelRef.parse(model or "")
    job = jobs.learn_tokenizer(source, recipe, learned_name.strip(), against=current, token=hub_token())
    learned: Learned = yield from told(job)
    tokenizer = (yield from opened(learned.folder)).tokenizer
    sample = tokenize(tokenizer, text or "", special_tokens=False)
    yield {
        "found": learning_view.learned(learned, str(current), sample.window(0, SHOWN_TOKENS), len(sample.ids)),
        "made": learned.folder,
        "use": gr.update(visible=True),
        "note": "",
    }


def _written(column: str, **data: Any) -> Generator[Update, None, jobs.Written]:
    """A column of the rows that are chosen under Your data."""
    rows = yield from chosen_rows(**data)
    if column not in (ALL_COLUMNS, *rows.columns):
        raise InputError(
            f"{rows.name} has no column {column!r}.", f"Its columns are {', '.join(rows.columns)}: choose one of them."
        )
    return jobs.Written(rows, rows.columns if column == ALL_COLUMNS else (column,))


def _files(files: list[str] | None) -> Generator[Update, None, list[Path]]:
    if not files:
        raise InputError("No file is chosen.", "Drop one or more text files into the field, or click there.")
    yield {}
    return [Path(file) for file in files]


def used(*, made: str | None) -> Update:
    """Put the new tokenizer into the strip, so that every panel speaks of it."""
    if not made:
        return {}
    return {
        "model": gr.update(choices=model_choices(), value=made),
        "note": wording.done(f"{Path(made).name} is chosen above: every panel speaks of it now."),
    }


def stopped() -> Update:
    """The panel after Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped. Nothing was kept.")}
