"""A conversation as the page keeps it: a value that every action replaces, drawn in the chat view, saved as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from studio.errors import InputError
from studio.tokenizer import Message, Role

FORMAT = "transformers-studio-chat/1"
_LARGEST_FILE = 5_000_000  # characters
# Some templates open the tag themselves, in the generation prompt; the reply then begins inside it.
_REASONING = re.compile(r"^\s*(?:<think>)?(?P<thought>.*?)(?P<end></think>)(?P<answer>.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns between a person and the model; the system prompt is kept apart."""

    messages: tuple[Message, ...] = ()

    def with_turn(self, role: Role, content: str) -> Conversation:
        """One turn more."""
        return replace(self, messages=(*self.messages, Message(role, content)))

    def until(self, index: int) -> Conversation:
        """The turns before `index`."""
        return replace(self, messages=self.messages[:index])

    def asked_again(self) -> Conversation:
        """Without the last reply, so that the question can be answered anew. Raises InputError without a question."""
        messages = self.messages
        while messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        if not messages:
            raise InputError("There is no message to answer again.", "Send one first.")
        return replace(self, messages=messages)

    def with_system(self, system: str) -> tuple[Message, ...]:
        """What the model reads: the system prompt, if there is one, and the turns."""
        return (Message("system", system.strip()), *self.messages) if system.strip() else self.messages


def drawn(chat: Conversation) -> list[dict[str, Any]]:
    """The conversation for gr.Chatbot, reasoning folded. Parts are dicts, because Gradio strips plain strings."""
    return [part for _, part in _parts(chat)]


def edited(chat: Conversation, index: int, text: str) -> tuple[Conversation, Role]:
    """Other words in the drawn message at `index`; also says whose they are.

    The turns behind a changed question answered something else and go; those behind a changed reply stay.
    """
    turn, part = _parts(chat)[index]
    message = chat.messages[turn]
    thought, answer, ended = _split(message.content) if message.role == "assistant" else ("", "", True)
    if part["metadata"]:
        text = f"<think>\n{text}\n{'</think>' if ended else ''}{answer}"
    elif thought:
        text = f"<think>\n{thought}\n</think>{text}"
    rest = chat.messages[turn + 1 :] if message.role == "assistant" else ()
    return Conversation((*chat.messages[:turn], replace(message, content=text), *rest)), message.role


def _parts(chat: Conversation) -> list[tuple[int, dict[str, Any]]]:
    parts = []
    for turn, message in enumerate(chat.messages):
        thought, answer, ended = _split(message.content) if message.role == "assistant" else ("", message.content, True)
        if thought:
            metadata = {"title": "Reasoning", "status": "done" if ended else "pending"}
            parts.append((turn, _drawn(message.role, thought, metadata)))
        if answer or not thought:
            parts.append((turn, _drawn(message.role, answer, None)))
    return parts


def _split(content: str) -> tuple[str, str, bool]:
    """Reasoning, answer, and whether the reasoning has come to its end."""
    if match := _REASONING.match(content):
        return match["thought"].strip(), match["answer"].lstrip(), True
    if content.lstrip().startswith("<think>"):
        return content.lstrip().removeprefix("<think>").strip(), "", False
    return "", content, True


def _drawn(role: Role, text: str, metadata: dict[str, str] | None) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}], "metadata": metadata}


def to_json(chat: Conversation, *, system: str, model: str) -> str:
    """The conversation as a file: what the model reads, in the messages format that datasets use too."""
    messages = [{"role": m.role, "content": m.content} for m in chat.with_system(system)]
    return json.dumps({"format": FORMAT, "model": model, "messages": messages}, ensure_ascii=False, indent=2)


def from_json(text: str) -> tuple[Conversation, str]:
    """A saved conversation and its system prompt. Raises InputError, naming the turn, where the text is not one."""
    hint = "Choose a file that Export wrote, or any JSON with a list of messages, each with a role and a content."
    if len(text) > _LARGEST_FILE:
        raise InputError(f"The file has {len(text):,} characters, more than {_LARGEST_FILE:,}.", hint)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The file is not JSON: {error}", hint) from error
    messages = content.get("messages") if isinstance(content, dict) else content
    if not isinstance(messages, list) or not messages:
        raise InputError("The file holds no list of messages.", hint)
    turns = [_message(number, item, hint) for number, item in enumerate(messages, start=1)]
    system = turns.pop(0).content if turns[0].role == "system" else ""
    if any(turn.role == "system" for turn in turns):
        raise InputError("A system prompt stands after the first turn.", "Move it to the front, or leave it out.")
    return Conversation(tuple(turns)), system


def _message(number: int, item: Any, hint: str) -> Message:
    role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise InputError(f"Message {number} has no role of system, user or assistant with a text as its content.", hint)
    return Message(role, content)
