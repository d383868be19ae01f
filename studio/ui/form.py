"""A settings class as widgets: label, bounds, default and help come from its fields, so nothing is declared twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, TypeVar

import gradio as gr

from studio.errors import InputError

Settings = TypeVar("Settings")

_MOST_STOPS = 300_000
"""Of a slider. One with more has none for most values on any screen; the box beside it serves the others."""


def widgets(
    settings: type, *, only: Collection[str] | None = None, but: Collection[str] = (), prefix: str = "setting"
) -> dict[str, gr.components.Component]:
    """Field name → widget, in the order of the fields, all, `only` some or all `but` some; inside their layout."""
    fields = [field for field in dataclasses.fields(settings) if field.name not in but]
    return {field.name: _widget(field, prefix) for field in fields if only is None or field.name in only}


def read(settings: type[Settings], values: dict[str, Any]) -> Settings:
    """What the widgets hold as an instance. Raises InputError, naming the field, for a value that is none."""
    fields = dataclasses.fields(settings)  # type: ignore[arg-type]
    return settings(**{field.name: _value(field, values[field.name]) for field in fields})


def _widget(field: dataclasses.Field[Any], prefix: str) -> gr.components.Component:
    facts = field.metadata
    common: dict[str, Any] = {
        "label": _label(field),
        "info": facts["help"],
        "value": field.default,
        "elem_id": f"{prefix}-{field.name.replace('_', '-')}",
    }
    if isinstance(field.default, bool):
        return gr.Checkbox(**common)
    if "choices" in facts:
        return gr.Dropdown(list(facts["choices"]), **common)
    if isinstance(field.default, str):
        lines = facts.get("lines", 1)
        return gr.Textbox(**common, lines=lines, max_lines=2 * lines if lines > 1 else 1)
    if field.default is None:
        # Not gr.Number: that one shows, and sends, 0 for "not set".
        return gr.Textbox(**common, max_lines=1, placeholder="not set")
    if _is_wide(field):
        # Bounds are the field's concern: Gradio would show its own dialog, which does not name the field.
        return gr.Number(**common, precision=0 if isinstance(field.default, int) else None)
    return gr.Slider(**common, minimum=facts["min"], maximum=facts["max"], step=facts.get("step", 1))


def _is_wide(field: dataclasses.Field[Any]) -> bool:
    """Whether no hand can set the number on a slider: there is no step to go by, or there are far too many."""
    facts = field.metadata
    if isinstance(field.default, float):
        return "step" not in facts
    return bool(facts["max"] - facts["min"] > _MOST_STOPS)


def _value(field: dataclasses.Field[Any], value: Any) -> Any:
    if field.default is not None or value is None:
        return float(value) if isinstance(field.default, float) and type(value) is int else value
    text = str(value).strip()
    try:
        return int(text) if text else None
    except ValueError as error:
        message = f"{_label(field)} is {text!r}, which is not a whole number."
        raise InputError(message, "Write digits, or leave it empty.") from error


def _label(field: dataclasses.Field[Any]) -> str:
    return field.name.replace("_", " ").capitalize()
