"""Where the rows of a dataset come from: a set that is shipped, an uploaded file, or the Hub; and what they measure."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from studio import compute, dataset, hub
from studio.dataset import ColumnMapping, Layout, Lengths, Recognition, Rows, Split
from studio.errors import InputError
from studio.events import Finished, Phase, Progress, outcome
from studio.heartbeat import heartbeat
from studio.jobs.opening import open_tokenizer
from studio.models import DatasetRef, ModelRef
from studio.settings import Settings

VISITOR_LIMIT = 1_000_000_000
"""Bytes that a visitor of a shared machine may download of a dataset."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that a person gave: theirs, so that it may be read where naming files of the machine is not open."""

    file: Path


@dataclass(frozen=True, slots=True)
class Offer:
    """A dataset and what there is to choose from in it."""

    source: DatasetRef | Upload
    layout: Layout

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.source.file.name if isinstance(self.source, Upload) else self.source.name

    def to_download(self, split: Split) -> int:
        """Bytes that reading a split would fetch at most: none where the files are on this machine."""
        return split.bytes if isinstance(self.source, DatasetRef) and self.source.where == "hub" else 0


@dataclass(frozen=True, slots=True)
class Measured:
    """A dataset in the tokens of one model."""

    rows: Rows
    recognition: Recognition
    lengths: Lengths
    model: str


def look_at_dataset(
    source: DatasetRef | Upload, *, config: str | None = None, token: hub.Token
) -> Generator[Progress | Finished[Offer], None, None]:
    """Say which configs and splits there are, and what they take; nothing is downloaded. Ends with `Finished(Offer)`.

    Raises InputError for a path of a machine that visitors share, and for a config or split that is not there.
    """
    _sweep()
    config = config or (None if isinstance(source, Upload) else source.config)
    place: Path | hub.Seen[DatasetRef]
    if isinstance(source, Upload):
        place = source.file
    elif source.where == "hub":
        place = yield from outcome(hub.peek(source, token=token, shared=Settings.from_env().shared))
    else:
        place = _place_here(source)
    yield from compute.imports()
    work = partial(dataset.layout, place, config)
    found = yield from heartbeat(lambda _say, _stop: work(), lambda _: [Progress(Phase.RESOLVE)], every=0.2)
    if isinstance(source, DatasetRef) and source.split:
        found.split(source.split)
    yield Finished(Offer(source, found))


def read_rows(
    offer: Offer, split: str | None = None, *, most_rows: int = 0, token: hub.Token
) -> Generator[Progress | Finished[Rows], None, None]:
    """Read a split, downloaded first where it is on the Hub. What was read is kept in the workspace for a while.

    Of `most_rows` the first ones are read. Files of the Hub come whole: of a split of several only as many are fetched
    as it takes, and one of a single file is fetched all. Ends with `Finished(Rows)`.
    """
    settings, source = Settings.from_env(), offer.source
    wanted = split or (None if isinstance(source, Upload) else source.split)
    files = offer.layout.split(wanted).files
    cache = settings.workspace / "rows"
    yield from compute.imports()
    if isinstance(source, Upload):
        reading = dataset.read(source.file, cache=cache, most_rows=most_rows)
    elif source.where == "hub":
        reading = _fetched(source, files, cache, most_rows, token)
    else:
        folder = _place_here(source)
        only = () if folder.is_file() else files
        reading = dataset.read(folder, files=only, cache=cache, name=offer.name, most_rows=most_rows)
    rows = yield from outcome(reading)
    _sweep()
    yield Finished(rows)


def _fetched(
    ref: DatasetRef, files: Sequence[str], cache: Path, most_rows: int, token: hub.Token
) -> Generator[Progress | Finished[Rows], None, None]:
    """Rows of the Hub: with a limit one file, then two, four, until there are enough."""
    settings, taken = Settings.from_env(), 1 if most_rows else len(files)
    limit = VISITOR_LIMIT if settings.shared else None
    while True:
        only = files[:taken]
        folder = yield from outcome(hub.download(ref, token=token, shared=settings.shared, only=only, limit=limit))
        found = yield from outcome(dataset.read(folder, files=only, cache=cache, name=ref.name, most_rows=most_rows))
        if taken >= len(files) or found.count >= most_rows:
            yield Finished(found)
            return
        taken *= 2


def measure_rows(
    rows: Rows, model: ModelRef, mapping: ColumnMapping | None = None, *, token: hub.Token
) -> Generator[Progress | Finished[Measured], None, None]:
    """Count the rows in tokens of a model's tokenizer; without a mapping the columns are recognised.

    Ends with `Finished(Measured)`. Raises InputError where nothing is recognised, or no row can be read.
    """
    tokenizer = (yield from open_tokenizer(model, token=token)).tokenizer
    if mapping is None:
        work = partial(dataset.recognise, rows)
        looking = Progress(Phase.COUNT, 0, rows.count)
        recognition = yield from heartbeat(lambda _say, _stop: work(), lambda _: [looking], every=0.2)
    else:
        recognition = Recognition(mapping, 1.0, "As you chose")
    lengths = yield from outcome(dataset.measure(rows, tokenizer, recognition.mapping))
    yield Finished(Measured(rows, recognition, lengths, str(model)))


def _sweep() -> None:
    settings = Settings.from_env()
    dataset.sweep(settings.workspace / "rows", limit=settings.rows_limit, days=settings.rows_days)


def _place_here(ref: DatasetRef) -> Path:
    """The file or folder of a dataset on this machine; visitors of a shared one may name those that are shipped."""
    if ref.where == "local" and Settings.from_env().shared:
        raise InputError("Files of this machine are not open to visitors.", "Upload the file, or name one of the Hub.")
    return dataset.place_of(ref)
