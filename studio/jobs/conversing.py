"""What a tokenizer makes of a conversation: the text, its tokens, which are trained on, and how turns end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from threading import Event

from studio import advice
from studio.errors import StudioError
from studio.events import Finished, Phase, Progress
from studio.heartbeat import patiently
from studio.jobs.opening import Opened
from studio.tokenizer import (
    EndOfTurn,
    Form,
    Masked,
    Message,
    Tokenized,
    ToolDefinition,
    Trained,
    end_of_turn,
    generation_ends,
    mask_conversation,
    render,
    tokenize,
    ways_to_model,
)
from studio.tokenizer.sandbox import ended_by


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation, and how it is to be shown."""

    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...] = ()
    generation_prompt: bool = False
    trained: Trained = "assistant"
    template: str | None = None
    """None for the tokenizer's own choice."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot be told, and what to do."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A conversation as the model reads it."""

    tokens: Tokenized
    masked: Masked | Refusal
    """Of the conversation without a generation prompt."""
    end: EndOfTurn | Refusal
    ways: tuple[Form, ...]
    """The prompt of the last reply along every way; empty where there is none, or another template is asked for."""
    advice: tuple[advice.Advice, ...]
    tools_left_out: tuple[str, ...]
    """Those whose name the template does not write."""
    turns_changed: tuple[int, ...]
    """Which turns, from 1, do not stand in the text as they are; space around them counts for nothing."""

    @property
    def trained(self) -> frozenset[int] | None:
        """The places of the tokens that are trained on; None where they are not known.

        Tokens behind those of the mask are the generation prompt's, before which some templates write no end of text.
        """
        if isinstance(self.masked, Refusal):
            return None
        pairs = zip(self.masked.ids, self.tokens.ids, strict=False)
        shared = next((place for place, (one, other) in enumerate(pairs) if one != other), len(self.masked.ids))
        places = frozenset(place for place, is_trained in enumerate(self.masked.trained) if is_trained)
        return places if max(places, default=-1) < min(shared, len(self.tokens.ids)) else None


def show_conversation(opened: Opened, asked: Asked) -> Generator[Progress | Finished[Shown], None, None]:
    """Render a conversation and say what is to be known of it. The last event is `Finished(Shown)`.

    Raises what `render` raises; a mask or an end that cannot be told is a part of the result.
    """

    def work(stop: Event) -> Shown:
        with ended_by(stop):
            return _show(opened, asked)

    yield Finished((yield from patiently(work, Progress(Phase.RENDER))))


def _show(opened: Opened, asked: Asked) -> Shown:
    tokenizer = opened.tokenizer
    text = render(
        tokenizer,
        asked.messages,
        tools=asked.tools,
        generation_prompt=asked.generation_prompt,
        template=asked.template,
    )
    masked = _masked(opened, asked)
    end = _end(opened, asked)
    ways = _ways(opened, asked)
    rules = advice.on_conversation(
        None if isinstance(masked, Refusal) else masked, None if isinstance(end, Refusal) else end, ways
    )
    return Shown(
        tokens=tokenize(tokenizer, text, special_tokens=False),
        masked=masked,
        end=end,
        ways=ways,
        advice=tuple(rules),
        tools_left_out=tuple(tool.name for tool in asked.tools if tool.name not in text),
        turns_changed=tuple(
            number for number, message in enumerate(asked.messages, start=1) if message.content.strip() not in text
        ),
    )


def _masked(opened: Opened, asked: Asked) -> Masked | Refusal:
    try:
        return mask_conversation(
            opened.tokenizer, asked.messages, tools=asked.tools, trained=asked.trained, template=asked.template
        )
    except StudioError as error:
        return Refusal(error.message, error.hint)


def _end(opened: Opened, asked: Asked) -> EndOfTurn | Refusal:
    try:
        return end_of_turn(opened.tokenizer, generation_ends(opened.folder), template=asked.template)
    except StudioError as error:
        return Refusal(error.message, error.hint)


def _ways(opened: Opened, asked: Asked) -> tuple[Form, ...]:
    """The prompt of the last reply; a template may refuse it, which is no more than nothing to compare."""
    replies = [number for number, message in enumerate(asked.messages) if message.role == "assistant"]
    until = replies[-1] if replies else len(asked.messages)
    if asked.template is not None or not until:
        return ()
    try:
        return ways_to_model(opened.tokenizer, asked.messages[:until], tools=asked.tools)
    except StudioError:
        return ()
