"""The pipeline behind the pieces, stage by stage; one word's way through the model; several texts as a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.tokenizer.batch import BatchSettings, grid
from studio.tokenizer.stages import stages
from studio.tokenizer.words import word_story
from studio.ui import form, pipeline_view, wording
from studio.ui.handlers import Update, on
from studio.ui.tokenizer_panel import TEXT_QUEUE, Panel, opened

WORDS_OFFERED = 100
_TEXTS = "A short text.\nThis one is a good deal longer than the first one."


def pipeline_panel(model: gr.Dropdown, text: gr.Textbox) -> Panel:
    """Draw the panel and connect it; `text` is what goes through the stages."""
    with gr.Tab("Pipeline", id="pipeline") as tab:
        note = gr.HTML("", elem_id="pipeline-note", elem_classes="note-line")
        way = gr.HTML("", elem_id="stages", elem_classes="bare")
        word = gr.Dropdown(
            [],
            label="One word",
            info="Choose one of the text or type any: see how the model makes tokens of it",
            allow_custom_value=True,
            elem_id="one-word",
        )
        story = gr.HTML("", elem_id="story", elem_classes="bare")
        with gr.Accordion("Several texts as one batch", open=False, elem_id="batch"):
            batch = _batch()
        rows = gr.HTML("", elem_id="grid", elem_classes="bare")
    outputs = {"note": note, "way": way, "word": word, "story": story}
    inputs = {"model": model, "text": text}
    on(word.change, tell_word, inputs={"model": model, "word": word}, outputs={"story": story}, **TEXT_QUEUE)
    asked = {"model": model, **batch}
    on([part.change for part in batch.values()], batched, inputs=asked, outputs={"rows": rows}, **TEXT_QUEUE)
    return Panel(tab, through_the_stages, inputs, outputs)


def _batch() -> dict[str, Any]:
    with gr.Row():
        texts = gr.Textbox(_TEXTS, label="Texts", info="One in each line", lines=4, max_lines=12, elem_id="batch-texts")
        seconds = gr.Textbox(
            "",
            label="Second texts",
            info="For pairs: one for each line",
            lines=4,
            max_lines=12,
            elem_id="batch-seconds",
        )
    with gr.Row(elem_id="batch-settings"):
        return {"texts": texts, "seconds": seconds, **form.widgets(BatchSettings)}


def through_the_stages(*, model: str | None, text: str) -> Iterator[Update]:
    """Send the text through all stages."""
    try:
        tokenizer = (yield from opened(model)).tokenizer
        found = stages(tokenizer, text or "")
        words = _words(text or "")[:WORDS_OFFERED]
        yield {"note": "", "way": pipeline_view.stages(found), "word": gr.update(choices=words)}
    except StudioError as error:
        yield {"note": wording.problem(error), "way": ""}


def _words(text: str) -> list[str]:
    """The words of a text, those behind a space with it: it belongs to the token."""
    return list(dict.fromkeys(f" {word}" if number else word for number, word in enumerate(text.split())))


def tell_word(*, model: str | None, word: str | None) -> Iterator[Update]:
    """Tell how one word became its tokens."""
    if not word:
        yield {"story": ""}
        return
    try:
        tokenizer = (yield from opened(model, note="story")).tokenizer
        yield {"story": pipeline_view.story(word_story(tokenizer, word))}
    except StudioError as error:
        yield {"story": wording.problem(error)}


def batched(*, model: str | None, texts: str, seconds: str, **settings: Any) -> Iterator[Update]:
    """Make a grid of several texts, or of pairs."""
    try:
        tokenizer = (yield from opened(model, note="rows")).tokenizer
        pairs = (seconds or "").splitlines() or None
        found = grid(tokenizer, (texts or "").splitlines(), form.read(BatchSettings, settings), seconds=pairs)
        yield {"rows": f'<div class="sheet">{pipeline_view.grid(found)}</div>'}
    except StudioError as error:
        yield {"rows": wording.problem(error)}
