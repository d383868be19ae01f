"""What the tests of datasets do again and again: write rows to a file, read them, go through events to the result."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from studio import dataset
from studio.events import Finished


def result(events: Iterable[Any]) -> Any:
    """What the events end with."""
    *_, last = events
    assert isinstance(last, Finished)
    return last.result


def read(folder: Path, name: str, content: str | bytes) -> dataset.Rows:
    """The rows of a file with this content."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return result(dataset.read(file, cache=folder / "cache"))


def rows_of(folder: Path, rows: Iterable[dict[str, Any]]) -> dataset.Rows:
    """These rows, written and read."""
    return read(folder, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def all_of(rows: dataset.Rows) -> list[dict[str, Any]]:
    """Every row."""
    return [row for _, batch in rows.batches() for row in batch]
