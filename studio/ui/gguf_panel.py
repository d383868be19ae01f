"""The merged model as a GGUF file for llama.cpp, Ollama and the like, compared before it is offered."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from studio import exporting, merges
from studio.errors import InputError, Unsupported
from studio.exporting import KINDS, Exported
from studio.jobs.exporting import export
from studio.ui import sheet, wording
from studio.ui.handlers import MODEL_QUEUE, Update, answering, on, on_cancel, told


def gguf_panel(merge: gr.State) -> gr.Accordion:
    """Draw it folded away, and connect it. `merge` holds the id of the merge that is looked at."""
    with gr.Accordion("Export as GGUF", open=False, visible=False, elem_id="gguf") as fold:
        gr.HTML(
            "<p>One file that llama.cpp, Ollama and LM Studio run. It is read back and held against the merged model"
            " before it gets its name.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        with gr.Row(elem_classes="button-row"):
            kind = gr.Dropdown(list(KINDS), value="Q8_0", label="Held as", min_width=150, scale=0, elem_id="gguf-kind")
            write = gr.Button("Write the file", min_width=150, scale=0, elem_id="gguf-write")
            stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="gguf-stop")
        note = gr.HTML("", elem_id="gguf-note", elem_classes="note-line")
        found = gr.HTML("", elem_id="gguf-found", elem_classes="plainly")
    outputs: dict[str, Any] = {"stop": stop, "note": note, "found": found}
    running = on(write.click, write_file, inputs={"merge": merge, "kind": kind}, outputs=outputs, **MODEL_QUEUE)
    on_cancel(stop, [running], stopped, note=note, inputs={}, outputs=outputs)
    on(merge.change, emptied, inputs={}, outputs=outputs, queue=False)
    return fold


@answering
def write_file(*, merge: str | None, kind: str) -> Iterator[Update]:
    """Write it, and say what was compared; where the studio cannot, what to run instead."""
    yield {"found": ""}
    outcome = merges.of(merge or "").outcome
    if outcome is None or outcome.passed is False:
        raise InputError("There is no proven merge to export.", "Merge first.")
    try:
        done: Exported = yield from told(export(outcome.folder, kind))
    except Unsupported:
        yield {"found": _elsewhere(outcome.folder)}
        raise
    yield {"found": exported(done), "note": ""}


def stopped() -> Update:
    """After Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped. Nothing of it was left.")}


def emptied() -> Update:
    """Another merge is looked at."""
    return {"note": "", "found": ""}


def exported(done: Exported) -> str:
    """What came of it."""
    alike = done.likeness
    second = done.not_compared or "It was written, read back and compared."
    if alike:
        second = f"{alike.same} of {alike.tokens} tokens of a greedy reply are the same as the folder's."
    told = [
        (wording.size(done.bytes), done.kind),
        (f"{done.texts:,}", "texts become the folder's own tokens"),
        (f"{done.weight_error:.2%}".replace("%", " %"), "of the weights is rounding"),
        (wording.duration(done.seconds), "in all"),
    ]
    head = sheet.headline(f"{done.file.name} is written", second, good=True)
    notes = "".join(wording.caution(words) for words in done.caveats)
    place = f"<p class='place'>It is in <code>{wording.place(done.file)}</code></p>"
    return f'<div class="sheet">{head}{wording.facts(told)}{notes}{place}</div>'


def _elsewhere(folder: Path) -> str:
    script = html.escape(exporting.command_for(folder))
    return f'<div class="sheet"><h4>What to run instead</h4><pre class="script">{script}</pre></div>'
