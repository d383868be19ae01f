"""Every token of a tokenizer: a search while one types, special tokens, what does not fit the model, and shares."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.checkpoint import read_json
from studio.errors import StudioError
from studio.events import Phase, Progress
from studio.heartbeat import patiently
from studio.jobs import Opened
from studio.tokenizer import added_tokens, census, mismatches, search
from studio.tokenizer.spelling import Spelling, spelling
from studio.ui import vocabulary_view, wording
from studio.ui.handlers import Update, on
from studio.ui.tokenizer_panel import TEXT_QUEUE, Panel, opened

if TYPE_CHECKING:
    from studio.tokenizer.vocabulary import By

PAGE = 50
"""Tokens that are shown at once."""
_MODES: dict[str, By] = {"Text": "text", "Id": "id", "Regular expression": "pattern"}
_BACK, _AHEAD = "◀ Previous", "Next ▶"  # said again with each change: Gradio loses them where the row was hidden
_SLOW = wording.progress(Progress(Phase.SEARCH))


def vocabulary_panel(model: gr.Dropdown) -> Panel:
    """Draw the panel and connect it."""
    with gr.Tab("Vocabulary", id="vocabulary") as tab:
        gr.HTML("Every token that the model knows: look one up, and see what they are made of.", elem_classes="lead")
        with gr.Row(elem_id="vocabulary-search"):
            query = gr.Textbox(
                "ing",
                label="Search",
                placeholder="a text, 5, 100-120, ^ing$",
                max_lines=1,
                scale=3,
                min_width=200,
                elem_id="vocabulary-query",
            )
            mode = gr.Radio(list(_MODES), value="Text", label="By", scale=2, min_width=300, elem_id="vocabulary-mode")
        note = gr.HTML("", elem_id="vocabulary-note", elem_classes="note-line")
        results = gr.HTML("", elem_id="vocabulary-results", elem_classes="plainly")
        with gr.Row(visible=False, elem_classes="button-row", elem_id="vocabulary-pages") as pages:
            back = gr.Button(_BACK, size="sm", min_width=110, scale=0)
            ahead = gr.Button(_AHEAD, size="sm", min_width=110, scale=0)
        about = gr.HTML("", elem_id="vocabulary-about", elem_classes="bare")
        first = gr.State(0)
    inputs = {"model": model, "query": query, "mode": mode}
    found = {"note": note, "results": results, "pages": pages, "back": back, "ahead": ahead, "first": first}
    on([query.change, mode.change], find, inputs=inputs, outputs=found, **TEXT_QUEUE)
    on(back.click, page_back, inputs=inputs | {"first": first}, outputs=found, **TEXT_QUEUE)
    on(ahead.click, page_ahead, inputs=inputs | {"first": first}, outputs=found, **TEXT_QUEUE)
    return Panel(tab, show, inputs, found | {"about": about}, reads_text=False)


def show(*, model: str | None, query: str, mode: str) -> Iterator[Update]:
    """Say what the vocabulary is made of, and search."""
    try:
        found = yield from opened(model)
        about = yield from patiently(lambda _stop: _about(found), {"note": _SLOW})
        yield {"about": vocabulary_view.about(about)}
    except StudioError as error:
        yield {"note": wording.problem(error), "results": "", "pages": gr.update(visible=False), "about": ""}
        return
    yield from _page(model, query, mode, 0)


def find(*, model: str | None, query: str, mode: str) -> Iterator[Update]:
    """Show the first tokens that match."""
    yield from _page(model, query, mode, 0)


def page_back(*, model: str | None, query: str, mode: str, first: int) -> Iterator[Update]:
    """Show those before."""
    yield from _page(model, query, mode, max(0, first - PAGE))


def page_ahead(*, model: str | None, query: str, mode: str, first: int) -> Iterator[Update]:
    """Show those after."""
    yield from _page(model, query, mode, first + PAGE)


def _page(model: str | None, query: str, mode: str, first: int) -> Iterator[Update]:
    try:
        tokenizer = (yield from opened(model)).tokenizer
        wanted = partial(search, tokenizer, query or "", by=_MODES[mode], start=first, count=PAGE)
        found = yield from patiently(lambda _stop: wanted(), {"note": _SLOW})
        how = spelling(tokenizer.backend_tokenizer) if tokenizer.is_fast else Spelling()
        yield {
            "note": "",
            "results": vocabulary_view.results(found, how, asked=bool(query)),
            "pages": gr.update(visible=found.total > PAGE),
            "back": gr.update(value=_BACK, interactive=first > 0),
            "ahead": gr.update(value=_AHEAD, interactive=first + PAGE < found.total),
            "first": first,
        }
    except StudioError as error:
        yield {"note": wording.problem(error), "results": "", "pages": gr.update(visible=False)}


def _about(found: Opened) -> vocabulary_view.About:
    config, generation = (_held(found.folder / name) for name in ("config.json", "generation_config.json"))
    return vocabulary_view.About(
        census(found.tokenizer), added_tokens(found.tokenizer), mismatches(found.tokenizer, config, generation)
    )


def _held(file: Path) -> dict[str, Any]:
    """What a file of the model says; nothing where there is none, as beside a tokenizer alone or in a GGUF."""
    return read_json(file) if file.is_file() else {}
