"""What came of a run: talk to it, beside the model before; measure what it forgot; take it along, or as code."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from studio import jobs, runs
from studio.errors import InputError, StudioError
from studio.evaluation import Meter
from studio.events import Finished, TextDelta
from studio.generation import GenerationSettings, Prompt
from studio.jobs import GenerationRequest
from studio.jobs.weighing import tuned, weigh, weighed
from studio.loading import LoadPlan
from studio.runs import Run, State, document, forecast
from studio.tokenizer import Message
from studio.ui import result_view, wording
from studio.ui.handed import to_publish
from studio.ui.handlers import MODEL_QUEUE, Update, answering, hub_token, on, on_cancel, told
from studio.ui.run_story import Story

_WORDS = 200
"""Tokens of a reply that is compared."""
_SHOWN = ("result", "result_buttons", "both", "code_fold")


def result_panel() -> dict[str, Any]:
    """Draw it. `shown` fills it, `connect_result` connects it."""
    parts: dict[str, Any] = {"result": gr.HTML("", elem_id="result", elem_classes="bare")}
    with gr.Row(visible=False, elem_id="result-buttons", elem_classes="button-row") as row:
        parts |= {
            "result_buttons": row,
            "talk": gr.Button("Generate with it", variant="primary", min_width=180, scale=0, elem_id="result-talk"),
            "weigh": gr.Button("What it learnt and forgot", min_width=230, scale=0, elem_id="result-weigh"),
            "pack": gr.Button("Download the adapter", min_width=210, scale=0, elem_id="result-pack"),
            "publish_it": gr.Button("Publish", min_width=120, scale=0, elem_id="result-publish"),
            "download": gr.DownloadButton("Save", min_width=210, scale=0, visible=False, elem_id="result-download"),
            "stop_weighing": gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False),
        }
    parts["result_note"] = gr.HTML("", elem_id="result-note", elem_classes="note-line")
    parts["meter"] = gr.HTML("", elem_id="result-meter", elem_classes="bare")
    with gr.Column(visible=False, elem_id="result-both") as both:
        with gr.Row(elem_id="result-ask", elem_classes="hub-name"):
            parts["question"] = gr.Textbox(
                "What can you do?", label="Ask both", max_lines=3, scale=4, min_width=200, elem_id="result-question"
            )
            parts["ask"] = gr.Button("Ask", min_width=96, scale=0, elem_id="result-send")
        with gr.Row(elem_id="result-replies"):
            for name, label in (("before", "Before"), ("after", "After")):
                parts[name] = gr.Textbox(
                    label=label, lines=4, interactive=False, min_width=280, elem_id=f"result-{name}"
                )
    return parts | {"both": both}


def code_fold() -> dict[str, Any]:
    """The run as code, folded away."""
    with gr.Accordion("Run as code", open=False, visible=False, elem_id="result-code") as fold:
        return {
            "code_fold": fold,
            "line": gr.Textbox(label="On the command line", interactive=False, buttons=["copy"], elem_id="result-line"),
            "script": gr.Code(label="train.py, without the studio", language="python", max_lines=24),
            "yaml": gr.Code(label="run.yaml", language="yaml", max_lines=24),
        }


def connect_result(parts: dict[str, Any], run: gr.State, page: dict[str, Any]) -> None:
    """Connect it. `page` are the strip's plan and model, the tabs, which is open, and what Publish takes over."""
    here = {"run": run}
    outputs = {"note": parts["result_note"], "stop": parts["stop_weighing"], "meter": parts["meter"]}
    beside = {**page, "note": parts["result_note"]}
    on(parts["talk"].click, talk, inputs=here, outputs=beside, queue=False)
    on(parts["publish_it"].click, publish, inputs=here, outputs=beside, queue=False)
    weighing = on(parts["weigh"].click, measure, inputs=here, outputs=outputs, **MODEL_QUEUE)
    on_cancel(parts["stop_weighing"], [weighing], stopped, note=parts["result_note"], inputs={}, outputs=outputs)
    on(parts["pack"].click, pack, inputs=here, outputs={"pack": parts["pack"], "file": parts["download"]})
    replies = {"before": parts["before"], "after": parts["after"], "note": parts["result_note"]}
    asked = here | {"question": parts["question"]}
    on([parts["ask"].click, parts["question"].submit], ask_both, inputs=asked, outputs=replies, **MODEL_QUEUE)


def shown(run: Run, story: Story) -> Update:
    """What is to be seen of the result of a run, as far as there is one."""
    learnt = story.learnt if run.standing.state is State.FINISHED else None
    has_adapter = (run.folder / "adapter" / "adapter_config.json").is_file()
    update: Update = {
        "result": result_view.result(learnt, story, forecast.read(run.folder)) if learnt else "",
        "result_buttons": gr.update(visible=bool(learnt and has_adapter)),
        "both": gr.update(visible=bool(learnt and has_adapter)),
        **_as_code(run, begun=story.began is not None),
        "result_note": "",
        "pack": gr.update(visible=True),
        "download": gr.update(visible=False),
    }
    found = weighed(run.folder) if learnt else None
    return update | {"meter": result_view.meter(found) if found else "", "before": "", "after": ""}


def _as_code(run: Run, *, begun: bool) -> Update:
    try:
        script = runs.code(run.id) if begun else ""
    except InputError:
        script = ""
    if not script:
        return {"code_fold": gr.update(visible=False)}
    return {
        "code_fold": gr.update(visible=True),
        "line": f"python -m studio train {run.folder / document.FILE}",
        "script": script,
        "yaml": document.as_text(run.document),
    }


def hidden() -> Update:
    """No run, no result."""
    nothing = gr.update(visible=False)
    return {"result": "", "meter": "", "result_note": "", **{name: nothing for name in _SHOWN if name != "result"}}


def talk(*, run: str | None) -> Update:
    """Talk to the model with what it learnt: the strip speaks of it, and Generate opens."""
    try:
        plan = tuned(runs.of(run or ""))
    except StudioError as error:
        return {"note": wording.problem(error)}
    return {
        "plan": plan,
        "model": str(plan.model),
        "tabs": gr.update(selected="generation"),
        "showing": "Generate",
        "strip_note": wording.done(f"{plan.model} answers with what {runs.of(run or '').document.name} learnt."),
    }


def publish(*, run: str | None) -> Update:
    """Open Publish with the adapter."""
    try:
        plan = tuned(runs.of(run or ""))
    except StudioError as error:
        return {"note": wording.problem(error)}
    return to_publish(plan.adapter) if plan.adapter else {}


@answering
def measure(*, run: str | None) -> Iterator[Update]:
    """Ask the model the same without its adapter and with it."""
    found: Meter = yield from told(weigh(run or "", token=hub_token()))
    yield {"meter": result_view.meter(found), "note": ""}


def stopped() -> Update:
    """After Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped.")}


def pack(*, run: str | None) -> Update:
    """Pack the adapter; the button that saves it takes the place of this one."""
    found = runs.of(run or "")
    tuned(found)  # raises where there is none
    name = "".join(letter if letter.isalnum() else "-" for letter in found.document.name)[:60]
    place = Path(tempfile.mkdtemp(prefix="studio-adapter-")) / (name or "adapter")
    file = Path(shutil.make_archive(str(place), "zip", found.folder / "adapter"))
    words = f"Save {file.name}, {wording.size(file.stat().st_size)}"
    return {"pack": gr.update(visible=False), "file": gr.update(label=words, value=str(file), visible=True)}


def ask_both(*, run: str | None, question: str) -> Iterator[Update]:
    """One question to the model as it was and as it is now, the same way."""
    yield {"before": "", "after": "", "note": wording.note("Getting ready…")}
    try:
        if not question.strip():
            raise InputError("There is no question.", "Write one.")
        plan = tuned(runs.of(run or ""))
        for name, each in (("before", replace(plan, adapter=None)), ("after", plan)):
            yield from _reply(name, each, question)
        yield {"note": ""}
    except StudioError as error:
        yield {"note": wording.problem(error)}


def _reply(name: str, plan: LoadPlan, question: str) -> Iterator[Update]:
    settings = GenerationSettings(max_new_tokens=_WORDS, greedy=True)
    request, text = GenerationRequest(plan, Prompt((Message("user", question),)), settings), ""
    with closing(jobs.generate(request, token=hub_token())) as events:
        for event in events:
            if isinstance(event, TextDelta):
                text += event.text
                yield {name: text, "note": wording.note("Writing…")}
            elif not isinstance(event, Finished):
                yield {"note": wording.progress(event)}
