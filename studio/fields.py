"""A setting is declared once, as a field of a frozen dataclass; here is how its declaration is read and held to.

The metadata of a field: `help` always; `min` and `max` for a number, `choices` for a word out of a few,
`lines` for a text that is longer than one.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from studio.errors import InputError


def limits(settings: type) -> dict[str, dict[str, Any]]:
    """Field name → its metadata, for the fields of a settings class that are bounded."""
    return {field.name: dict(field.metadata) for field in fields(settings) if "min" in field.metadata}


def check(settings: Any) -> None:
    """Raise InputError, naming the field, where a value is not what its field declares."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value is None and field.default is None:
            continue
        label = field.name.replace("_", " ").capitalize()
        if "choices" in field.metadata and value not in field.metadata["choices"]:
            raise InputError(f"{label} is {value!r}.", f"Choose one of {', '.join(field.metadata['choices'])}.")
        if "min" in field.metadata and not _within(value, field.default, field.metadata):
            kind = "number" if isinstance(field.default, float) else "whole number"
            least, most = field.metadata["min"], field.metadata["max"]
            raise InputError(f"{label} is {value!r}.", f"Choose a {kind} from {least} to {most}.")


def _within(value: Any, default: Any, bounds: Any) -> bool:
    kind = int | float if isinstance(default, float) else int
    return isinstance(value, kind) and not isinstance(value, bool) and bounds["min"] <= value <= bounds["max"]
