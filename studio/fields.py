"""A setting is declared once, as a field of a frozen dataclass; here is how its declaration is read and held to.

The metadata of a field: `help` always; `min` and `max` for a number, `choices` for a word out of a few,
`lines` for a text that is longer than one.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from studio.errors import InputError

Settings = TypeVar("Settings")


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


def from_query(settings: type[Settings], text: str) -> Settings:
    """Read settings from a link's query, with or without the question mark; what is not in it is as declared.

    Raises InputError for a field that is none, and a value that is not what the field declares.
    """
    known = {field.name: field for field in fields(settings)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in parse_qsl(text.removeprefix("?"), keep_blank_values=True):
        if name not in known or name in values:
            said = "twice" if name in values else f"which is no part of a {settings.__name__.lower()}"
            raise InputError(f"The link has {name[:60]!r}, {said}.", f"It may have {', '.join(known)}.")
        values[name] = _read(name, value, known[name].default)
    return settings(**values)


def _read(name: str, text: str, default: Any) -> Any:
    """A value of a link in the type of its field. Raises InputError where it is none."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text]
        return type(default)(text) if isinstance(default, int | float) else text
    except (ValueError, KeyError) as error:
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise InputError(f"The link has {text[:60]!r} for {name}.", f"Write {kind}.") from error


def _within(value: Any, default: Any, bounds: Any) -> bool:
    kind = int | float if isinstance(default, float) else int
    return isinstance(value, kind) and not isinstance(value, bool) and bounds["min"] <= value <= bounds["max"]
