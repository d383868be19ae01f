"""Training a tokenizer: where its texts come from, and where it goes."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio import hub, keeping
from studio.dataset import ColumnMapping, Format, Rows
from studio.dataset.formats import texts_of
from studio.errors import InputError
from studio.events import Finished, Progress
from studio.jobs.opening import open_tokenizer
from studio.models import ModelRef
from studio.settings import Settings
from studio.tokenizer import Learned, Recipe, learn, read_texts


@dataclass(frozen=True, slots=True)
class Written:
    """What is written in some columns of rows, turn by turn where a column holds conversations."""

    rows: Rows
    columns: tuple[str, ...]

    def texts(self) -> Iterator[tuple[int, str, str]]:
        """Every text in them, behind the number of its row, from 0, and its column."""
        as_text = [ColumnMapping.of(Format.TEXT, text=column) for column in self.columns]
        for start, batch in self.rows.batches(self.columns):
            for number, row in enumerate(batch, start=start):
                yield from ((number, *found) for mapping in as_text for found in texts_of(row, mapping))


def learn_tokenizer(
    source: Sequence[Path] | Written, recipe: Recipe, name: str, *, against: ModelRef, token: hub.Token
) -> Generator[Progress | Finished[Learned], None, None]:
    """Train a tokenizer on text files, or on what rows hold, into the folder `tokenizers/<name>` of the workspace.

    It is compared with that of the model `against`. The last event is `Finished(Learned)`. Raises InputError for
    visitors of a shared machine, for a name that is none or taken, and where there is no text.
    """
    settings = Settings.from_env()
    if settings.shared:
        raise InputError("Visitors cannot train tokenizers here.", "Duplicate the Space, or run the studio yourself.")
    folder = keeping.place(settings.workspace, name, "tokenizer")
    current = yield from open_tokenizer(against, token=token)
    texts = (text for _, _, text in source.texts()) if isinstance(source, Written) else read_texts(source)
    yield from learn(texts, recipe, folder, against=current.folder)
