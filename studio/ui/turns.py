"""A conversation as rows to write in: who says it, and what. Up to ten of them; those without a turn are hidden."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.tokenizer import Message, ToolDefinition, read_messages
from studio.tokenizer.conversation import ROLES
from studio.ui.handlers import Update, on

ROWS = 10
_NEXT = {"system": "user", "user": "assistant", "assistant": "user", "tool": "assistant"}
Turn = tuple[str, str]
"""Who, and what."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The widgets: `values` is what is written in them, by name, and `drawn` all that a handler may change."""

    values: dict[str, Any]
    drawn: dict[str, Any]
    count: gr.State


def turn_rows(first: Sequence[Turn]) -> Rows:
    """Draw the rows, with these turns in them, and a button to add one."""
    values: dict[str, Any] = {}
    drawn: dict[str, Any] = {}
    drops = []
    for number in range(ROWS):
        role, text = first[number] if number < len(first) else ("user", "")
        with gr.Row(visible=number < len(first), elem_classes="turn", elem_id=f"turn-{number + 1}") as row:
            values[f"role_{number}"] = gr.Dropdown(
                list(ROLES), value=role, label=f"Who says turn {number + 1}", show_label=False, container=False,
                filterable=False, scale=0, min_width=118,
            )  # fmt: skip
            values[f"text_{number}"] = gr.Textbox(
                text, label=f"Turn {number + 1}", show_label=False, container=False, lines=1, max_lines=8, scale=5,
                min_width=120,
            )  # fmt: skip
            drops.append(gr.Button("✕", size="sm", scale=0, min_width=36, elem_classes="drop-turn"))
        drawn[f"row_{number}"] = row
    count = gr.State(len(first))
    add = gr.Button("Add a turn", size="sm", min_width=110, scale=0, elem_id="add-turn")
    drawn |= values | {"count": count, "add": add}
    asked = values | {"count": count}
    on(add.click, added, inputs=asked, outputs=drawn, queue=False)
    for number, drop in enumerate(drops):
        on(drop.click, _dropping(number), inputs=asked, outputs=drawn, queue=False)
    return Rows(values, drawn, count)


def added(*, count: int, **values: Any) -> Update:
    """One more turn, of whoever is next."""
    turns = written(values, count)
    return filled([*turns, (_NEXT[turns[-1][0]] if turns else "user", "")][:ROWS])


def _dropping(number: int) -> Any:
    def dropped(*, count: int, **values: Any) -> Update:
        turns = written(values, count)
        return filled(turns[:number] + turns[number + 1 :])

    return dropped


def filled(turns: Sequence[Turn]) -> Update:
    """The rows with these turns in them."""
    update: Update = {"count": len(turns), "add": gr.update(interactive=len(turns) < ROWS)}
    for number in range(ROWS):
        shown = number < len(turns)
        update[f"row_{number}"] = gr.update(visible=shown)
        if shown:
            update[f"role_{number}"], update[f"text_{number}"] = turns[number]
    return update


def written(values: Mapping[str, Any], count: int) -> list[Turn]:
    """The turns that stand in the rows."""
    return [(values[f"role_{number}"], values[f"text_{number}"] or "") for number in range(count)]


def as_messages(turns: Sequence[Turn], tools: Sequence[ToolDefinition]) -> tuple[Message, ...]:
    """The turns as a conversation; an assistant's that is a call of one of the tools, in JSON, calls it.

    A tool answers the call before it.
    """
    names, made, call = {tool.name for tool in tools}, [], {"name": "", "id": ""}
    for number, (role, text) in enumerate(turns, start=1):
        turn: dict[str, Any] = {"role": role, "content": text}
        if role == "assistant" and (function := _called(text, names)):
            call = {"name": function["name"], "id": f"call{number:05}"}  # nine signs, as Mistral's templates demand
            turn |= {"content": "", "tool_calls": [{"id": call["id"], "function": function}]}
        elif role == "tool":
            turn |= {"name": call["name"], "tool_call_id": call["id"]}
        made.append(turn)
    return read_messages(made)


def _called(text: str, names: Collection[str]) -> dict[str, Any] | None:
    if not names or not text.lstrip().startswith("{"):
        return None
    try:
        said = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return said if isinstance(said.get("name"), str) and said["name"] in names else None
