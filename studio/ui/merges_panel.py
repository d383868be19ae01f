"""All merges: a list with their verdicts, to be looked at again or forgotten."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio import merges
from studio.errors import StudioError
from studio.merges import Merge
from studio.ui import merged_view, sheet, wording
from studio.ui.handlers import CHANGING, Update, on


def merges_panel(merge: gr.State, parts: gr.Tabs) -> None:
    """Draw the panel and connect it. Opening a merge puts its id into `merge`, and shows it in `parts`."""
    with gr.Tab("All merges", id="merges") as tab:
        table = gr.HTML("", elem_id="merges-table", elem_classes="bare")
        chosen = gr.Dropdown([], label="Merge", **CHANGING, elem_id="merges-chosen")
        with gr.Row(elem_id="merges-buttons", elem_classes="button-row"):
            show = gr.Button("Open", variant="primary", min_width=100, scale=0, elem_id="merges-open")
            forget = gr.Button("Forget", min_width=100, scale=0, elem_id="merges-forget")
        note = gr.HTML("", elem_id="merges-note", elem_classes="note-line")
    outputs: dict[str, Any] = {"table": table, "chosen": chosen, "note": note, "merge": merge}
    on(tab.select, listed, inputs={"merge": merge}, outputs=outputs, queue=False)
    on(show.click, opened, inputs={"chosen": chosen}, outputs={"merge": merge, "parts": parts}, queue=False)
    on(forget.click, forgotten, inputs={"chosen": chosen, "merge": merge}, outputs=outputs, queue=False)


def listed(*, merge: str | None) -> Update:
    """The list as it is now, with the merge that is looked at chosen."""
    try:
        there = merges.listing()
    except StudioError as error:
        return {"table": wording.problem(error)}
    chosen = merge if any(each.id == merge for each in there) else there[0].id if there else None
    names = [(f"{each.order.output.name} ({each.id[:6]})", each.id) for each in there]
    return {"table": _table(there), "chosen": gr.update(choices=names, value=chosen), "note": ""}


def _table(there: tuple[Merge, ...]) -> str:
    if not there:
        return wording.done("No merge yet.")
    rows = [
        (
            each.order.output.name,
            merged_view.state_in_words(each),
            wording.model(each.order.base),
            each.order.dtype,
            wording.size(each.outcome.bytes) if each.outcome else "",
            each.made.replace("T", " ").partition("+")[0],
        )
        for each in there
    ]
    return f'<div class="sheet">{sheet.table(("Model", "State", "Base", "In", "Size", "Made, UTC"), rows)}</div>'


def opened(*, chosen: str | None) -> Update:
    """Look at the merge."""
    return {"merge": chosen, "parts": gr.update(selected="result")} if chosen else {}


def forgotten(*, chosen: str | None, merge: str | None) -> Update:
    """Take it from the list, with what is left of it that is not proven. A model that it made stays."""
    try:
        merges.delete(chosen or "")
    except StudioError as error:
        return {"note": wording.problem(error)}
    left = None if chosen == merge else merge
    words = "Forgotten. A model that it finished stays in the workspace."
    return {**listed(merge=left), "merge": left, "note": wording.done(words)}
