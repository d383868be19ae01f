"""See what the model reads: pieces, the pipeline behind them, the chat template, other tokenizers, your own data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from studio.ui.compare_panel import compare_panel
from studio.ui.data_panel import data_panel
from studio.ui.handlers import Update, on
from studio.ui.learning_panel import learning_panel
from studio.ui.pieces_panel import pieces_panel
from studio.ui.pipeline_panel import pipeline_panel
from studio.ui.template_panel import template_panel
from studio.ui.tokenizer_panel import TEXT_QUEUE, Panel
from studio.ui.vocabulary_panel import vocabulary_panel

LABEL = "Tokenizer"
_TEXT = "The quick brown fox doesn’t jump over 1,234 lazy dogs.\nGrüße, 世界! 👩‍🚀 naïve café"


def tokenizer_tab(model: gr.Dropdown, showing: gr.State) -> None:
    """Draw the tab and connect it. `model` is the strip's; `showing` the label of the tab that is open."""
    with gr.Tab(LABEL, id="tokenizer") as tab:
        text = gr.Textbox(
            _TEXT, label="Text", lines=3, max_lines=8, placeholder="Type or paste anything", elem_id="tokenizer-text"
        )
        with gr.Tabs(elem_id="tokenizer-parts"):
            reading = [pieces_panel(model, text), pipeline_panel(model, text), template_panel(model)]
            compare, data = compare_panel(model, text), data_panel(model)
            panels = [*reading, compare, data.panel, vocabulary_panel(model), learning_panel(model, text, data)]
        part = gr.State(panels[0].tab.label)
    for panel in panels:
        on(panel.tab.select, _noting(panel), inputs={}, outputs={"part": part, "text": text}, queue=False)
        on(panel.tab.select, panel.show, inputs=panel.inputs, outputs=panel.outputs, **TEXT_QUEUE)
        shown = _while_open(panel)
        where = panel.inputs | {"part": part}
        on(tab.select, shown, inputs=where, outputs=panel.outputs, **TEXT_QUEUE)
        on(model.change, shown, inputs=where | {"showing": showing}, outputs=panel.outputs, **TEXT_QUEUE)


def _noting(panel: Panel) -> Callable[..., Update]:
    """Note that this part of the tab is open, and show the text where the part is about it."""

    def opened_part() -> Update:
        return {"part": panel.tab.label, "text": gr.update(visible=panel.reads_text)}

    return opened_part


def _while_open(panel: Panel) -> Callable[..., Iterator[Update]]:
    """Show the panel where it is the one that is open."""

    def show(*, part: str, showing: str = LABEL, **values: Any) -> Iterator[Update]:
        if part == panel.tab.label and showing == LABEL:
            yield from panel.show(**values)

    return show
