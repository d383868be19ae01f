"""Teach the model something: set a run up, follow it, look at what came of it and at all the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from studio.ui import run_panel, training_data
from studio.ui.handlers import Update, on
from studio.ui.history_panel import history_panel
from studio.ui.model_strip import Strip
from studio.ui.training_setup import LABEL, TAB_ID, setup_panel, take_cut, take_question


def training_tab(
    page: gr.Blocks, tabs: gr.Tabs, strip: Strip, how: dict[str, Any], showing: gr.State, handed: dict[str, Any]
) -> None:
    """Draw the tab and connect it. `how` are the widgets that say how a model is loaded; `showing` is the open one of
    the `tabs`; `handed` are the cut-off and the question that other tabs hand on, and what Publish takes over."""
    with gr.Tab(LABEL, id=TAB_ID) as tab:
        gr.HTML(
            "<p>Teach the model something. Everything is filled in: press Start, or choose rows of your own first.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        # Before the tabs: what stands between them that is no tab, their bar takes for one.
        run, label = gr.State(None), gr.State(LABEL)
        beside = {"plan": strip.plan, "model": strip.parts["model"], "tabs": tabs, "showing": showing}
        beside |= {"strip_note": strip.parts["note"], "publish": handed["publish"]}
        with gr.Tabs(elem_id="training-parts") as parts:
            setup = setup_panel(strip, how, run, parts)
            run_panel.run_panel(run, {"showing": showing, "label": label}, beside)
            history_panel(run, parts)
    on(tab.select, opened, inputs=setup.inputs, outputs=setup.outputs, concurrency_id="data", concurrency_limit=4)
    moved = {"tabs": tabs, "showing": showing}
    chosen = {**strip.chosen, "double_quant": how["double_quant"], "advanced": setup.outputs["advanced"]}
    taken = {**setup.planned, **chosen, **moved}
    takes: dict[str, Callable[..., Iterator[Update]]] = {"cut": take_cut, "question": take_question}
    for name, take in takes.items():
        asked = setup.inputs | {name: handed[name].what}
        on(handed[name].send.click, take, inputs=asked, outputs=taken, concurrency_id="ahead")
    on(page.load, found, inputs={}, outputs={"run": run}, queue=False)


def opened(**values: Any) -> Iterator[Update]:
    """Show the rows that are chosen, when the tab is opened first."""
    if values["rows"] is None and values["looked"] is None:
        yield from training_data.look(**values)


def found() -> Update:
    """The page when it opens: it speaks of the run that is at work, or of the last one."""
    return {"run": run_panel.newest()}
