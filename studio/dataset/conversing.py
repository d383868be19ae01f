"""A row as what a model is to read: a conversation, a prompt with its completion, a text. Errors name the column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studio.dataset.formats import ColumnMapping, Format, turns_in
from studio.dataset.parsing import kind_of, shown
from studio.dataset.reasons import BadRow, Reason
from studio.tokenizer import Message, Role, ToolDefinition
from studio.tokenizer.conversation import read_call, read_tool

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}
"""What datasets call those who speak."""
_ANSWERS = ("tool", "function", "observation", "ipython", "function_response", "tool_response")
"""What they call a tool that answers."""
_CALLS = ("function_call", "tool_call")
"""What they call an assistant that asks for one, where that is a turn of its own."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in their order."""

    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...] = ()
    """The functions that the assistant may call."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What is given and what is to follow: texts, or turns."""

    prompt: str | tuple[Message, ...]
    completion: str | tuple[Message, ...]
    system: str = ""
    tools: tuple[ToolDefinition, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """A text by itself."""

    text: str


Example = Conversation | Completion | Passage


def as_conversation(row: Mapping[str, Any], mapping: ColumnMapping, *, place: str = "The row") -> Example:
    """What a row says under a mapping; of a preference, the chosen answer. `place` is how errors call the row.

    Raises BadRow, an InputError with row and column, for what is missing, null, empty where something is to be learned,
    of another kind, said by nobody who is known, or out of order.
    """
    at = _Row(row, mapping, place)
    match mapping.format:
        case Format.TEXT:
            return Passage(at.learned("text"))
        case Format.ALPACA:
            asked = at.text("instruction") + (f"\n\n{given}" if (given := at.spare("input")) else "")
            turns = (Message("user", asked), Message("assistant", at.learned("output")))
            return Conversation((*at.system(), *turns))
        case Format.PROMPT_COMPLETION:
            return _completion(at)
        case Format.PREFERENCE:
            return _preference(at)
        case Format.MESSAGES:
            return Conversation(_in_order(at.turns("messages"), at.where("messages")), at.tools())
        case Format.SHAREGPT:
            return Conversation(
                _in_order((*at.system(), *at.turns("conversations")), at.where("conversations")), at.tools()
            )


def as_turns(example: Conversation | Completion) -> tuple[Message, ...]:
    """The turns of a conversation; or a prompt as what the user says, and its completion as the answer."""
    if isinstance(example, Conversation):
        return example.messages
    asked, said = example.prompt, example.completion
    return (
        *((Message("system", example.system),) if example.system else ()),
        *((Message("user", asked),) if isinstance(asked, str) else asked),
        *((Message("assistant", said),) if isinstance(said, str) else said),
    )


def _completion(at: _Row) -> Example:
    if not at.is_list("prompt") and not at.is_list("completion"):
        return Completion(at.text("prompt"), at.learned("completion"), at.spare("system"), at.tools())
    prompt, completion = at.turns("prompt"), at.turns("completion")
    _in_order((*at.system(), *prompt, *completion), at.where("completion"))
    return Completion((*at.system(), *prompt), completion, tools=at.tools())


def _preference(at: _Row) -> Example:
    at.value("rejected")
    if at.is_list("chosen"):
        prompt = at.turns("prompt") if at.is_list("prompt") else ()
        if not prompt and (asked := at.spare("prompt")) and at.turns("chosen")[0].role == "assistant":
            prompt = (Message("user", asked),)
        return Conversation(_in_order((*prompt, *at.turns("chosen")), at.where("chosen")))
    if at.spare("prompt"):
        return Completion(at.text("prompt"), at.learned("chosen"))
    return Passage(at.learned("chosen"))


class _Row:
    """The parts of a row."""

    def __init__(self, row: Mapping[str, Any], mapping: ColumnMapping, place: str) -> None:
        self._row, self._mapping, self._place = row, mapping, place

    def where(self, part: str) -> str:
        """How an error calls a part."""
        return f"{self._place}, column {self._mapping.column(part)!r}"

    def value(self, part: str) -> Any:
        """What the column of a part holds, which is not nothing."""
        column = self._mapping.column(part)
        if column is None or column not in self._row:
            raise BadRow(f"{self._place} has no column {column!r}.", f"It has {', '.join(self._row) or 'none'}.")
        value = self._row[column]
        if value is None:
            raise BadRow(f"{self.where(part)} is null or empty.", "Fill it in, or leave the row out.", Reason.NULL)
        return value

    def text(self, part: str) -> str:
        """What has to be text."""
        value = self.value(part)
        if not isinstance(value, str):
            raise BadRow(
                f"{self.where(part)} is {kind_of(value)} and no text: {shown(value)}.",
                "Choose another column for it, or write it as text.",
            )
        return value

    def learned(self, part: str) -> str:
        """Text that the model is to learn, so there must be some."""
        text = self.text(part)
        if not text.strip():
            raise BadRow(f"{self.where(part)} is empty: there is nothing to learn.", "Leave the row out.", Reason.EMPTY)
        return text

    def spare(self, part: str) -> str:
        """Text that may be missing."""
        column = self._mapping.column(part)
        return "" if column is None or self._row.get(column) is None else self.text(part)

    def is_list(self, part: str) -> bool:
        """Whether a part is a list of turns."""
        column = self._mapping.column(part)
        return column is not None and turns_in(self._row.get(column)) is not None

    def system(self) -> tuple[Message, ...]:
        """The system prompt that has a column of its own."""
        return (Message("system", said),) if (said := self.spare("system")) else ()

    def turns(self, part: str) -> tuple[Message, ...]:
        """A list of turns, whose order has not been looked at."""
        value = self.value(part)
        turns = turns_in(value)
        if turns is None:
            raise BadRow(
                f"{self.where(part)} is {kind_of(value)} and no list of turns: {shown(value)}.",
                'Write a list such as [{"role": "user", "content": "Hello"}].',
            )
        if not turns:
            raise BadRow(f"{self.where(part)} is a conversation without turns.", "Leave the row out.", Reason.EMPTY)
        return tuple(_turn(turn, f"{self.where(part)}, turn {number}") for number, turn in enumerate(turns, start=1))

    def tools(self) -> tuple[ToolDefinition, ...]:
        """The functions that may be called, which may be written as JSON text, each or all together."""
        column = self._mapping.column("tools")
        value = self._row.get(column) if column else None
        if value is None or value == "":
            return ()
        listed = turns_in(value)
        tools = [_parsed(tool) for tool in listed] if listed is not None else [None]
        if not all(isinstance(tool, dict) for tool in tools):
            raise BadRow(
                f"{self.where('tools')} is no list of functions: {shown(value)}.",
                'Write a list such as [{"type": "function", "function": {"name": "weather"}}].',
            )
        where = self.where("tools")
        return tuple(read_tool(f"{where}, tool {number}", tool) for number, tool in enumerate(tools, start=1))


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _turn(turn: Any, place: str) -> Message:
    """One turn, with role and content, or from and value."""
    if not isinstance(turn, dict):
        raise BadRow(f"{place} is {kind_of(turn)} and no object: {shown(turn)}.", "Give it a role and a content.")
    named = next((key for key in ("role", "from") if turn.get(key) is not None), None)
    if named is None:
        raise BadRow(f"{place} does not say who speaks: {shown(turn)}.", "Give it a role.")
    said = str(turn[named])
    if said in _ANSWERS:
        named, asked = str(turn.get("name") or ""), str(turn.get("tool_call_id") or "")
        return Message("tool", _content(turn, place), name=named, tool_call_id=asked)
    if said in _CALLS:
        return Message("assistant", "", (read_call(place, _parsed(_content(turn, place))),))
    if calls := turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else []):
        return _turn_that_calls(turn, calls, place)
    role = ROLES.get(said.lower())
    if role is None:
        raise BadRow(
            f"{place} has the role {said!r}, which is unknown.",
            f"Use one of {', '.join(dict.fromkeys(ROLES.values()))}.",
        )
    return Message(role, _content(turn, place))


def _turn_that_calls(turn: dict[str, Any], calls: Any, place: str) -> Message:
    """An assistant that asks for tools, and may say something too."""
    listed = turns_in(calls)
    if listed is None:
        raise BadRow(f"{place}: tool_calls is {kind_of(calls)} and no list: {shown(calls)}.", "Write a list.")
    said = "" if turn.get("content") is None else _content(turn, place)
    read = (read_call(f"{place}, call {number}", _parsed(call)) for number, call in enumerate(listed, start=1))
    return Message("assistant", said, tuple(read))


def _content(turn: dict[str, Any], place: str) -> str:
    key = next((key for key in ("content", "value") if key in turn), "content")
    value = turn.get(key)
    if value is None:
        raise BadRow(f"{place}: {key} is null.", "Fill it in, or leave the row out.", Reason.NULL)
    pieces = value if isinstance(value, list) else [value]
    texts = [piece.get("text") if isinstance(piece, dict) else piece for piece in pieces]
    for piece, text in zip(pieces, texts, strict=True):
        if not isinstance(text, str):
            kind = str(piece.get("type", "an object")) if isinstance(piece, dict) else kind_of(piece)
            raise BadRow(
                f"{place}: {key} holds {kind}, and the studio reads text alone: {shown(piece)}.",
                "Leave the row out, or write what it says as text.",
            )
    return "".join(text for text in texts if isinstance(text, str))


_FOLLOWS: dict[str, tuple[Role, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}
"""Who may speak after whom; an assistant that asks for a tool is a call."""


def _in_order(messages: tuple[Message, ...], place: str) -> tuple[Message, ...]:
    """The same, if user and assistant take turns, a call is answered, and a system prompt comes before all."""
    last = ""
    for number, message in enumerate(messages, start=1):
        if message.role not in _FOLLOWS[last]:
            raise BadRow(
                f"{place}, turn {number} is of the {message.role} "
                + (f"and follows {'a' if last == 'call' else 'one of the'} {last}." if last else "and comes first."),
                f"Here has to speak: {' or '.join(_FOLLOWS[last])}.",
                Reason.ORDER,
            )
        if message.role == "assistant" and not message.content.strip() and not message.tool_calls:
            raise BadRow(
                f"{place}, turn {number} is empty: there is nothing to learn.", "Leave the row out.", Reason.EMPTY
            )
        last = "call" if message.tool_calls else message.role
    return messages
