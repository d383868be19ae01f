"""Rows out of Parquet files, a few MB at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import InputError

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 1000
_HINT = "Download or export the file again."


def common_schema(files: Sequence[tuple[Path, str]]) -> pyarrow.Schema:
    """The columns of files that make one dataset. Raises InputError where one is broken or differs from the first."""
    first, schema = "", None
    for file, name in files:
        found = _schema(file, name)
        if schema is None:
            first, schema = name, found
        elif not found.equals(schema):
            differs = sorted({*_described(found)} ^ {*_described(schema)})
            raise InputError(
                f"{name} and {first} do not have the same columns: {differs[0]} is in one of them alone.",
                "Choose files that belong together.",
            )
    assert schema is not None
    return schema


def batches_of(file: Path, name: str, schema: pyarrow.Schema, size: int) -> Iterator[tuple[pyarrow.RecordBatch, float]]:
    """The rows by the batch of about `size` bytes, each with the share of the file that has been read."""
    import pyarrow

    with _opened(file, name) as packed:
        facts = packed.metadata
        bytes_ = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
        rows = max(1, min(_BATCH_ROWS, size * facts.num_rows // max(1, bytes_)))
        done = 0
        try:
            for batch in packed.iter_batches(batch_size=rows, columns=schema.names, use_threads=False):
                done += batch.num_rows
                cast = pyarrow.Table.from_batches([batch]).cast(schema).combine_chunks()
                for each in cast.to_batches():
                    yield each, done / facts.num_rows
        except (OSError, pyarrow.ArrowException) as error:
            words = f"{name} is broken behind row {done}: {str(error).splitlines()[0]}"
            raise InputError(words, _HINT) from error


def _opened(file: Path, name: str) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file, memory_map=True)
    except (OSError, pyarrow.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{name} is a Parquet file that is cut or broken: {first}", _HINT) from error


def _schema(file: Path, name: str) -> pyarrow.Schema:
    """The columns as the datasets library can hold them: categories as what they stand for, no index of pandas."""
    import pyarrow
    from datasets import Features

    with _opened(file, name) as packed:
        held = packed.schema_arrow
    fields = [
        field.with_type(field.type.value_type) if pyarrow.types.is_dictionary(field.type) else field
        for field in held
        if not field.name.startswith("__index_level_")
    ]
    twice = next((field.name for field in fields if [each.name for each in fields].count(field.name) > 1), None)
    if twice is not None:
        raise InputError(f"{name} has several columns called {twice!r}.", "Give each column a name of its own.")
    kept = {key: value for key, value in (held.metadata or {}).items() if key == b"huggingface"}
    try:
        # What the library wrote says more than the types, as that a column holds JSON.
        return Features.from_arrow_schema(pyarrow.schema(fields, metadata=kept)).arrow_schema
    except (ValueError, TypeError, NotImplementedError, KeyError) as error:
        raise InputError(
            f"{name} has a column that cannot be read: {error}", "Leave the column out, or export it as text."
        ) from error


def _described(schema: pyarrow.Schema) -> list[str]:
    return [f"{field.name} ({field.type})" for field in schema]
