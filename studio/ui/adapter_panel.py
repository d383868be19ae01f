"""The adapter that is chosen, seen through: how much each update changes, and what can be made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio.adapters import XRay
from studio.errors import InputError
from studio.jobs.adapting import see_through
from studio.jobs.matching import Matched
from studio.ui import adapter_view, merge_setup, wording
from studio.ui.adapter_view import FIGURES, RELATIVE
from studio.ui.handlers import Update, answering, hub_token, on, on_cancel, told
from studio.ui.model_strip import model_choices
from studio.ui.reworking import QUEUE, combining, converting, extracting, free_name, largest_rank, others, shrinking


def adapter_panel(setup: dict[str, Any], parts: gr.Tabs) -> None:
    """Draw the panel and connect it. `setup` are the parts of Set up by name; `parts` are the tabs of both."""
    matched = setup["matched"]
    with gr.Tab("Adapter", id="merging-adapter") as tab:
        gr.HTML(
            "<p>What has the adapter learnt, and where? See how much it changes in each layer, make it smaller, or add"
            " another to it. Below, an adapter out of a model that was tuned whole, and MiSS out of Bone.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        seen, shown = gr.State(None), gr.State("")
        about = gr.HTML(_nothing(), elem_id="xray-about", elem_classes="bare")
        with gr.Row(elem_classes="button-row"):
            look = gr.Button("X-ray", variant="primary", min_width=130, scale=0, interactive=False, elem_id="xray-look")
            stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="xray-stop")
            figure = gr.Dropdown(
                list(FIGURES), value=RELATIVE, label="A cell shows", min_width=240, scale=0, elem_id="xray-figure"
            )
        note = gr.HTML("", elem_id="xray-note", elem_classes="note-line")
        found = gr.HTML("", elem_id="xray-found", elem_classes="plainly")
        smaller = shrinking(setup, parts)
        more = combining(setup, parts)
        models = extracting(setup, parts)
        converting(setup, parts)
    outputs: dict[str, Any] = {"seen": seen, "stop": stop, "note": note, "found": found, "rank": smaller["rank"]}
    asked = {"matched": matched, "figure": figure}
    looking = on(look.click, look_through, inputs=asked, outputs=outputs, **QUEUE)
    on_cancel(stop, [looking], stopped, note=note, inputs={}, outputs=outputs)
    on(figure.input, drawn, inputs={"seen": seen, "figure": figure}, outputs=outputs, queue=False)
    beside = outputs | {"about": about, "look": look, "smaller_name": smaller["name"], "shrink": smaller["write"]}
    beside |= {"second": more["second"], "combined_name": more["name"], "ahead": more["ahead"]}
    beside |= models
    # Who is quick comes here before Set up has found the adapter.
    came = [tab.select, setup["about"].change]
    # One after the other: the second one has to know what the first has filled in.
    once = {"queue": False, "trigger_mode": "always_last"}
    on(came, opened, inputs={"matched": matched, "shown": shown}, outputs=beside | {"shown": shown}, **once)


def _nothing() -> str:
    return wording.done("No adapter is chosen yet. Choose one under Set up.")


def opened(*, matched: Matched | None, shown: str) -> Update:
    """The panel for the adapter that is chosen now; what was seen of another one, `shown`, goes."""
    emptied = {"seen": None, "found": "", "note": ""}
    models = {name: gr.update(choices=model_choices()) for name in ("extract_base", "extract_tuned")}
    if matched is None:
        return {"about": _nothing(), "look": gr.update(interactive=False), "shown": "", **models, **emptied}
    base = f" on {wording.model(matched.base)}" if matched.base else ""
    rank = largest_rank(matched)
    update: Update = {
        "about": wording.done(f"{merge_setup.called(matched)}{base}"),
        "look": gr.update(interactive=matched.base is not None),
        "shrink": gr.update(interactive=rank > 1),
    }
    update |= models | {"second": gr.update(choices=others(matched))}
    if shown == (now := f"{matched.adapter.folder} {matched.base}"):
        return update
    return update | {
        **emptied,
        "shown": now,
        "rank": gr.update(maximum=max(2, rank - 1), value=max(1, rank // 2)),
        "smaller_name": free_name(matched, "-smaller"),
        "combined_name": free_name(matched, "-combined"),
        "second": gr.update(choices=others(matched), value=None),
        "ahead": "",
    }


@answering
def look_through(*, matched: Matched | None, figure: str) -> Iterator[Update]:
    """See the adapter through, and draw it; the rank that would be enough is filled in below."""
    if matched is None:
        raise InputError("No adapter is chosen.", "Choose one under Set up.")
    yield {"found": ""}
    seen: XRay = yield from told(see_through(matched, token=hub_token()))
    enough = adapter_view.enough_rank(seen)
    yield {
        "seen": seen,
        "found": adapter_view.xray(seen, figure),
        "note": "",
        **({"rank": enough} if 0 < enough < largest_rank(matched) else {}),
    }


def drawn(*, seen: XRay | None, figure: str) -> Update:
    """The same, by another figure."""
    return {"found": adapter_view.xray(seen, figure)} if seen else {}


def stopped() -> Update:
    """After Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped.")}
