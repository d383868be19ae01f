"""The rows of a dataset as a value: where they are on the disk, which columns they have and where they came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.dataset.sniffing import FileFormat
from studio.dataset.sweeping import note_use

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """What one file contributed."""

    file: str
    format: FileFormat
    rows: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in an Arrow file that is mapped into memory, never read into it. Picklable; `open` costs milliseconds."""

    name: str
    file: Path
    columns: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(part.rows for part in self.parts)

    def open(self) -> Dataset:
        """The rows as the datasets library has them."""
        from datasets import Dataset

        note_use(self.file)
        return Dataset.from_file(str(self.file))

    def place(self, index: int) -> str:
        """How a person finds a row: by its file and its number in there, counted from one."""
        before = 0
        for part in self.parts:
            if index < before + part.rows:
                return f"{part.file}, row {index - before + 1}"
            before += part.rows
        return f"row {index + 1}"

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """All rows in order, of some columns or of all: the index of the first of a batch, and the batch.

        A batch has a few MB, as it was written, so that long rows do not add up.
        """
        data = self.open()
        if columns is not None:
            data = data.select_columns(list(columns))
        start = 0
        for chunk in data.data.column(0).chunks:
            for begin in range(start, start + len(chunk), _BATCH_ROWS):
                end = min(begin + _BATCH_ROWS, start + len(chunk))
                note_use(self.file)
                held = data[begin:end]
                yield begin, [dict(zip(held, values, strict=True)) for values in zip(*held.values(), strict=True)]
            start += len(chunk)
