"""Rows into examples to learn from, by the names in a run; one of them to look at; and rows that a person pasted."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from studio import advice, dataset, hub, training
from studio.dataset import ColumnMapping, Preparation, Prepared, Preview, Recognition, Rows
from studio.dataset.formats import OPTIONAL, REQUIRED
from studio.errors import InputError, StudioError
from studio.events import Finished, Phase, Progress, outcome
from studio.heartbeat import heartbeat, patiently
from studio.jobs.opening import Opened, open_tokenizer
from studio.jobs.rows import Upload, look_at_dataset, read_rows
from studio.models import DatasetRef, ModelRef
from studio.settings import Settings
from studio.tokenizer import EndOfTurn, end_of_turn, generation_ends
from studio.tokenizer.pieces import check_text
from studio.training import DataSource, TrainingRun


@dataclass(frozen=True, slots=True)
class Previewed:
    """One row as it will be learnt, and what is known of the rows around it."""

    data: str
    model: str
    rows: int
    """How many there are; those that were read where there is a limit."""
    columns: tuple[str, ...]
    recognition: Recognition
    row: int
    """Counted from 1."""
    preview: Preview
    advice: tuple[advice.Advice, ...]


def prepare(
    run: TrainingRun, folder: Path, *, token: hub.Token
) -> Generator[Progress | Finished[Prepared], None, None]:
    """Make the examples of a run, into `examples` of its folder. The last event is `Finished(Prepared)`.

    A source is a file in `folder/data` where one is called so, else a dataset by its name. Done before, it takes no
    more than reading names and files again. Raises what the parts raise; errors in rows name file, row and column.
    """
    tokenizer = (yield from open_tokenizer(run.plan.model, token=token)).tokenizer
    if run.settings.new_tokens:
        tokenizer = copy.deepcopy(tokenizer)  # the one that is open is everybody's
        training.add_tokens(tokenizer, run.settings)
    sources = []
    for source in run.data:
        rows, recognition = yield from _rows(source, folder, run.preparation.most_rows, token)
        sources.append((rows, recognition.mapping, source.weight))
    held_out = None
    if run.held_out:
        rows, recognition = yield from _rows(run.held_out, folder, 0, token)
        held_out = (rows, recognition.mapping)
    yield from dataset.prepare(sources, tokenizer, run.preparation, held_out=held_out, folder=folder / "examples")


def preview(
    source: DatasetRef | Upload,
    model: ModelRef,
    preparation: Preparation,
    *,
    row: int = 1,
    mapping: ColumnMapping | None = None,
    token: hub.Token,
) -> Generator[Progress | Finished[Previewed], None, None]:
    """Show a row, counted from 1, as it would be learnt. The last event is `Finished(Previewed)`.

    Without a mapping the columns are recognised.
    """
    opened = yield from open_tokenizer(model, token=token)
    rows, recognition = yield from _read(source, mapping, preparation.most_rows, token)
    work = partial(dataset.preview, rows, row - 1, opened.tokenizer, recognition.mapping, preparation)
    shown = yield from patiently(lambda _stop: work(), Progress(Phase.RENDER))
    yield Finished(
        Previewed(
            data=rows.name,
            model=str(model),
            rows=rows.count,
            columns=rows.columns,
            recognition=recognition,
            row=row,
            preview=shown,
            advice=tuple(advice.on_row(shown, _end(opened))),
        )
    )


def rows_of(
    source: DataSource, *, most_rows: int = 0, token: hub.Token
) -> Generator[Progress | Finished[tuple[Rows, Recognition]], None, None]:
    """The rows of a dataset that a run names, and what they mean. The last event is `Finished`. Raises as `prepare`."""
    yield Finished((yield from _read(DatasetRef.parse(source.name), source.mapping, most_rows, token)))


def pasted(text: str) -> Upload:
    """A file in the workspace with what a person pasted: JSON Lines, JSON, a table with a header, or plain text.

    Of several lines those are a table whose first one names a known column, such as prompt or text. Raises InputError
    where there is nothing, or more than 10 MB.
    """
    if not text.strip():
        raise InputError("Nothing was pasted.", "Paste rows: JSON Lines, a table with a header, or plain text.")
    check_text(text)
    content = text.encode()
    ending = {"{": "jsonl", "[": "json"}.get(text.lstrip()[0]) or ("csv" if _is_table(text) else "txt")
    folder = Settings.from_env().workspace / "pasted" / hashlib.sha256(content).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"pasted.{ending}"
    if not file.is_file():  # untouched where it is there, so that its rows are found as they were read
        file.write_bytes(content)
    return Upload(file)


def _is_table(text: str) -> bool:
    header, *others = [line for line in text.splitlines() if line.strip()]
    delimiter = dataset.delimiter_of(header)
    names = {cell.strip().strip('"').lower() for cell in header.split(delimiter)}
    return bool(others) and len(names) > 1 and bool(names & _PARTS)


_PARTS = {
    *(part for parts in (*REQUIRED.values(), *OPTIONAL.values()) for part in parts),
    *("question", "answer", "response", "query", "problem", "solution", "target", "content", "context"),
}


def _rows(
    source: DataSource, folder: Path, most: int, token: hub.Token
) -> Generator[Progress, None, tuple[Rows, Recognition]]:
    """The rows that a run names, and what they mean."""
    own = folder / "data" / source.name
    is_name = source.name == Path(source.name).name  # and no way out of the folder
    name = Upload(own) if is_name and own.is_file() else DatasetRef.parse(source.name)
    return (yield from _read(name, source.mapping, most, token))


def _read(
    name: DatasetRef | Upload, mapping: ColumnMapping | None, most: int, token: hub.Token
) -> Generator[Progress, None, tuple[Rows, Recognition]]:
    offer = yield from outcome(look_at_dataset(name, token=token))
    rows = yield from outcome(read_rows(offer, most_rows=most, token=token))
    if mapping is not None:
        return rows, Recognition(mapping, 1.0, "As you chose")
    work = partial(dataset.recognise, rows)
    looking = Progress(Phase.READ_ROWS)
    return rows, (yield from heartbeat(lambda _say, _stop: work(), lambda _: [looking], every=0.2))


def _end(opened: Opened) -> EndOfTurn | None:
    try:
        return end_of_turn(opened.tokenizer, generation_ends(opened.folder))
    except StudioError:
        return None  # no template, or one whose end cannot be told: the mask is shown all the same
