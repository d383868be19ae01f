"""Examples into an Arrow file, a batch at a time, so that there may be more of them than fit into memory."""

from __future__ import annotations

import os
import threading
from array import array
from pathlib import Path
from typing import Any, Self

from studio.dataset.examples import Learnable
from studio.dataset.preparation import Examples

_BATCH_ROWS = 1000
_BATCH_TOKENS = 250_000  # some 10 MB as numbers of Python


def beside_of(target: Path) -> Path:
    """Where a file is written before it is put in its place; two that write the same one do not meet."""
    return target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.part")


class ExampleWriter:
    """Writes beside the file, which is there once `finish` was called; what is not finished is deleted."""

    def __init__(self, target: Path) -> None:
        import pyarrow

        self._target = target
        self._beside = beside_of(target)
        columns: dict[str, Any] = {
            "input_ids": pyarrow.list_(pyarrow.int32()),
            "trained": pyarrow.list_(pyarrow.bool_()),
            "length": pyarrow.int32(),
            "row": pyarrow.int32(),
        }
        self._schema = pyarrow.schema(list(columns.items()))
        self.lengths = array("i")
        self._tokens = self._trained = 0
        self._held: list[tuple[tuple[int, ...], tuple[bool, ...], int, int]] = []
        self._held_tokens = 0

    def __enter__(self) -> Self:
        import pyarrow

        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._file = pyarrow.OSFile(str(self._beside), "wb")
        self._stream = pyarrow.ipc.new_stream(self._file, self._schema)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._beside.unlink(missing_ok=True)

    def add(self, learnable: Learnable, row: int, times: int) -> None:
        """Append what is kept of a row, so many times."""
        ids, trained = learnable.masked.ids[: learnable.kept], learnable.masked.trained[: learnable.kept]
        for _ in range(times):
            self._held.append((ids, trained, len(ids), row))
            self.lengths.append(len(ids))
            self._tokens += len(ids)
            self._trained += sum(trained)
            self._held_tokens += len(ids)
            if len(self._held) >= _BATCH_ROWS or self._held_tokens >= _BATCH_TOKENS:
                self._flush()

    def finish(self, *, as_: Path | None = None) -> Examples | None:
        """Put the file in its place, or in that of another one; None, and no file, where it is empty."""
        self._flush()
        self._stream.close()
        self._file.close()
        if not self.lengths:
            return None
        target = as_ or self._target
        self._beside.replace(target)
        return Examples(target, len(self.lengths), self._tokens, self._trained, max(self.lengths))

    def _flush(self) -> None:
        import pyarrow

        if self._held:
            columns = zip(*self._held, strict=True)
            arrays = [pyarrow.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
            self._stream.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._held, self._held_tokens = [], 0
