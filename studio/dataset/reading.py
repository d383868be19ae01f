"""Files with rows into one Arrow file that is mapped into memory, so that a dataset may be larger than the memory.

Every row is looked at on the way: what is wrong is found here, with its file, line and value, and not later.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio.dataset.columns import Columns
from studio.dataset.parquet import batches_of, common_schema
from studio.dataset.parsing import Row, parse
from studio.dataset.rows import Part, Rows
from studio.dataset.sniffing import FileFormat, sniff
from studio.dataset.sweeping import note_use
from studio.errors import DoesNotFit, InputError, NotFound
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat

if TYPE_CHECKING:
    import pyarrow

_VERSION = 1  # of what is written; another number reads everything anew
_BEAT_SECONDS = 0.2
_BATCH_ROWS = 1000
_BATCH_BYTES = 4_000_000

Say = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _Source:
    file: Path
    name: str
    format: FileFormat
    bytes: int


class _Stopped(Exception):
    """Nobody waits for this any more."""


def read(
    place: Path, *, cache: Path, files: Sequence[str] = (), name: str = "", most_rows: int = 0
) -> Generator[Progress | Finished[Rows], None, None]:
    """The rows of a file, or of those `files` of a folder, which make one dataset. Ends with `Finished(Rows)`.

    What is read is kept in the folder `cache` and found there the next time, unless a file has changed since. Closing
    stops within 0.3 seconds. With `most_rows` reading ends after so many. Raises InputError, with file, line and value,
    for what is no row; NotFound; DoesNotFit.
    """
    paths = [place / file for file in files] if files else [place]
    shown = list(files) or [place.name]
    last = Progress(Phase.READ_ROWS)

    def tell(said: list[Progress]) -> list[Progress]:
        nonlocal last
        last = said[-1] if said else last
        return [last]

    def work(say: Say, stop: Event) -> Rows:
        with disk(name or place.name, cache):
            watch = _Watch(say, stop, most_rows)
            return _read(dict(zip(shown, paths, strict=True)), cache, name or place.name, watch)

    yield last
    yield Finished((yield from heartbeat(work, tell, every=_BEAT_SECONDS)))


@contextmanager
def disk(name: str, cache: Path) -> Iterator[None]:
    """What the disk refuses while something of `name` is kept in `cache`, in our words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DoesNotFit(
                f"The disk with {cache} filled up with the rows of {name}.",
                "Free some space there, or choose a smaller split.",
            ) from error
        raise InputError(
            f"{name} cannot be read, or its rows not be kept in {cache}: {error.strerror or error}.",
            "Check that the studio may read the one and write to the other.",
        ) from error


class _Watch:
    """Says how far the reading is, ends it when nobody waits any more, and knows when there are rows enough."""

    def __init__(self, say: Say, stop: Event, most: int) -> None:
        self._say, self._stop, self.most = say, stop, most
        self.total = self.before = 0

    def at(self, done: int) -> None:
        """So many bytes of the file that is being read."""
        if self._stop.is_set():
            raise _Stopped
        self._say(Progress(Phase.READ_ROWS, self.before + done, self.total))

    def left(self, parts: Iterable[Part], rows: int) -> int | None:
        """How many rows may follow so many parts and rows; None where there is no limit."""
        return self.most - rows - sum(part.rows for part in parts) if self.most else None


def _read(files: dict[str, Path], cache: Path, name: str, watch: _Watch) -> Rows:
    for shown, file in files.items():
        if not file.is_file():
            raise NotFound(f"There is no file {shown}.", "Check the spelling, or choose the file again.")
    target = cache / f"{_fingerprint(files, watch.most)}.arrow"
    if (kept := _kept(target, name)) is not None:
        return kept
    sources = [_Source(file, shown, sniff(file, shown), file.stat().st_size) for shown, file in files.items()]
    watch.total = sum(source.bytes for source in sources)
    packed = [source for source in sources if source.format is FileFormat.PARQUET]
    if packed and len(packed) < len(sources):
        other = next(source for source in sources if source.format is not FileFormat.PARQUET)
        raise InputError(
            f"{packed[0].name} is Parquet and {other.name} is {other.format}: they do not make one dataset.",
            "Choose files of one kind.",
        )
    cache.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        parts = (_pack if packed else _write)(sources, beside, watch)
        if not any(part.rows for part in parts):
            raise InputError(f"{name} has no rows.", "Choose a file with at least one row.")
        facts = {"parts": [asdict(part) for part in parts]}
        _sidecar(target).write_text(json.dumps(facts), encoding="utf-8")
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    found = _kept(target, name)
    assert found
    return found


def _fingerprint(files: dict[str, Path], most: int) -> str:
    """The same for the same files while nobody has changed them."""
    seen: list[Any] = [_VERSION, most] if most else [_VERSION]
    for shown, file in files.items():
        stat = file.stat()
        seen.append((shown, str(file.resolve()), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]


def _sidecar(target: Path) -> Path:
    return target.with_suffix(".json")


def _kept(target: Path, name: str) -> Rows | None:
    """What was read before; None where nothing was."""
    from datasets import Dataset

    if not target.is_file() or not _sidecar(target).is_file():
        return None
    note_use(target)
    facts = json.loads(_sidecar(target).read_text(encoding="utf-8"))
    parts = tuple(Part(each["file"], FileFormat(each["format"]), each["rows"]) for each in facts["parts"])
    try:
        columns = Dataset.from_file(str(target)).column_names
    except (ValueError, NotImplementedError, TypeError) as error:
        raise InputError(f"{name} has a column that cannot be read: {error}", "Leave the column out.") from error
    return Rows(name, target, tuple(columns), parts)


def _write(sources: list[_Source], target: Path, watch: _Watch) -> list[Part]:
    """Rows of text. The types of the columns are those of the first rows; where later ones differ, all is read again.

    That takes one pass for almost every dataset, and two for the others.
    """
    columns = Columns()
    parts = _pass(sources, target, watch, columns, known=False)
    if parts is None:
        watch.before, watch.total = watch.total, 2 * watch.total
        parts = _pass(sources, target, watch, columns, known=True)
    assert parts is not None
    return parts


def _pass(sources: list[_Source], target: Path, watch: _Watch, columns: Columns, *, known: bool) -> list[Part] | None:
    """Go through all rows and write them. None where their types were not `known` and turned out to be others."""
    before, parts = watch.before, list[Part]()
    with _Writer(target) as writer:
        for source in sources:
            rows = 0
            for batch, done in _batches(source, watch.left(parts, 0)):
                watch.at(done)
                if not known and columns.look(batch) and writer.started:
                    writer.given_up = True
                if not writer.given_up:
                    place = partial(_place, source.name, rows)
                    writer.write(columns.record_batch(batch, place))
                rows += len(batch)
            parts.append(Part(source.name, source.format, rows))
            watch.before += source.bytes
    watch.before = before
    return None if writer.given_up else parts


def _place(name: str, before: int, index: int) -> str:
    return f"{name}, row {before + index + 1}"


class _Writer:
    """An Arrow stream that is begun with its first batch."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._stream: pyarrow.ipc.RecordBatchStreamWriter | None = None
        self._file: Any = None
        self.given_up = False

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
            self._file.close()

    @property
    def started(self) -> bool:
        """Whether a batch was written."""
        return self._stream is not None

    def write(self, batch: pyarrow.RecordBatch) -> None:
        """Append a batch; all have the columns of the first."""
        import pyarrow

        if self._stream is None:
            self._file = pyarrow.OSFile(str(self._target), "wb")
            self._stream = pyarrow.ipc.new_stream(self._file, batch.schema)
        self._stream.write_batch(batch)


def _batches(source: _Source, most: int | None) -> Iterator[tuple[list[Row], int]]:
    """The rows of a file, or the first of them, by the batch, and how many bytes of it have been read."""
    batch: list[Row] = []
    begin = done = 0
    for parsed in islice(parse(source.file, source.name, source.format), most):
        batch.append(parsed.row)
        done = parsed.done
        if len(batch) == _BATCH_ROWS or done - begin > _BATCH_BYTES:
            yield batch, done
            batch, begin = [], done
    if batch:
        yield batch, done


def _pack(sources: Iterable[_Source], target: Path, watch: _Watch) -> list[Part]:
    """Rows of Parquet files, which have types of their own."""
    sources = list(sources)
    schema = common_schema([(source.file, source.name) for source in sources])
    parts: list[Part] = []
    with _Writer(target) as writer:
        for source in sources:
            rows = 0
            for batch, share in batches_of(source.file, source.name, schema, _BATCH_BYTES):
                watch.at(round(share * source.bytes))
                if (left := watch.left(parts, rows)) is not None:
                    batch = batch[:left]
                if not batch.num_rows:
                    break
                writer.write(batch)
                rows += batch.num_rows
            parts.append(Part(source.name, source.format, rows))
            watch.before += source.bytes
    return parts
