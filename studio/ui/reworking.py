"""Adapters made of others, or of whole models: smaller ones, one of two, what a full tuning changed, MiSS of Bone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from studio.adapters import CombinePlan, ExtractPlan
from studio.errors import InputError, StudioError
from studio.jobs.adapting import Mixture, bone_to_miss, make_smaller, mix, mixture_outlook, take_out
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
        _explain("Keeps of each update the nearest one of a smaller rank. Needs no base, and says what was lost.")
        with gr.Row(elem_classes="fields"):
            rank = gr.Slider(
                1, 8, value=4, step=1, label="Rank", info="X-ray fills in what would be enough", elem_id="smaller-rank"
            )
            name = _name_box("smaller-name")
        asked = {"matched": setup["matched"], "rank": rank, "name": name}
        write, _ = _writing("smaller", shrink, asked, setup, parts)
    return {"rank": rank, "name": name, "write": write}


def combining(setup: dict[str, Any], parts: gr.Tabs) -> dict[str, Any]:
    """Draw "Combine with another" folded away, and connect it. Returns its second, name and outlook."""
    with gr.Accordion("Combine with another", open=False, elem_id="combine"):
        _explain("One adapter that does what two of the same base do, each as much as its weight says.")
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
        asked = {"matched": setup["matched"], "second": second, "kind": kind, "own": own, "theirs": theirs, **more}
        _, note = _writing("combine", combine, asked | {"name": name}, setup, parts)
    changes = [widget.input for widget in (second, kind, *more.values())]
    on(changes, foreseen, inputs=asked, outputs={"ahead": ahead, "note": note}, **_LIVE)
    return {"second": second, "name": name, "ahead": ahead}


def extracting(setup: dict[str, Any], parts: gr.Tabs) -> dict[str, Any]:
    """Draw "Extract from a full fine-tune" folded away, and connect it. Returns its two models."""
    with gr.Accordion("Extract from a full fine-tune", open=False, elem_id="extract"):
        _explain(
            "The LoRA that comes nearest to what tuning changed in a whole model, and how near. Needs no adapter: the"
            " base and the tuned model are read a weight at a time."
        )
        with gr.Row(elem_classes="fields"):
            models = {
                name: gr.Dropdown([], label=label, info=info, elem_id=f"extract-{name}", **CHANGING)
                for name, label, info in (
                    ("base", "Base model", "Before it was tuned: a folder, or owner/name on the Hub"),
                    ("tuned", "Tuned model", "Another one of the same shape"),
                )
            }
            rank = form.widgets(ExtractPlan, only=("rank",), prefix="extract")
            name = _name_box("extract-name", "; empty takes that of the tuned model")
        _writing("extract", extract, {**models, **rank, "name": name}, setup, parts)
    return {f"extract_{name}": widget for name, widget in models.items()}


def converting(setup: dict[str, Any], parts: gr.Tabs) -> None:
    """Draw "Bone to MiSS" folded away, and connect it."""
    with gr.Accordion("Bone to MiSS", open=False, elem_id="bone"):
        _explain(
            "PEFT opens adapters of the type Bone no more. MiSS is the same under another name: no number changes."
        )
        with gr.Row(elem_classes="fields"):
            adapter = gr.Textbox(
                label="The Bone adapter",
                info="Its folder, or owner/name on the Hub",
                max_lines=1,
                elem_id="bone-adapter",
            )
            name = _name_box("bone-name", "; empty takes that of the adapter")
        _writing("bone", convert, {"adapter": adapter, "name": name}, setup, parts)


def _explain(words: str) -> None:
    gr.HTML(f"<p>{words}</p>", padding=False, elem_classes="panel-line")


def _name_box(id_: str, more: str = "") -> gr.Textbox:
    info = f"A folder of this name among the adapters of the workspace{more}"
    return gr.Textbox(label="Name", info=info, max_lines=1, elem_id=id_)


def _writing(
    id_: str, work: Callable[..., Iterator[Update]], asked: dict[str, Any], setup: dict[str, Any], parts: gr.Tabs
) -> tuple[gr.Button, gr.HTML]:
    """Draw the button that writes, what comes of it and the way on from there, and connect them.

    `work` gets what is `asked`, and may change what was found, the note, and the folder. Returns button and note.
    """
    with gr.Row(elem_classes="button-row"):
        write = gr.Button("Write it", min_width=130, scale=0, elem_id=f"{id_}-write")
        stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id=f"{id_}-stop")
    note = gr.HTML("", elem_id=f"{id_}-note", elem_classes="note-line")
    found = gr.HTML("", elem_id=f"{id_}-found", elem_classes="plainly")
    use = gr.Button("Choose it in Set up", min_width=190, visible=False, elem_id=f"{id_}-use")
    folder = gr.State("")
    outputs = {"stop": stop, "note": note, "found": found, "use": use, "folder": folder}
    running = on(write.click, work, inputs=asked, outputs=outputs, **QUEUE)
    on_cancel(stop, [running], stopped, note=note, inputs={}, outputs=outputs)
    chosen = {"folder": folder, "merge_dtype": setup["merge_dtype"]}
    on(use.click, use_it, inputs=chosen, outputs={**setup, "parts": parts}, **_LIVE)
    return write, note


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


@answering
def extract(*, base: str | None, tuned: str | None, rank: int, name: str) -> Iterator[Update]:
    """Write what a full fine-tuning changed as an adapter, and say how near it comes."""
    yield _emptied()
    name = name.strip() or _name_after(tuned or "", "-extracted")
    done = yield from told(take_out(base or "", tuned or "", int(rank), name, token=hub_token()))
    yield _ended(adapter_view.extracted(done), done.folder)


@answering
def convert(*, adapter: str, name: str) -> Iterator[Update]:
    """Write an adapter of the type Bone as one of the type MiSS."""
    yield _emptied()
    name = name.strip() or _name_after(adapter, "-miss")
    done = yield from told(bone_to_miss(adapter.strip(), name, token=hub_token()))
    yield _ended(adapter_view.converted(done), done.folder)


def _name_after(text: str, ending: str) -> str:
    """A free name after that of a folder, or of something on the Hub."""
    return merge_setup.free_name(_place(), Path(text.strip()).name, ending)


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
    return merge_setup.free_name(_place(), merge_setup.called(matched), ending)


def _place() -> Path:
    return Settings.from_env().workspace / "adapters"
