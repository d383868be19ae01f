"""What people and models say to each other: turns, calls of tools, and the tools that there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from studio.errors import InputError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)
_PARAMETERS = {"type": "object", "properties": {}}
_TOOLS_HINT = (
    'Write a list of functions: [{"type": "function", "function": {"name": …, "description": …, "parameters": '
    '{"type": "object", "properties": {…}}}}].'
)
_CALL_HINT = 'Write {"name": "get_weather", "arguments": {"city": "Paris"}}.'
_MESSAGES_HINT = 'Write a list of turns, each like {"role": "user", "content": "Hello"}.'


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant asks for. `arguments` is what JSON can hold."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant alone."""
    name: str = ""
    """Of a tool: which one answers."""
    tool_call_id: str = ""
    """Of a tool: the call that it answers."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"There is no role {self.role!r}.", f"Use one of {', '.join(ROLES)}.")
        if not isinstance(self.content, str):
            raise InputError(f"The content of a turn of the {self.role} is {_kind(self.content)}.", _CONTENT_HINT)
        if self.tool_calls and self.role != "assistant":
            raise InputError(f"A turn of the {self.role} calls tools.", "Only an assistant can call tools.")


_CONTENT_HINT = "The studio reads conversations of text alone: put the words in one string, and leave pictures out."


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A function that the model may call: {"type": "function", "function": {"name": …, "parameters": …}}."""

    schema: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.schema["function"]["name"])

    @property
    def description(self) -> str:
        return str(self.schema["function"].get("description", ""))


def as_variables(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The turns as a chat template finds them; what a turn does not have is not there."""
    return [_as_dict(message) for message in messages]


def _as_dict(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [_call_as_dict(call) for call in message.tool_calls]
    return turn | {key: value for key in ("name", "tool_call_id") if (value := getattr(message, key))}


def _call_as_dict(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {**({"id": call.id} if call.id else {}), "type": "function", "function": function}


def read_messages(turns: Any) -> tuple[Message, ...]:
    """A conversation from what JSON holds. Raises InputError, which names the turn, for anything that is none."""
    if not isinstance(turns, list) or not turns:
        raise InputError(f"A conversation is a list of turns, and this is {_kind(turns)}.", _MESSAGES_HINT)
    return tuple(_message(f"Turn {number}", turn) for number, turn in enumerate(turns, start=1))


def _message(place: str, turn: Any) -> Message:
    if not isinstance(turn, dict) or "role" not in turn:
        raise InputError(f"{place} is {_kind(turn)} without a role.", _MESSAGES_HINT)
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise InputError(f"{place}: tool_calls is {_kind(calls)} and no list.", _MESSAGES_HINT)
    content: Any = turn.get("content")
    if content is None and calls:
        content = ""
    read = tuple(read_call(f"{place}, call {number}", call) for number, call in enumerate(calls, start=1))
    try:
        return Message(turn["role"], content, read, str(turn.get("name") or ""), str(turn.get("tool_call_id") or ""))
    except InputError as error:
        raise InputError(f"{place}: {error.message}", error.hint) from error


def read_call(place: str, call: Any) -> ToolCall:
    """A call from what JSON holds, with or without "function" around it. Raises InputError, which names the place."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(f"{place} names no function.", _CALL_HINT)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):  # as OpenAI writes them
        arguments = _parsed(f"{place}, arguments", arguments, "Write the arguments as an object.")
    if not isinstance(arguments, dict):
        raise InputError(f"{place}: the arguments are {_kind(arguments)}.", "Write the arguments as an object.")
    return ToolCall(function["name"], arguments, str(call.get("id") or ""))


def read_tools(text: str) -> tuple[ToolDefinition, ...]:
    """Tools from JSON text: one or a list, each with or without {"type": "function"} around it; none of empty text.

    Raises InputError, which names the place, where the text is no JSON or describes no function.
    """
    if not text.strip():
        return ()
    content = _parsed("The tools", text, _TOOLS_HINT)
    tools = content if isinstance(content, list) else [content]
    read = tuple(read_tool(f"Tool {number}", tool) for number, tool in enumerate(tools, start=1))
    names = [tool.name for tool in read]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"Two tools are called {twice!r}.", "Give each tool a name of its own.")
    return read


def read_tool(place: str, tool: Any) -> ToolDefinition:
    """A tool from what JSON holds, with or without "function" around it. Raises InputError, which names the place."""
    if not isinstance(tool, dict):
        raise InputError(f"{place} is {_kind(tool)} and no object.", _TOOLS_HINT)
    function = tool.get("function", tool)
    if not isinstance(function, dict):
        raise InputError(f"{place}: function is {_kind(function)} and no object.", _TOOLS_HINT)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{place} has no name.", _TOOLS_HINT)
    place = f"{place} ({name})"
    if not isinstance(function.get("description", ""), str):
        raise InputError(f"{place}: description is {_kind(function['description'])} and no text.", _TOOLS_HINT)
    _check_schema(f"{place}: parameters", function.get("parameters", _PARAMETERS))
    return ToolDefinition({**tool, "type": "function"} if "function" in tool else _wrapped(tool))


def _wrapped(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


def _check_schema(place: str, schema: Any) -> None:
    """Raise where a JSON schema of an object is none; deeper than the properties it is the model's concern."""
    if not isinstance(schema, dict):
        raise InputError(f"{place} is {_kind(schema)} and no object.", _TOOLS_HINT)
    if schema.get("type", "object") != "object":
        raise InputError(f"{place}.type is {schema['type']!r}.", 'The parameters of a function have the type "object".')
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict):
        raise InputError(f"{place}.properties is {_kind(properties)} and no object.", _TOOLS_HINT)
    for name, described in properties.items():
        if not isinstance(described, dict):
            raise InputError(
                f"{place}.properties.{name} is {_kind(described)} and no object.",
                f'Write "{name}": {{"type": "string", "description": …}}.',
            )
    if not isinstance(required, list) or any(name not in properties for name in required):
        raise InputError(
            f"{place}.required names what is no property: {json.dumps(required)}.",
            "List names of properties there.",
        )


def _parsed(place: str, text: str, hint: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{place}: this is no JSON, {error.msg} in {where}.", hint) from error
    except RecursionError as error:
        raise InputError(f"{place}: nested too deeply.", hint) from error


def _kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, list):
        kinds = sorted({str(part.get("type")) for part in value if isinstance(part, Mapping) and part.get("type")})
        return f"a list of parts ({', '.join(kinds)})" if kinds else "a list" if value else "an empty list"
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number", dict: "an object"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
