"""A conversation as the text that the model reads, by its own chat template or by one that is tried instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import gguf
from studio.checkpoint import read_json
from studio.errors import InputError, Unsupported
from studio.tokenizer.conversation import Message, ToolDefinition, as_variables

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from studio.tokenizer.sandbox import Rendered

TEMPLATE_SECONDS = 2.0
"""How long a chat template may take. Real ones need milliseconds; one that loops for ever is stopped."""
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "  # as transformers has it, and as hard to mistake for what a person writes


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    """A chat template of a tokenizer."""

    name: str
    source: str
    file: str = ""
    """Where in the folder it stands; empty where that is not known."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying a template: a text, or why there is none and at which line."""

    text: str | None
    error: str = ""
    line: int | None = None
    line_text: str = ""


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: tuple[Message, ...],
    *,
    tools: tuple[ToolDefinition, ...] = (),
    continue_last: bool = False,
    generation_prompt: bool = True,
    template: str | None = None,
) -> str:
    """The text that the model reads for a conversation, by the chat template of its own tokenizer or by `template`.

    It ends where the assistant is to begin, without `generation_prompt` behind the last turn, and with `continue_last`
    where the last message breaks off. Raises Unsupported without a template and InputError where the template fails,
    does not come to an end, or makes too much.
    """
    prompt = generation_prompt and not continue_last
    return render_tracked(
        tokenizer, messages, tools=tools, continue_last=continue_last, generation_prompt=prompt, template=template
    ).text


def render_tracked(
    tokenizer: PreTrainedTokenizerBase,
    messages: tuple[Message, ...],
    *,
    tools: tuple[ToolDefinition, ...] = (),
    continue_last: bool = False,
    generation_prompt: bool = True,
    template: str | None = None,
) -> Rendered:
    """The same as `render`, with the spans of what the template marks as generated."""
    from studio.tokenizer.sandbox import TemplateFailed

    if template is None and not tokenizer.chat_template:
        raise Unsupported(
            "This model has no chat template: it was not made for conversations.",
            "Switch to Completion and let it continue a text, or choose a model whose name ends in Instruct or Chat.",
        )
    try:
        source = _chosen(tokenizer, tools) if template is None else template
        variables = _variables(tokenizer, messages, tools, generation_prompt)
        return _continued(source, variables) if continue_last else _run(source, variables)
    except TemplateFailed as error:
        if error.slow:
            raise InputError(
                f"The chat template of this model did not come to an end within {TEMPLATE_SECONDS:g} seconds.",
                "Switch to Completion, or choose another model: this one's template is broken.",
            ) from error
        where = f" (line {error.line} of the template)" if error.line else ""
        raise InputError(
            f"The chat template of this model refuses this conversation: {error.words}{where}",
            "Leave the system prompt empty or change the order of the turns; some templates allow neither.",
        ) from error


def try_template(
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    messages: tuple[Message, ...],
    *,
    tools: tuple[ToolDefinition, ...] = (),
    continue_last: bool = False,
    generation_prompt: bool = True,
) -> Trial:
    """Render with a template that is not the tokenizer's own, which stays as it is. Failing is a result, too."""
    from studio.tokenizer.sandbox import TemplateFailed

    variables = _variables(tokenizer, messages, tools, generation_prompt and not continue_last)
    try:
        return Trial((_continued(source, variables) if continue_last else _run(source, variables)).text)
    except TemplateFailed as error:
        lines = source.split("\n")
        known = error.line is not None and error.line <= len(lines)
        return Trial(None, error.words, error.line, lines[error.line - 1].strip() if known and error.line else "")


def templates(tokenizer: PreTrainedTokenizerBase, folder: Path | None = None) -> tuple[NamedTemplate, ...]:
    """The chat templates of a tokenizer, the one for conversations first, and where in its folder each stands."""
    held = tokenizer.chat_template
    named = held if isinstance(held, dict) else {"default": held} if isinstance(held, str) and held else {}
    packed = gguf.found(folder) if folder else None
    files = _template_files(folder) if folder and not packed else {}
    found = [NamedTemplate(n, source, packed.name if packed else files.get(source, "")) for n, source in named.items()]
    return tuple(sorted(found, key=lambda each: (each.name != "default", each.name)))


def _template_files(folder: Path) -> dict[str, str]:
    """Template → the file of a model folder that it stands in; of several the one that transformers prefers."""
    found: dict[str, str] = {}
    for file in [folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))]:
        if file.is_file():
            found.setdefault(file.read_text(encoding="utf-8"), file.relative_to(folder).as_posix())
    config = folder / "tokenizer_config.json"
    held = read_json(config).get("chat_template") if config.is_file() else None
    for source in [each.get("template") for each in held] if isinstance(held, list) else [held]:
        if isinstance(source, str):
            found.setdefault(source, config.name)
    return found


def _chosen(tokenizer: PreTrainedTokenizerBase, tools: tuple[ToolDefinition, ...]) -> str:
    """The template that transformers would take: of several that for tools where there are any."""
    from studio.tokenizer.sandbox import TemplateFailed

    held = tokenizer.chat_template
    if isinstance(held, dict):
        wanted = "tool_use" if tools and "tool_use" in held else "default"
        if wanted not in held:
            raise TemplateFailed(f"there are several ({', '.join(sorted(held))}) and none is the default", None)
        held = held[wanted]
    if not isinstance(held, str):
        raise TemplateFailed("it is no text", None)
    return held


def _variables(
    tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...], tools: tuple[ToolDefinition, ...], prompt: bool
) -> dict[str, Any]:
    return {
        **{name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "messages": as_variables(messages),
        "tools": [tool.schema for tool in tools] or None,
        "documents": None,
        "add_generation_prompt": prompt,
    }


def _run(source: str, variables: dict[str, Any]) -> Rendered:
    from studio.tokenizer import sandbox

    return sandbox.run(source, variables, seconds=TEMPLATE_SECONDS)


def _continued(source: str, variables: dict[str, Any]) -> Rendered:
    """Rendered up to where the last message breaks off: it is given a tag, and the text is cut there."""
    from studio.tokenizer.sandbox import Rendered, TemplateFailed

    *before, last = variables["messages"] or [{"content": ""}]
    tagged = {**last, "content": last["content"] + _TAG}
    text = _run(source, variables | {"messages": [*before, tagged]}).text
    if last["content"].strip() not in text or _TAG.strip() not in text:
        raise TemplateFailed("it drops the message that is to be continued", None)
    at = text.rindex(_TAG.strip())
    # Where the space behind the tag is gone, the template trims, and would have trimmed the message itself.
    return Rendered(text[:at] if text.startswith(_TAG, at) else text[:at].rstrip())
