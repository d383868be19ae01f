"""Something else made of an adapter: the same at a smaller rank, or one of it and another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from studio.adapters import CombinePlan
from studio.errors import InputError, StudioError
from studio.jobs.adapting import Mixture, make_smaller, mix, mixture_outlook
from studio.jobs.matching import Matched
from studio.merges.adapters import made
from studio.settings import Settings
from studio.ui import adapter_view, form, merge_setup, wording
from studio.ui.handlers import CHANGING, Update, answering, hub_token, on, on_cancel, told

QUEUE: dict[str, Any] = {"concurrency_id": "adapting", "concurrency_limit": 2}
_LIVE: dict[str, Any] = {"concurrency_id": "mixture", "concurrency_limit": 2, "trigger_mode": "always_last"}
KINDS = {
    "cat": "the exact sum, as large as both",
    "svd": "the nearest to the sum at a smaller rank",
    "linear": "adds A to A and B to B: small, and far from the sum",
    "ties": "keeps the largest numbers, drops those whose sign loses",
    "dare_linear": "drops numbers by chance, scales up the rest",
    "dare_ties": "drops by chance, then lets signs vote",
    "magnitude_prune": "keeps the largest numbers of each",
    "ties_svd": "ties on whole updates, then the nearest of a rank",
    "dare_linear_svd": "dare on whole updates, then the nearest of a rank",
    "dare_ties_svd": "dare and ties on whole updates, then the nearest",
    "magnitude_prune_svd": "the largest of whole updates, then the nearest",
}
"""The ways to combine, each in a line."""


def shrinking(setup: dict[str, Any], parts: gr.Tabs) -> dict[str, Any]:
    """Draw "Make it smaller" folded away, and connect it. Returns its rank, name and button."""
    with gr.Accordion("Make it smaller", open=False, elem_id="smaller"):
        gr.HTML(
            "<p>Keeps of each update the nearest one of a smaller rank. Needs no base, and says what was lost.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        with gr.Row(elem_classes="fields"):
            rank = gr.Slider(
                1, 8, value=4, step=1, label="Rank", info="X-ray fills in what would be enough", elem_id="smaller-rank"
            )
            name = _name_box("smaller-name")
        write, stop, note, found, use = _run_row("smaller")
    folder = gr.State("")
    outputs = {"stop": stop, "note": note, "found": found, "use": use, "folder": folder}
    asked = {"matched": setup["matched"], "rank": rank, "name": name}
    running = on(write.click, shrink, inputs=asked, outputs=outputs, **QUEUE)
    on_cancel(stop, [running], stopped, note=note, inputs={}, outputs=outputs)
    _connect_use(use, folder, setup, parts)
    return {"rank": rank, "name": name, "write": write}


def combining(setup: dict[str, Any], parts: gr.Tabs) -> dict[str, Any]:
    """Draw "Combine with another" folded away, and connect it. Returns its second, name and outlook."""
    with gr.Accordion("Combine with another", open=False, elem_id="combine"):
        gr.HTML(
            "<p>One adapter that does what two of the same base do, each as much as its weight says.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        with gr.Row(elem_classes="fields"):
            second = gr.Dropdown(
                [],
                label="The other adapter",
                info="Or its folder, or owner/name on the Hub",
                elem_id="combine-second",
                **CHANGING,
            )
            kind = gr.Dropdown(
                [(f"{value}: {words}", value) for value, words in KINDS.items()],
                value="cat",
                label="Method",
                info="How they become one",
                elem_id="combine-kind",
            )
            own = gr.Slider(-2, 2, value=1, step=0.05, label="Weight of this one", elem_id="combine-own")
            theirs = gr.Slider(-2, 2, value=1, step=0.05, label="Weight of the other", elem_id="combine-theirs")
            name = _name_box("combine-name")
        with gr.Accordion("Advanced", open=False, elem_id="combine-advanced"), gr.Row(elem_classes="fields"):
            more = form.widgets(CombinePlan, only=("rank", "density"), prefix="combine")
        ahead = gr.HTML("", elem_id="combine-ahead", elem_classes="plainly")
        write, stop, note, found, use = _run_row("combine")
    folder = gr.State("")
    outputs = {"stop": stop, "note": note, "found": found, "use": use, "folder": folder}
    asked = {"matched": setup["matched"], "second": second, "kind": kind, "own": own, "theirs": theirs, **more}
    changes = [widget.input for widget in (second, kind, *more.values())]
    on(changes, foreseen, inputs=asked, outputs={"ahead": ahead, "note": note}, **_LIVE)
    running = on(write.click, combine, inputs=asked | {"name": name}, outputs=outputs, **QUEUE)
    on_cancel(stop, [running], stopped, note=note, inputs={}, outputs=outputs)
    _connect_use(use, folder, setup, parts)
    return {"second": second, "name": name, "ahead": ahead}


def _name_box(id_: str) -> gr.Textbox:
    return gr.Textbox(
        label="Name", info="A folder of this name among the adapters of the workspace", max_lines=1, elem_id=id_
    )


def _run_row(id_: str) -> tuple[gr.Button, gr.Button, gr.HTML, gr.HTML, gr.Button]:
    with gr.Row(elem_classes="button-row"):
        write = gr.Button("Write it", min_width=130, scale=0, elem_id=f"{id_}-write")
        stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id=f"{id_}-stop")
    note = gr.HTML("", elem_id=f"{id_}-note", elem_classes="note-line")
    found = gr.HTML("", elem_id=f"{id_}-found", elem_classes="plainly")
    use = gr.Button("Choose it in Set up", min_width=190, visible=False, elem_id=f"{id_}-use")
    return write, stop, note, found, use


def _connect_use(use: gr.Button, folder: gr.State, setup: dict[str, Any], parts: gr.Tabs) -> None:
    asked = {"folder": folder, "merge_dtype": setup["merge_dtype"]}
    on(use.click, use_it, inputs=asked, outputs={**setup, "parts": parts}, **_LIVE)


@answering
def shrink(*, matched: Matched | None, rank: int, name: str) -> Iterator[Update]:
    """Write the adapter at a smaller rank, and say what it lost."""
    yield _emptied()
    done = yield from told(make_smaller(_folder(matched), int(rank), name.strip()))
    yield _ended(adapter_view.smaller(done), done.folder)


def foreseen(*, matched: Matched | None, second: str | None, **values: Any) -> Iterator[Update]:
    """What the combination would be, as soon as there is another adapter."""
    if not second:
        yield {"ahead": "", "note": ""}
        return
    try:
        mixture = _mixture(matched, second, values)
        ahead = yield from told(mixture_outlook(mixture, token=hub_token()))
    except StudioError as error:
        yield {"ahead": "", "note": wording.problem(error)}
        return
    yield {"ahead": adapter_view.combination(ahead), "note": ""}


@answering
def combine(*, matched: Matched | None, second: str | None, name: str, **values: Any) -> Iterator[Update]:
    """Write both as one, and say how far that is from their sum."""
    yield _emptied()
    mixture = _mixture(matched, second or "", values)
    done = yield from told(mix(mixture, name.strip(), token=hub_token()))
    yield _ended(adapter_view.combined(done), done.folder)


def _mixture(matched: Matched | None, second: str, values: dict[str, Any]) -> Mixture:
    weights = (float(values["own"]), float(values["theirs"]))
    rank, density = int(values["rank"]), float(values["density"])
    return Mixture(_folder(matched), second, weights, values["kind"], rank, density)


def _folder(matched: Matched | None) -> Path:
    if matched is None:
        raise InputError("No adapter is chosen.", "Choose one under Set up.")
    return Path(matched.adapter.folder)


def _emptied() -> Update:
    return {"found": "", "use": gr.update(visible=False)}


def _ended(found: str, folder: str) -> Update:
    return {"found": found, "folder": folder, "use": gr.update(visible=True), "note": ""}


def stopped() -> Update:
    """After Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped. Nothing of it was left.")}


def use_it(*, folder: str, merge_dtype: str) -> Iterator[Update]:
    """Choose what was written in Set up, and show that."""
    choices = [(each.label, each.value) for each in made()]
    yield {"parts": gr.update(selected="setup"), "adapter": gr.update(choices=choices, value=folder)}
    yield from merge_setup.chosen(adapter=folder, base="", name="", merge_dtype=merge_dtype)


def others(matched: Matched) -> list[tuple[str, str]]:
    """The adapters of the workspace that may be added to this one."""
    own = Path(matched.adapter.folder)
    return [(each.label, each.value) for each in made() if each.folder != own]


def largest_rank(matched: Matched) -> int:
    """Of the updates of an adapter."""
    return max((module.rank for module in matched.adapter.modules), default=0)


def free_name(matched: Matched, ending: str) -> str:
    """A name with this ending that no adapter of the workspace has."""
    place = Settings.from_env().workspace / "adapters"
    return merge_setup.free_name(place, merge_setup.called(matched), ending)
