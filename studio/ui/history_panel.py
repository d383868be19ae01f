"""All runs: a list, what to call them, which to delete, and two beside each other."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio import runs
from studio.errors import StudioError
from studio.runs import Broken, Comparison, Summary
from studio.ui import history_view, wording
from studio.ui.handlers import CHANGING, Update, on

NOBODY = "none"


def history_panel(run: gr.State, parts: gr.Tabs) -> gr.Tab:
    """Draw the panel and connect it. Opening a run puts its id into `run`, and shows it in `parts`."""
    with gr.Tab("History", id="history") as tab:
        table = gr.HTML("", elem_id="history-table", elem_classes="bare")
        with gr.Row(elem_id="history-chosen", elem_classes="fields-row"):
            chosen = gr.Dropdown([], label="Run", **CHANGING, min_width=220, scale=3, elem_id="history-run")
            name = gr.Textbox(label="Name", max_lines=1, min_width=200, scale=3, elem_id="history-name")
        with gr.Row(elem_id="history-buttons", elem_classes="button-row"):
            show = gr.Button("Open", variant="primary", min_width=100, scale=0, elem_id="history-open")
            rename = gr.Button("Rename", min_width=100, scale=0, elem_id="history-rename")
            delete = gr.Button("Delete", min_width=100, scale=0, elem_id="history-delete")
            sure = gr.Button(
                "Delete it and all it made",
                variant="stop",
                min_width=210,
                scale=0,
                visible=False,
                elem_id="history-sure",
            )
        note = gr.HTML("", elem_id="history-note", elem_classes="note-line")
        other = gr.Dropdown([NOBODY], value=NOBODY, label="Compare with", **CHANGING, elem_id="history-other")
        differences = gr.HTML("", elem_id="history-differences", elem_classes="bare")
        curves = gr.LinePlot(
            x="Step", y="Loss", color="Run", title="Loss", height=260, visible=False, elem_id="history-curves"
        )
    outputs: dict[str, Any] = {"table": table, "chosen": chosen, "name": name, "sure": sure, "note": note}
    outputs |= {"other": other, "differences": differences, "curves": curves, "run": run}
    here = {"chosen": chosen}
    on(tab.select, listed, inputs={"run": run}, outputs=outputs, queue=False)
    on(chosen.input, run_chosen, inputs=here, outputs=outputs, queue=False)
    on(show.click, opened, inputs=here, outputs={"run": run, "parts": parts}, queue=False)
    on(rename.click, renamed, inputs=here | {"name": name}, outputs=outputs, queue=False)
    on(delete.click, ask_whether, inputs={}, outputs={"sure": sure}, queue=False)
    on(sure.click, deleted, inputs=here, outputs=outputs, queue=False)
    on(other.input, compared, inputs=here | {"other": other}, outputs=outputs, queue=False)
    return tab


def listed(*, run: str | None) -> Update:
    """The list as it is now, with the run that is looked at chosen."""
    try:
        there = runs.listing()
    except StudioError as error:
        return {"table": wording.problem(error)}
    summaries = [each if isinstance(each, Broken) else runs.summary(each) for each in there]
    chosen = run if any(each.id == run for each in there) else there[0].id if there else None
    names = [(history_view.name_of(each), each.id) for each in summaries]
    return {
        "table": history_view.table(summaries),
        "chosen": gr.update(choices=names, value=chosen),
        "name": next((each.name for each in summaries if isinstance(each, Summary) and each.id == chosen), ""),
        "other": gr.update(choices=_others(names, chosen), value=NOBODY),
        "sure": gr.update(visible=False),
        **_not_compared(),
    }


def _others(names: list[tuple[str, str]], chosen: str | None) -> list[tuple[str, str]]:
    """Those that the chosen one can be compared with."""
    return [(NOBODY, NOBODY), *(pair for pair in names if pair[1] != chosen)]


def run_chosen(*, chosen: str | None) -> Update:
    """The list anew, with another one chosen."""
    return {**listed(run=chosen), "note": ""}


def _not_compared() -> Update:
    return {"differences": "", "curves": gr.update(visible=False)}


def opened(*, chosen: str | None) -> Update:
    """Look at the run."""
    return {"run": chosen, "parts": gr.update(selected="run")} if chosen else {}


def renamed(*, chosen: str | None, name: str) -> Update:
    """Call it so."""
    try:
        runs.rename(chosen or "", name)
    except StudioError as error:
        return {"note": wording.problem(error)}
    return {**listed(run=chosen), "note": wording.done(f"It is called {name.strip()} now.")}


def ask_whether() -> Update:
    """Ask once more."""
    return {"sure": gr.update(visible=True)}


def deleted(*, chosen: str | None) -> Update:
    """Delete it, with its checkpoints and its adapter."""
    try:
        runs.delete(chosen or "")
    except StudioError as error:
        return {"note": wording.problem(error), "sure": gr.update(visible=False)}
    return {**listed(run=None), "run": None, "note": wording.done("Deleted.")}


def compared(*, chosen: str | None, other: str | None) -> Update:
    """Both curves, and the settings in which they differ."""
    if other in (None, NOBODY):
        return _not_compared()
    try:
        found: Comparison = runs.compare(chosen or "", other)
        names = tuple(runs.of(id_).document.name for id_ in (chosen or "", other))
    except StudioError as error:
        return {**_not_compared(), "note": wording.problem(error)}
    return {
        "differences": history_view.differences(found, (names[0], names[1])),
        "curves": gr.update(**history_view.curves(found, (names[0], names[1]))),
        "note": "",
    }
