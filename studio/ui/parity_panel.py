"""What a deployment of the merged model has to write, and programs that hold it to that."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio import merges
from studio.errors import InputError
from studio.exporting import Parity, ServePlan
from studio.jobs.exporting import prove_deployment
from studio.models import Precision
from studio.ui import form, sheet, wording
from studio.ui.handlers import MODEL_QUEUE, Update, answering, on, on_cancel, told

_NAMES = {"transformers": "transformers", "vllm": "vLLM", "llama.cpp": "llama.cpp"}
_CLOSE = 1e-3
"""A lead that rounding of another program may turn: of 1e-5 in fp32, with room."""


def parity_panel(merge: gr.State) -> gr.Accordion:
    """Draw it folded away, and connect it. `merge` holds the id of the merge that is looked at."""
    with gr.Accordion("Prove a deployment", open=False, visible=False, elem_id="parity") as fold:
        gr.HTML(
            "<p>Serve the model elsewhere, and be sure that it is the same: what it has to write to a prompt, and a"
            " program for each runtime that says whether it does.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        prompt = gr.Textbox("What can you do?", label="Prompt", lines=2, elem_id="parity-prompt")
        with gr.Row(elem_classes="fields"):
            asked = form.widgets(ServePlan, only=("tokens", "precision"), prefix="parity")
        with gr.Row(elem_classes="button-row"):
            ask = gr.Button("Let it write", min_width=150, scale=0, elem_id="parity-ask")
            stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="parity-stop")
        note = gr.HTML("", elem_id="parity-note", elem_classes="note-line")
        found = gr.HTML("", elem_id="parity-found", elem_classes="plainly")
        with gr.Column(visible=False, elem_id="parity-programs") as programs:
            codes = {name: gr.Code(label=label, language="python", max_lines=14) for name, label in _NAMES.items()}
    outputs: dict[str, Any] = {"stop": stop, "note": note, "found": found, "programs": programs, **codes}
    inputs = {"merge": merge, "prompt": prompt, **asked}
    running = on([ask.click, prompt.submit], prove, inputs=inputs, outputs=outputs, **MODEL_QUEUE)
    on_cancel(stop, [running], stopped, note=note, inputs={}, outputs=outputs)
    on(merge.change, emptied, inputs={}, outputs=outputs, queue=False)
    return fold


@answering
def prove(*, merge: str | None, prompt: str, tokens: int, precision: str) -> Iterator[Update]:
    """Let the merged model write, and show what it wrote with a program for each runtime."""
    yield {"found": "", "programs": gr.update(visible=False)}
    outcome = merges.of(merge or "").outcome
    if outcome is None or outcome.passed is False:
        raise InputError("There is no proven merge to serve.", "Merge first.")
    done: Parity = yield from told(prove_deployment(outcome.folder, prompt, int(tokens), Precision(precision)))
    programs = {
        snippet.runtime: gr.update(value=snippet.code, label=_label(snippet.runtime, snippet.file))
        for snippet in done.snippets
    }
    yield {"found": expected(done), "programs": gr.update(visible=True), **programs, "note": ""}


def _label(runtime: str, file: str) -> str:
    return f"{_NAMES[runtime]}: save it as {file}, and run it where the model is served"


def stopped() -> Update:
    """After Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped.")}


def emptied() -> Update:
    """Another merge is looked at."""
    return {"note": "", "found": "", "programs": gr.update(visible=False)}


def expected(done: Parity) -> str:
    """What a deployment has to write."""
    head = sheet.headline(
        "This is what it has to write", "Always taking the likeliest token, it writes the same everywhere.", good=True
    )
    told = [
        (f"{len(done.ids):,}", "tokens" if len(done.ids) > 1 else "token"),
        (
            "ended by itself" if done.ended else "cut off",
            "at its end token" if done.ended else "after as many as you allow",
        ),
        (f"{done.closest:.2g}", f"ahead at token {done.closest_at:,}, where it was closest"),
        (wording.duration(done.seconds), "in all"),
    ]
    close = (
        wording.caution(
            f"At token {done.closest_at:,} two tokens are almost alike: a deployment that parts from it there is no"
            " worse. Choose another prompt for a clear answer."
        )
        if done.closest < _CLOSE
        else ""
    )
    reply = html.escape(done.text) or "<em>Nothing but the token that ends a reply.</em>"
    return f'<div class="sheet">{head}<p class="reply">{reply}</p>{wording.facts(told)}{close}</div>'
