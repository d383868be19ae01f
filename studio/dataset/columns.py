"""The columns of rows that came without types: which there are and of what kind, and rows as a batch of Arrow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from studio.dataset.parsing import Row
from studio.errors import InputError

if TYPE_CHECKING:
    import pyarrow


class Columns:
    """What was seen so far. A column of one kind of value has its type; lists, objects and mixtures are kept as JSON.

    Arrow's own lists and objects would give every tool call the arguments of all the others, as nulls.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, set[str]] = {}

    def look(self, rows: Iterable[Row]) -> bool:
        """Take these into account. Whether that changed the type of a column, or added one."""
        before = self._types()
        for row in rows:
            for column, value in row.items():
                kinds = self._kinds.setdefault(column, set())
                if value is not None:
                    kinds.add(_kind(value))
        return self._types() != before

    def record_batch(self, rows: list[Row], place: Callable[[int], str]) -> pyarrow.RecordBatch:
        """The rows with all columns; what a row does not have is null. `place` says where the row of an index is."""
        import pyarrow
        from datasets import Features

        schema = Features({column: _feature(kind) for column, kind in self._types().items()}).arrow_schema
        types, arrays = self._types(), []
        for field in schema:
            values = [row.get(field.name) for row in rows]
            try:
                arrays.append(_array(values, field.type, types[field.name]))
            except ValueError as error:
                index = next(number for number, value in enumerate(values) if not _can_be_kept(value))
                what = "half a character" if isinstance(error, UnicodeEncodeError) else "an infinite number"
                raise InputError(
                    f"{place(index)}, column {field.name!r} holds {what}.",
                    "Write it in another way, or leave the row out.",
                ) from error
        return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)

    def _types(self) -> dict[str, str]:
        return {column: _common(kinds) for column, kinds in self._kinds.items()}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64"
    return "string" if isinstance(value, str) else "float64" if isinstance(value, float) else "json"


def _common(kinds: set[str]) -> str:
    if len(kinds) <= 1:
        return next(iter(kinds), "string")
    return "float64" if kinds == {"int64", "float64"} else "json"


def _feature(kind: str) -> Any:
    from datasets import Json, Value

    return Json() if kind == "json" else Value(kind)


def _can_be_kept(value: Any) -> bool:
    try:
        _as_json(value).encode()
    except ValueError:
        return False
    return True


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _array(values: list[Any], type_: Any, kind: str) -> Any:
    import pyarrow

    if kind != "json":
        return pyarrow.array(values, type_)
    texts = [None if value is None else _as_json(value) for value in values]
    return pyarrow.ExtensionArray.from_storage(type_, pyarrow.array(texts, pyarrow.string()))
