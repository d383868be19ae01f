"""Talk to the model, on its own template, let it continue a text, or hold it against adapters of it."""

from __future__ import annotations

import html
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from studio import jobs
from studio.errors import InputError, StudioError
from studio.events import Finished, TextDelta
from studio.generation import GenerationSettings, Prompt
from studio.jobs import GenerationRequest
from studio.loading import LoadPlan
from studio.models import STARTER
from studio.ui import chat as chats
from studio.ui import form, wording
from studio.ui.chat import Conversation
from studio.ui.handlers import MODEL_QUEUE, Update, hub_token, insisting, on, on_cancel
from studio.ui.model_strip import default_plan
from studio.ui.side_by_side_panel import side_by_side_panel

EXAMPLES = (
    "Tell me a story about a fox.",
    "What is the rank of a LoRA?",
    "Why merge into the 16-bit base?",
    "What can you do?",
)
CHAT, COMPLETION = "Chat", "Completion"
PACE = 20_000
"""Characters a second that a browser draws with ease. It draws all of a reply for each piece, and Stop has to wait."""
KEEP_SECONDS = 1.0
"""How often a reply that is being written is kept in the browser tab, for a reload."""

# The tab's own storage: it survives a reload, ends with the tab, and no other window sees it.
_KEEP = "(kept) => { sessionStorage.setItem('studio.chat', kept ?? ''); }"
_RECALL = "() => [sessionStorage.getItem('studio.chat') ?? '']"


def generation_tab(page: gr.Blocks, plan: gr.State, made_for: gr.Textbox) -> None:
    """Draw the tab and connect it. It reads the plan, and what the model in memory was made for."""
    with gr.Tab("Generate", id="generation"):
        chat = gr.State(Conversation())
        kept, recalled = (gr.Textbox(visible="hidden", label=f"{word} chat") for word in ("Kept", "Recalled"))
        with gr.Row(elem_id="generation-row"):
            with gr.Column(scale=7, min_width=320):
                parts = gr.Tabs(elem_id="generation-parts")
            with parts, gr.Tab("Chat", id="chat-part"):
                shown = {"chat": chat, "kept": kept, **_panes(), **_composer()}
                shown["note"] = gr.HTML("", elem_id="generation-note")
                shown |= _chat_buttons()
            with gr.Column(scale=3, min_width=280, elem_id="generation-settings"):
                shown["system"] = gr.Textbox(
                    label="System prompt",
                    placeholder="Read before the first turn; empty leaves it out",
                    lines=3,
                    elem_id="system",
                )
                with gr.Accordion("Advanced", open=False, elem_id="sampling"):
                    sampling = form.widgets(GenerationSettings)
        with parts:
            side_by_side_panel(plan, {"mode": shown["mode"], "system": shown["system"], **sampling})
    outputs = {name: part for name, part in shown.items() if name not in ("export", "import")}
    _connect_answers(outputs, {"plan": plan, **sampling})
    _connect_chat(outputs, made_for)
    _connect_files(outputs, shown["export"], shown["import"], plan)
    kept.change(None, inputs=kept, js=_KEEP)
    page.load(None, outputs=recalled, js=_RECALL)
    on(recalled.change, recall, inputs={"kept": recalled}, outputs=outputs, queue=False)


def _panes() -> dict[str, Any]:
    """What is written in: a chat, or a text that the model goes on with. One of them shows."""
    mode = gr.Radio([CHAT, COMPLETION], value=CHAT, label="Mode", show_label=False, container=False, elem_id="mode")
    view = gr.Chatbot(
        label="Chat",
        show_label=False,
        height="max(340px, calc(100vh - 590px))",
        editable="all",
        buttons=["copy"],
        layout="bubble",
        group_consecutive_messages=False,
        **_welcome(str(STARTER)),
        elem_id="chat",
    )
    draft = gr.Textbox(
        label="Text",
        info="The model goes on from the last character; no template is applied.",
        lines=14,
        max_lines=24,
        placeholder="Once upon a time",
        visible=False,
        elem_id="draft",
    )
    return {"mode": mode, "view": view, "draft": draft}


def _welcome(model: str) -> dict[str, Any]:
    """What an empty chat shows. The examples are what the starter knows well."""
    if model == str(STARTER):
        words = "## Ask the starter something\nIt is small, it runs right here, and a few things it knows well."
        return {"placeholder": words, "examples": [{"text": text} for text in EXAMPLES]}
    return {"placeholder": f"## Talk to the model\n{html.escape(model)}", "examples": []}


def _composer() -> dict[str, Any]:
    with gr.Row(elem_id="composer"):
        return {
            "text": gr.Textbox(
                label="Message",
                show_label=False,
                container=False,
                placeholder="Write a message",
                lines=1,
                max_lines=8,
                scale=1,
                min_width=160,
                elem_id="message",
            ),
            "send": gr.Button("Send", variant="primary", scale=0, min_width=104, elem_id="send"),
            "stop": gr.Button("Stop", variant="stop", scale=0, min_width=104, elem_id="stop", visible=False),
        }


def _chat_buttons() -> dict[str, Any]:
    with gr.Row(elem_id="chat-buttons") as row:
        return {
            "chat_buttons": row,
            "again": gr.Button("Regenerate", size="sm", min_width=96, scale=0, elem_id="regenerate"),
            "more": gr.Button("Continue", size="sm", min_width=96, scale=0, elem_id="continue"),
            "fresh": gr.Button("New chat", size="sm", min_width=96, scale=0, elem_id="new-chat"),
            "export": gr.DownloadButton("Export", size="sm", min_width=96, scale=0, elem_id="export"),
            "import": gr.UploadButton(
                "Import", file_types=[".json"], size="sm", min_width=96, scale=0, elem_id="import"
            ),
        }


def _connect_answers(shown: dict[str, Any], asked: dict[str, Any]) -> None:
    """Everything that makes the model write, and the one button that stops it."""
    view, here = shown["view"], {"chat": shown["chat"], "system": shown["system"]}
    asked = asked | here
    written = asked | {"mode": shown["mode"], "text": shown["text"], "draft": shown["draft"]}
    writing = [
        on([shown["send"].click, shown["text"].submit], send, inputs=written, outputs=shown, **MODEL_QUEUE),
        on(view.example_select, send_example, inputs=asked, outputs=shown, **MODEL_QUEUE),
        on([shown["again"].click, view.retry], regenerate, inputs=asked, outputs=shown, **MODEL_QUEUE),
        on(shown["more"].click, continue_reply, inputs=asked, outputs=shown, **MODEL_QUEUE),
        on(view.edit, edit, inputs=asked, outputs=shown, **MODEL_QUEUE),
    ]
    on_cancel(shown["stop"], writing, stopped, note=shown["note"], inputs=here, outputs=shown)


def _connect_chat(shown: dict[str, Any], made_for: gr.Textbox) -> None:
    on([shown["fresh"].click, shown["view"].clear], new_chat, inputs={}, outputs=shown, queue=False)
    on(shown["view"].undo, undo, inputs={"chat": shown["chat"], "system": shown["system"]}, outputs=shown, queue=False)
    on(shown["mode"].change, switch_mode, inputs={"mode": shown["mode"]}, outputs=shown, queue=False)
    on(made_for.change, suit_model, inputs={"made_for": made_for}, outputs=shown, queue=False)


def _connect_files(shown: dict[str, Any], export: Any, upload: Any, plan: gr.State) -> None:
    on(upload.upload, import_chat, inputs={"file": upload}, outputs=shown)
    told = {"chat": shown["chat"], "plan": plan, "system": shown["system"]}
    on(export.click, export_chat, inputs=told, outputs={"file": export})


# --- What the model is asked


@dataclass(frozen=True, slots=True)
class _Asked:
    """The part of the form that every request needs."""

    plan: LoadPlan
    system: str
    settings: GenerationSettings

    @classmethod
    def read(cls, plan: LoadPlan | None, system: str, sampling: dict[str, Any]) -> _Asked:
        return cls(plan or default_plan(), system, form.read(GenerationSettings, sampling))


def _answering(handler: Callable[..., Iterator[Update]]) -> Callable[..., Iterator[Update]]:
    """Show Stop while the handler runs, and what went wrong beside the chat, where it stays readable."""

    @wraps(handler)
    def run(*arguments: Any, **values: Any) -> Iterator[Update]:
        busy = {"send": gr.update(visible=False), "stop": gr.update(visible=True)}
        yield busy | {"note": wording.note("Getting ready…")}
        try:
            yield from insisting(busy, handler(*arguments, **values))
            yield _idle()
        except StudioError as error:
            # Beside the chat, where it stays and covers nothing; a dialog would hide the buttons that mend it.
            yield {**_idle(), "note": wording.problem(error)}

    return run


def _idle() -> Update:
    return {"send": gr.update(visible=True), "stop": gr.update(visible=False)}


@_answering
def send(
    *, mode: str, chat: Conversation, text: str, draft: str, plan: LoadPlan | None, system: str, **sampling: Any
) -> Iterator[Update]:
    """Send the message; in completion mode, let the model go on with the draft."""
    asked = _Asked.read(plan, system, sampling)
    if mode == COMPLETION:
        yield from _go_on(draft, asked)
    else:
        yield from _say(chat, text, asked)


@_answering
def send_example(
    chosen: gr.SelectData, *, chat: Conversation, plan: LoadPlan | None, system: str, **sampling: Any
) -> Iterator[Update]:
    """Send one of the examples that an empty chat offers."""
    yield from _say(chat, chosen.value["text"], _Asked.read(plan, system, sampling))


@_answering
def regenerate(*, chat: Conversation, plan: LoadPlan | None, system: str, **sampling: Any) -> Iterator[Update]:
    """Answer the last message again; without a seed, in other words."""
    yield from _answer(chat.asked_again(), _Asked.read(plan, system, sampling))


@_answering
def continue_reply(*, chat: Conversation, plan: LoadPlan | None, system: str, **sampling: Any) -> Iterator[Update]:
    """Go on inside the last reply, where it was stopped or grew too long."""
    yield from _answer(chat, _Asked.read(plan, system, sampling), continue_last=True)


@_answering
def edit(
    changed: gr.EditData, *, chat: Conversation, plan: LoadPlan | None, system: str, **sampling: Any
) -> Iterator[Update]:
    """Put other words into a turn. A changed message is answered anew; a changed reply stands as it was written."""
    index = changed.index if isinstance(changed.index, int) else changed.index[0]
    chat, role = chats.edited(chat, index, changed.value)
    if role == "user":
        yield from _answer(chat, _Asked.read(plan, system, sampling))
    else:
        yield {**_redrawn(chat, system), "note": wording.done("The reply was changed. Continue goes on from it.")}


def _say(chat: Conversation, text: str, asked: _Asked) -> Iterator[Update]:
    if not text.strip():
        raise InputError("The message is empty.", "Type something, or choose one of the examples.")
    yield {"text": ""}
    yield from _answer(chat.with_turn("user", text), asked)


def _answer(chat: Conversation, asked: _Asked, *, continue_last: bool = False) -> Iterator[Update]:
    """Stream a reply into the chat. What is there of it stays when it is stopped or fails."""
    yield _redrawn(chat, asked.system)
    prompt = Prompt(chat.with_system(asked.system), continue_last=continue_last)
    before = chat.until(len(chat.messages) - 1) if continue_last else chat
    begun = chat.messages[-1].content if continue_last else ""
    kept = time.monotonic()
    for piece in _streamed(GenerationRequest(asked.plan, prompt, asked.settings)):
        if isinstance(piece, str):
            chat = before.with_turn("assistant", begun + piece)
            yield {"chat": chat, "view": chats.drawn(chat)}
            if time.monotonic() - kept > KEEP_SECONDS:
                kept = time.monotonic()
                yield {"kept": _kept(chat, asked.system)}
        else:
            yield piece
    yield {"kept": _kept(chat, asked.system)}


def _go_on(draft: str, asked: _Asked) -> Iterator[Update]:
    for piece in _streamed(GenerationRequest(asked.plan, Prompt(text=draft), asked.settings)):
        yield {"draft": draft + piece} if isinstance(piece, str) else piece


def _streamed(request: GenerationRequest) -> Iterator[str | Update]:
    """All text so far each time there is more of it; what to show beside it in between, and the numbers at the end."""
    text, shown, drawn, since = "", "", "", time.monotonic()
    with closing(jobs.generate(request, token=hub_token())) as events:
        for event in events:
            if isinstance(event, TextDelta):
                text += event.text
            due = time.monotonic() - since > len(text) / PACE or isinstance(event, Finished)
            if text != drawn and due:
                drawn, since = text, time.monotonic()
                yield text
            match event:
                case TextDelta(_, tokens):
                    words = wording.note(f"Writing… {tokens:,} tokens")
                case Finished(result):
                    words = wording.reply_facts(result)
                case _:
                    words = wording.progress(event)
            # An update that changes nothing still lets Stop in.
            yield {} if words == shown else {"note": words}
            shown = words


# --- The chat itself


def stopped(*, chat: Conversation, system: str) -> Update:
    """The page after Stop: what was written stays."""
    return {**_idle(), "kept": _kept(chat, system), "note": wording.done("Stopped. Continue goes on from here.")}


def new_chat() -> Update:
    """An empty chat. The system prompt and the settings stay."""
    return {"chat": Conversation(), "view": [], "kept": "", "note": ""}


def undo(*, chat: Conversation, system: str) -> Update:
    """Take the last message back into the box, and its reply away."""
    asked = chat.asked_again()
    last = len(asked.messages) - 1
    return {**_redrawn(asked.until(last), system), "text": asked.messages[last].content, "note": ""}


def switch_mode(*, mode: str) -> Update:
    """Show the chat, or the text that the model continues."""
    chatting = mode == CHAT
    return {
        "view": gr.update(visible=chatting),
        "text": gr.update(visible=chatting),
        "draft": gr.update(visible=not chatting),
        "chat_buttons": gr.update(visible=chatting),
        "send": gr.update(value="Send" if chatting else "Continue"),
        "system": gr.update(interactive=chatting),
    }


def suit_model(*, made_for: str) -> Update:
    """A model without a chat template can only continue a text."""
    kind, _, model = made_for.split(" ", 2)
    if kind != "text":
        return {"mode": CHAT, "view": gr.update(**_welcome(model))}
    words = f"{model} has no chat template, so it continues a text rather than chat."
    return {"mode": COMPLETION, "note": wording.done(words)}


def recall(*, kept: str) -> Update:
    """The chat of this browser tab from before a reload."""
    try:
        chat, system = chats.from_json(kept)
    except InputError:
        return {}  # nothing kept, or from another version: an empty chat is right
    return {"chat": chat, "view": chats.drawn(chat), "system": system}


def import_chat(*, file: str) -> Update:
    """Put a saved conversation in place of the one on the page."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError("The file is not text.", "Choose a JSON file that Export wrote.") from error
    chat, system = chats.from_json(text)
    count = len(chat.messages)
    return {**_redrawn(chat, system), "system": system, "note": wording.done(f"Imported {count} messages.")}


def export_chat(*, chat: Conversation, plan: LoadPlan | None, system: str) -> Update:
    """Write the conversation to a file of its own, and hand it to the browser."""
    if not chat.messages:
        raise InputError("There is nothing to export.", "Send a message first.")
    model = str(plan.model) if plan else "starter"
    file = Path(tempfile.mkdtemp(prefix="studio-chat-")) / f"chat-{time.strftime('%Y-%m-%d-%H%M%S')}.json"
    file.write_text(chats.to_json(chat, system=system, model=model), encoding="utf-8")
    return {"file": str(file)}


def _redrawn(chat: Conversation, system: str) -> Update:
    return {"chat": chat, "view": chats.drawn(chat), "kept": _kept(chat, system)}


def _kept(chat: Conversation, system: str) -> str:
    return chats.to_json(chat, system=system, model="") if chat.messages else ""
