"""Make base and adapter one model, and prove it: set up, see through, follow, and look at what came of all merges."""

from __future__ import annotations

import gradio as gr

from studio.ui.adapter_panel import adapter_panel
from studio.ui.handlers import Update, on
from studio.ui.merge_setup import LABEL, TAB_ID, merge_setup
from studio.ui.merged_panel import merged_panel, newest
from studio.ui.merges_panel import merges_panel
from studio.ui.model_strip import Strip


def merging_tab(page: gr.Blocks, tabs: gr.Tabs, strip: Strip, showing: gr.State, publish: gr.State) -> None:
    """Draw the tab and connect it. `showing` is the open one of the `tabs`; `publish` is what Publish takes over."""
    with gr.Tab(LABEL, id=TAB_ID) as tab:
        gr.HTML(
            "<p>Put what was learnt into the model itself: one folder that runs everywhere, held against base and"
            " adapter before it gets its name.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        # Before the tabs: what stands between them that is no tab, their bar takes for one.
        merge, label = gr.State(None), gr.State(LABEL)
        beside = {"plan": strip.plan, "model": strip.parts["model"], "tabs": tabs, "showing": showing}
        beside |= {"strip_note": strip.parts["note"], "publish": publish}
        with gr.Tabs(elem_id="merging-parts") as parts:
            setup = merge_setup(tab, {"tabs": tabs, "showing": showing}, merge, parts)
            adapter_panel(setup, parts)
            merged_panel(merge, {"showing": showing, "label": label}, beside)
            merges_panel(merge, parts)
    on(page.load, found, inputs={}, outputs={"merge": merge}, queue=False)


def found() -> Update:
    """The page when it opens: it speaks of the merge that is at work, or of the last one."""
    return {"merge": newest()}
