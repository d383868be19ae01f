"""A conversation as the model reads it: tokens, which are trained on, how turns end; and its template, to be tried."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import update_wrapper
from threading import Event
from typing import Any

import gradio as gr

from studio import jobs
from studio.errors import StudioError
from studio.events import Phase, Progress
from studio.heartbeat import patiently
from studio.jobs import Asked, Opened
from studio.jobs.conversing import Refusal
from studio.tokenizer import NamedTemplate, Trained, mask_conversation, read_tools, templates, try_template
from studio.tokenizer.sandbox import ended_by
from studio.ui import template_view, turns, wording
from studio.ui.handlers import CHANGING, Update, on, on_cancel, told
from studio.ui.tokenizer_panel import TEXT_QUEUE, Panel, opened

EXAMPLE: tuple[turns.Turn, ...] = (
    ("system", "You are a friendly assistant."),
    ("user", "Hi! What can you do?"),
    ("assistant", "I answer questions and tell stories."),
    ("user", "Name three colours."),
    ("assistant", "Red, green and blue."),
)
TOOLS = """[{
  "type": "function",
  "function": {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
      "type": "object",
      "properties": {"city": {"type": "string", "description": "Such as Paris"}},
      "required": ["city"]
    }
  }
}]"""
WITH_A_CALL: tuple[turns.Turn, ...] = (
    ("user", "Do I need an umbrella in Paris?"),
    ("assistant", '{"name": "get_weather", "arguments": {"city": "Paris"}}'),
    ("tool", "Dry, 21 degrees"),
    ("assistant", "No, it stays dry."),
)
PLAIN = """{%- for message in messages %}
{{- message['role'] + ': ' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- message['content'] + eos_token }}
{%- endgeneration %}
{%- else %}
{{- message['content'] }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'assistant: ' }}
{%- endif %}
"""
"""What a model without a template may be given to try."""
Updates = Generator[Update, None, None]
_TRAINED: dict[str, Trained] = {"All replies": "assistant", "Last reply": "last", "Everything": "all"}


def _stoppable(handler: Callable[..., Updates]) -> Callable[..., Iterator[Update]]:
    """Show the output `stop` from the first progress on until the handler is through."""

    def run(**values: Any) -> Iterator[Update]:
        offered = False
        with closing(handler(**values)) as updates:
            for update in updates:
                slow = not offered and any("<progress" in str(update.get(part, "")) for part in ("note", "trial"))
                offered = offered or slow
                yield update | {"stop": gr.update(visible=True)} if slow else update
        if offered:
            yield {"stop": gr.update(visible=False)}

    return update_wrapper(run, handler)


def template_panel(model: gr.Dropdown) -> Panel:
    """Draw the panel and connect it."""
    with gr.Tab("Chat template", id="template") as tab:
        gr.HTML(
            "How a conversation becomes the text that the model reads, and which tokens of it training counts.",
            elem_classes="lead",
        )
        with gr.Row(elem_id="template-row"):
            with gr.Column(scale=4, min_width=300, elem_id="turns"):
                rows = turns.turn_rows(EXAMPLE)
            with gr.Column(scale=6, min_width=300):
                settings = _settings()
                stop = gr.Button("Stop", variant="stop", min_width=96, visible=False, elem_id="template-stop")
                note = gr.HTML("", elem_id="template-note", elem_classes="note-line")
                view = gr.HTML("", elem_id="template-view")
        with gr.Accordion("Advanced: tools, and the template itself", open=False, elem_id="template-advanced"):
            tools, tool, call, plain = _tools()
            drawn = _template()
        of = gr.State(("", ""))
    back = drawn.pop("back")
    advanced = {key: drawn[key] for key in ("which", "edited")}
    inputs = {"model": model, "of": of, "tools": tools, "count": rows.count, **settings, **advanced, **rows.values}
    outputs = {"note": note, "view": view, "of": of, "stop": stop, **drawn}
    live = [*(part.change for part in (tools, rows.count, *settings.values(), *rows.values.values()))]
    shown = on([*live, drawn["which"].input], show, inputs=inputs, outputs=outputs, **TEXT_QUEUE)
    copied = {key: value for key, value in inputs.items() if key not in ("trained", "of")}
    tried = {"trial": drawn["trial"], "edited": drawn["edited"], "stop": stop}
    trying = on(drawn["edited"].input, try_copy, inputs=copied, outputs=tried, **TEXT_QUEUE)
    taken_back = on(back.click, back_to_original, inputs=copied, outputs=tried, **TEXT_QUEUE)
    on(tool.click, example_tool, inputs={}, outputs={"tools": tools}, queue=False)
    filled = {"tools": tools, **rows.drawn}
    on(call.click, example_call, inputs={}, outputs=filled, queue=False)
    on(plain.click, example, inputs={}, outputs=filled, queue=False)

    def stops(elsewhere: list[Any]) -> None:
        runs = [shown, trying, taken_back, *elsewhere]
        on_cancel(stop, runs, stopped, note=note, inputs={}, outputs=outputs)

    return Panel(tab, show, inputs, outputs, reads_text=False, stops=stops)


def _settings() -> dict[str, Any]:
    with gr.Row(elem_id="template-settings"):
        return {
            "trained": gr.Radio(
                list(_TRAINED),
                value="All replies",
                label="Trained on",
                scale=3,
                min_width=320,
                elem_id="template-trained",
            ),
            "prompt": gr.Checkbox(
                False,
                label="Ask for a reply",
                info="Adds the generation prompt",
                scale=1,
                min_width=180,
                elem_id="generation-prompt",
            ),
        }


def _tools() -> tuple[gr.Textbox, gr.Button, gr.Button, gr.Button]:
    tools = gr.Textbox(
        "",
        label="Tools",
        info="JSON schemas of functions. A turn of the assistant that is a call, as in the example, calls one.",
        lines=2,
        max_lines=14,
        elem_id="template-tools",
    )
    with gr.Row(elem_classes="button-row"):
        tool = gr.Button("Example", size="sm", min_width=96, scale=0, elem_id="tool-example")
        call = gr.Button("Example with a tool call", size="sm", min_width=190, scale=0, elem_id="call-example")
        plain = gr.Button("Back to the first example", size="sm", min_width=190, scale=0, elem_id="first-example")
    return tools, tool, call, plain


def _template() -> dict[str, Any]:
    which = gr.Dropdown(
        [],
        label="Which template",
        info="In a chat the model takes tool_use where there are tools, and default else",
        **CHANGING,
        visible=False,
        elem_id="template-which",
    )
    origin = gr.HTML("", elem_id="template-origin", elem_classes="note-line")
    with gr.Row(elem_id="template-sources"):
        original = gr.Code(
            "",
            language="jinja2",
            label="The original",
            interactive=False,
            lines=8,
            max_lines=22,
            wrap_lines=True,
            elem_id="template-original",
        )
        edited = gr.Code(
            "",
            language="jinja2",
            label="A copy to edit: it is tried while you type, and the model keeps its own",
            interactive=True,
            lines=8,
            max_lines=22,
            wrap_lines=True,
            elem_id="template-edited",
        )
    with gr.Row(elem_classes="button-row"):
        back = gr.Button("Back to the original", size="sm", min_width=160, scale=0, elem_id="template-back")
    trial = gr.HTML("", elem_id="template-trial")
    return {"which": which, "origin": origin, "original": original, "edited": edited, "back": back, "trial": trial}


@_stoppable
def show(
    *, model: str | None, of: tuple[str, str], which: str | None, edited: str, trained: str, **asked: Any
) -> Updates:
    """Render the conversation by the template of the model; where that is another now, begin a new copy of it."""
    try:
        found = yield from opened(model)
        held = templates(found.tokenizer, found.folder)
        chosen = _chosen(held, which if of[0] == model else None)
        own = (model or "", chosen.name if chosen else "")
        if own != tuple(of):
            edited = chosen.source if chosen else PLAIN
            yield _new_template(held, chosen) | {"of": own, "edited": edited}
        conversation = _asked(**asked, trained=_TRAINED[trained], template=_other(held, chosen))
    except StudioError as error:
        yield {"note": wording.problem(error), "view": "", "trial": ""}
        return
    if chosen:
        yield from _conversation(found, conversation)
    else:
        none = wording.caution("This model has no chat template: it was made to continue texts. A plain one is tried.")
        yield {"note": "", "view": none}
    for update in _trial(found, conversation, chosen, edited):
        yield update if chosen else update | {"view": none + update["trial"]}


def _conversation(found: Opened, asked: Asked) -> Iterator[Update]:
    try:
        shown = yield from told(jobs.show_conversation(found, asked))
        yield {"note": "", "view": template_view.conversation(shown)}
    except StudioError as error:
        yield {"note": wording.problem(error), "view": ""}


@_stoppable
def try_copy(*, model: str | None, which: str | None, edited: str, **asked: Any) -> Updates:
    """Render the conversation by the edited copy, beside the original."""
    try:
        found = yield from opened(model, note="trial")
        chosen = _chosen(templates(found.tokenizer, found.folder), which)
        yield from _trial(found, _asked(**asked), chosen, edited)
    except StudioError as error:
        yield {"trial": wording.problem(error)}


@_stoppable
def back_to_original(*, model: str | None, which: str | None, edited: str, **asked: Any) -> Updates:
    """Take back what was edited."""
    del edited
    try:
        found = yield from opened(model, note="trial")
        chosen = _chosen(templates(found.tokenizer, found.folder), which)
        source = chosen.source if chosen else PLAIN
        yield {"edited": source}
        yield from _trial(found, _asked(**asked), chosen, source)
    except StudioError as error:
        yield {"trial": wording.problem(error)}


def stopped() -> Update:
    """The panel after Stop: the text as it was is not drawn, since it may be another by now."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped."), "view": "", "trial": ""}


def example_tool() -> Update:
    """A tool, to begin with."""
    return {"tools": TOOLS}


def example_call() -> Update:
    """A conversation in which a tool is called."""
    return {"tools": TOOLS, **turns.filled(WITH_A_CALL)}


def example() -> Update:
    """The conversation that the panel begins with."""
    return {"tools": "", **turns.filled(EXAMPLE)}


def _chosen(held: tuple[NamedTemplate, ...], which: str | None) -> NamedTemplate | None:
    return next((each for each in held if each.name == which), held[0] if held else None)


def _other(held: tuple[NamedTemplate, ...], chosen: NamedTemplate | None) -> str | None:
    """The template to be taken instead of what the tokenizer would choose by itself."""
    return chosen.source if chosen and len(held) > 1 else None


def _new_template(held: tuple[NamedTemplate, ...], chosen: NamedTemplate | None) -> Update:
    names = [each.name for each in held]
    origin = template_view.source(chosen.file, chosen.name, several=len(held) > 1) if chosen else ""
    return {
        "which": gr.update(choices=names, value=chosen.name if chosen else None, visible=len(held) > 1),
        "origin": origin or wording.done("The model has no template. The copy is a plain one to try."),
        "original": gr.update(value=chosen.source if chosen else "", visible=chosen is not None),
    }


def _asked(
    *, tools: str, prompt: bool, count: int, trained: Trained = "assistant", template: str | None = None, **values: Any
) -> Asked:
    defined = read_tools(tools or "")
    messages = turns.as_messages(turns.written(values, count), defined)
    return Asked(messages, defined, generation_prompt=prompt, trained=trained, template=template)


def _trial(found: Opened, asked: Asked, chosen: NamedTemplate | None, edited: str) -> Iterator[Update]:
    """The edited copy on the conversation, where it is one."""
    original = chosen.source if chosen else None
    if edited == original:
        yield {"trial": wording.done("The copy is the original. Change it, and what it makes is shown here.")}
        return
    slow = {"trial": wording.progress(Progress(Phase.RENDER))}

    def work(stop: Event) -> template_view.Tried:
        with ended_by(stop):
            return _tried(found, asked, original, edited)

    tried = yield from patiently(work, slow)
    yield {"trial": template_view.tried(tried)}


def _tried(found: Opened, asked: Asked, original: str | None, edited: str) -> template_view.Tried:
    def made(source: str) -> Any:
        return try_template(
            found.tokenizer, source, asked.messages, tools=asked.tools, generation_prompt=asked.generation_prompt
        )

    trial = made(edited)
    before = None if original is None else made(original)
    if trial.text is None:
        return template_view.Tried(trial, before, None)
    try:
        masked = mask_conversation(found.tokenizer, asked.messages, tools=asked.tools, template=edited)
    except StudioError as error:
        return template_view.Tried(trial, before, Refusal(error.message, error.hint))
    return template_view.Tried(trial, before, masked)
