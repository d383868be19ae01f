"""A text and its tokens, live while one types: coloured pieces, their ids, what is lost on the way there and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.tokenizer.pieces import Tokenized, tokenize
from studio.tokenizer.round_trip import decoded, parse_ids, round_trip
from studio.ui import tokens_view, wording
from studio.ui.handlers import Update, on
from studio.ui.tokenizer_panel import TEXT_QUEUE, Panel, opened

FULL_CHECK = 200_000
"""Characters of which the round trip is checked at every key that is pressed."""

_COPY_IDS = """() => {
  const ids = [...document.querySelectorAll("#pieces-view .ids i")].map((token) => token.textContent);
  navigator.clipboard.writeText(ids.join(", "));
}"""


def pieces_panel(model: gr.Dropdown, text: gr.Textbox) -> Panel:
    """Draw the panel and connect it; `text` is what is read."""
    with gr.Tab("Pieces", id="pieces") as tab:
        with gr.Row(elem_id="pieces-buttons", elem_classes="button-row"):
            special = gr.Checkbox(
                True, label="Special tokens around the text", container=False, min_width=250, elem_id="pieces-special"
            )
            copy_ids = gr.Button("Copy ids", size="sm", min_width=96, scale=0)
            copy_text = gr.Button("Copy text", size="sm", min_width=96, scale=0)
        note = gr.HTML("", elem_id="pieces-note", elem_classes="note-line")
        view = gr.HTML("", elem_id="pieces-view")
        with gr.Row(elem_id="pieces-pages", visible=False) as pages:
            back = gr.Button("◀ Before", size="sm", min_width=96, scale=0)
            ahead = gr.Button("After ▶", size="sm", min_width=96, scale=0)
        first = gr.State(0)
        with gr.Row(elem_id="pieces-decode"):
            typed = gr.Textbox(
                label="Ids to text", placeholder="1, 2 3 [4]", lines=1, max_lines=3, elem_id="decode-ids"
            )
            became = gr.HTML("", elem_id="decoded")
    outputs = {"note": note, "view": view, "pages": pages, "first": first}
    inputs = {"model": model, "text": text, "special": special}
    on([text.change, special.change], read_text, inputs=inputs, outputs=outputs, **TEXT_QUEUE)
    on(back.click, page_back, inputs=inputs | {"first": first}, outputs=outputs, **TEXT_QUEUE)
    on(ahead.click, page_ahead, inputs=inputs | {"first": first}, outputs=outputs, **TEXT_QUEUE)
    on(typed.change, decode, inputs={"model": model, "ids": typed}, outputs={"became": became}, **TEXT_QUEUE)
    copy_ids.click(None, js=_COPY_IDS)
    copy_text.click(None, inputs=text, js="(text) => { navigator.clipboard.writeText(text); }")
    return Panel(tab, read_text, inputs, outputs)


def read_text(*, model: str | None, text: str, special: bool) -> Iterator[Update]:
    """Tokenize the text and show its beginning."""
    yield from _page(model, text, special, 0)


def page_back(*, model: str | None, text: str, special: bool, first: int) -> Iterator[Update]:
    """Show the tokens before."""
    yield from _page(model, text, special, first - tokens_view.WINDOW)


def page_ahead(*, model: str | None, text: str, special: bool, first: int) -> Iterator[Update]:
    """Show the tokens after."""
    yield from _page(model, text, special, first + tokens_view.WINDOW)


def _page(model: str | None, text: str, special: bool, first: int) -> Iterator[Update]:
    try:
        tokenizer = (yield from opened(model)).tokenizer
        found = tokenize(tokenizer, text or "", special_tokens=special)
        first = min(max(first, 0), max(len(found.ids) - 1, 0) // tokens_view.WINDOW * tokens_view.WINDOW)
        yield {
            "note": "",
            "view": _view(found, first, _way_back(tokenizer, text or "")),
            "first": first,
            "pages": gr.update(visible=len(found.ids) > tokens_view.WINDOW),
        }
    except StudioError as error:
        yield {"note": wording.problem(error), "view": ""}


def _way_back(tokenizer: Any, text: str) -> str:
    """Whether the ids stand for the same text again."""
    if not text:
        return ""
    part = text[:FULL_CHECK]
    back = round_trip(tokenizer, part)
    of = "The ids" if len(part) == len(text) else f"The ids of the first {FULL_CHECK:,} characters"
    if back.difference is None:
        return wording.done(f"{of} give the same text again.")
    return wording.caution(f"{of} give another text. {back.difference.words}")


def _view(found: Tokenized, first: int, way_back: str) -> str:
    pieces = found.window(first, tokens_view.WINDOW)
    drawn = tokens_view.tokens(pieces, total=len(found.ids))
    shown = ""
    if len(found.ids) > len(pieces):
        shown = wording.done(f"Tokens {first + 1:,} to {first + len(pieces):,} of {len(found.ids):,} are drawn.")
    cover = "" if found.covers.exact else wording.caution(found.covers.why)
    return f"{_counts(found)}{drawn}{shown}{way_back}{cover}"


def _counts(found: Tokenized) -> str:
    counts = found.counts
    told = [
        (f"{counts.tokens:,}", "tokens"),
        (f"{counts.characters:,}", "characters"),
        (f"{counts.bytes:,}", "bytes"),
        (f"{counts.words:,}", "words"),
        (f"{counts.tokens_per_word:.2f}" if counts.tokens_per_word else "–", "tokens a word"),
        (f"{counts.unknown:,}", "unknown"),
        (f"{counts.byte_tokens:,}", "parts of characters"),
    ]
    return wording.facts(told)


def decode(*, model: str | None, ids: str) -> Iterator[Update]:
    """The text of some ids."""
    try:
        numbers = parse_ids(ids or "")
        if not numbers:
            yield {"became": ""}
            return
        tokenizer = (yield from opened(model, note="became")).tokenizer
        text = decoded(tokenizer, numbers)
        again = tuple(tokenize(tokenizer, text, special_tokens=False).ids)
        same = "gives the same ids" if again == numbers else f"gives other ids, {len(again):,} of them"
        yield {"became": tokens_view.plain(text) + wording.done(f"Tokenized again, this text {same}.")}
    except StudioError as error:
        yield {"became": wording.problem(error)}
