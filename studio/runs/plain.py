"""Frozen dataclasses as plain values for a file, and back, with errors that name the field."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from difflib import get_close_matches
from enum import Enum, StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from studio.errors import InputError
from studio.models import ModelRef

T = TypeVar("T")

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


def as_plain(value: Any) -> Any:
    """What JSON and YAML can hold of a value: a dataclass as a mapping, a model as its name."""
    if isinstance(value, ModelRef):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [as_plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: type[T], value: Any, where: str) -> T:
    """The value of a type out of what a file holds at `where`. Raises InputError that names the field."""
    return _read(kind, value, where)  # type: ignore[no-any-return]


def _read(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [each for each in get_args(kind) if each is not types.NoneType]
        return None if value is None else _read(kinds[0], value, where)
    if get_origin(kind) is tuple:
        return _read_tuple(get_args(kind), value, where)
    if get_origin(kind) is Literal:
        return _one_of(get_args(kind), value, where)
    if kind is ModelRef:
        return ModelRef.parse(_read(str, value, where))
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, where)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(_one_of([each.value for each in kind], value, where))
    return _read_word(kind, value, where)


def _read_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    if kinds[-1] is Ellipsis:
        return tuple(_read(kinds[0], each, f"{where}[{number}]") for number, each in enumerate(value))
    if len(value) != len(kinds):
        raise _wrong(where, value, f"a list of {len(kinds)}")
    return tuple(_read(kind, each, where) for kind, each in zip(kinds, value, strict=True))


def _one_of(choices: Any, value: Any, where: str) -> Any:
    if value not in choices:
        raise InputError(f"{where} is {value!r}.", f"Choose one of {', '.join(map(str, choices))}.")
    return value


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "fields with values")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            close = get_close_matches(str(name), fields, 1)
            did = f"Did you mean {close[0]}? " if close else ""
            raise InputError(f"{where} has no field {name!r}.", f"{did}There are {', '.join(fields)}.")
    for name, field in fields.items():
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where} needs the field {name!r}.", f"Write {name}: and its value.")
    types_ = _types(kind)
    return kind(
        **{name: _read(types_[name], _meant(fields[name], each), f"{where}.{name}") for name, each in value.items()}
    )


def _meant(field: dataclasses.Field[Any], value: Any) -> Any:
    """What a person wrote where YAML reads it otherwise: on and off are true and false to it."""
    if isinstance(value, bool) and "on" in field.metadata.get("choices", ()):
        return "on" if value else "off"
    return value


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read_word(kind: Any, value: Any, where: str) -> Any:
    if kind is float and not isinstance(value, bool):
        # YAML takes 2e-4, without a dot, for a text.
        try:
            return float(value)
        except (TypeError, ValueError):
            raise _wrong(where, value, _WORDS[kind]) from None
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not kind:
        raise _wrong(where, value, _WORDS.get(kind, "something else"))
    return value


def _wrong(where: str, value: Any, wanted: str) -> InputError:
    said = repr(value)
    return InputError(f"{where} is {said if len(said) <= 80 else said[:79] + '…'}.", f"Write {wanted} there.")
