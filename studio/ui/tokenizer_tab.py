"""See what the model reads: pieces, the pipeline behind them, the chat template, other tokenizers, your own data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from studio.tokenizer.pieces import TEXT_BYTES, too_long
from studio.ui import wording
from studio.ui.compare_panel import connect_compare, draw_compare
from studio.ui.data_panel import data_panel
from studio.ui.handed import Handed
from studio.ui.handlers import Update, on
from studio.ui.learning_panel import learning_panel
from studio.ui.pieces_panel import pieces_panel
from studio.ui.pipeline_panel import pipeline_panel
from studio.ui.template_panel import template_panel
from studio.ui.tokenizer_panel import TEXT_QUEUE, Panel
from studio.ui.vocabulary_panel import vocabulary_panel

LABEL = "Tokenizer"
_TEXT = "The quick brown fox doesn’t jump over 1,234 lazy dogs.\nGrüße, 世界! 👩‍🚀 naïve café"
_REFUSED = wording.problem(too_long(f"over {TEXT_BYTES / 1e6:g} MB"))
_TOO_LONG = f'<div id="too-long" data-limit="{TEXT_BYTES}" hidden>{_REFUSED}</div>'
"""What the browser shows in place of sending such a text."""


def tokenizer_tab(model: gr.Dropdown, showing: gr.State) -> Handed:
    """Draw the tab and connect it. `model` is the strip's; `showing` the label of the tab that is open.

    Returns the `Cut` that is chosen under Your data, for the tab that trains.
    """
    with gr.Tab(LABEL, id="tokenizer"):
        text = gr.Textbox(
            _TEXT, label="Text", lines=3, max_lines=8, placeholder="Type or paste anything", elem_id="tokenizer-text"
        )
        gr.HTML(_TOO_LONG, elem_classes="note-line")
        with gr.Tabs(elem_id="tokenizer-parts"):
            reading = [pieces_panel(model, text), pipeline_panel(model, text), template_panel(model)]
            (tab_of_compare, compare_parts), data = draw_compare(), data_panel(model)
            compare = connect_compare(tab_of_compare, compare_parts, model, text, data.chosen)
            panels = [*reading, compare, data.panel, vocabulary_panel(model), learning_panel(model, text, data)]
        part = gr.State(panels[0].tab.label)
    for panel in panels:
        on(panel.tab.select, _noting(panel), inputs={}, outputs={"part": part, "text": text}, queue=False)
        runs = [on(panel.tab.select, panel.show, inputs=panel.inputs, outputs=panel.outputs, **TEXT_QUEUE)]
        shown = _while_open(panel)
        where = panel.inputs | {"part": part, "showing": showing}
        # Once the page knows that the tab is open, and not when it is selected: between the two, a model that is
        # chosen would be nobody's concern.
        changes = [showing.change, model.change]
        runs.append(on(changes, shown, inputs=where, outputs=panel.outputs, **TEXT_QUEUE))
        if panel.stops:
            panel.stops(runs)
    return Handed(data.cut_off, data.send)


def _noting(panel: Panel) -> Callable[..., Update]:
    """Note that this part of the tab is open, and show the text where the part is about it."""

    def opened_part() -> Update:
        return {"part": panel.tab.label, "text": gr.update(visible=panel.reads_text)}

    return opened_part


def _while_open(panel: Panel) -> Callable[..., Iterator[Update]]:
    """Show the panel where it is the one that is open."""

    def show(*, part: str, showing: str, **values: Any) -> Iterator[Update]:
        if part == panel.tab.label and showing == LABEL:
            yield from panel.show(**values)

    return show
