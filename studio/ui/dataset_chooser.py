"""Where rows come from and which column is what, as widgets: a set that is shipped, a file, pasted rows, or the Hub."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio import jobs
from studio.dataset import OPTIONAL, REQUIRED, ColumnMapping, Format, Rows
from studio.errors import InputError
from studio.jobs import Offer, Upload
from studio.models import BUNDLED, DatasetRef
from studio.ui import data_view
from studio.ui.handlers import CHANGING, Update, answering, hub_token, told

STARTER_SET, FILE, PASTED, HUB = "A starter set", "A file of yours", "Pasted rows", "The Hub"
RECOGNISED = "recognise it"
NO_COLUMN = "none"
COLUMNS = 4
"""As many parts as a format has at most."""
_EXAMPLE = '{"prompt": "Where is the harbour?", "completion": "Two streets down, behind the market."}'


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at, and what was found there."""

    source: DatasetRef | Upload
    offer: Offer


@dataclass(frozen=True, slots=True)
class Chooser:
    """The widgets as they were drawn."""

    named: dict[str, Any]
    """What `source_of` takes."""
    shown: dict[str, Any]
    """What `look` changes, without `named`."""
    find: gr.Button

    @property
    def asks(self) -> list[Any]:
        """Every event after which there may be something else to look at."""
        named = self.named
        changes = [named["where"].input, named["bundled"].input, named["file"].upload, named["file"].clear]
        return [*changes, named["pasted"].blur, self.find.click, named["name"].submit]


def draw_chooser(prefix: str) -> Chooser:
    """Draw it; the ids of its elements begin with the prefix."""
    where = gr.Radio([STARTER_SET, FILE, PASTED, HUB], value=STARTER_SET, label="Rows from", elem_id=f"{prefix}-where")
    sets = [("persona: talk like a pirate", BUNDLED[0]), ("orders: a sentence into JSON", BUNDLED[1])]
    bundled = gr.Dropdown(sets, value=BUNDLED[0], label="Starter set", elem_id=f"{prefix}-bundled")
    file = gr.File(label="JSON Lines, JSON, CSV, Parquet or text", visible=False, height=140, elem_id=f"{prefix}-file")
    pasted = gr.Textbox(
        label="Rows as JSON Lines, JSON, CSV or text",
        placeholder=_EXAMPLE,
        lines=5,
        max_lines=12,
        visible=False,
        elem_id=f"{prefix}-pasted",
    )
    with gr.Row(visible=False, elem_id=f"{prefix}-hub", elem_classes="hub-name") as row:
        name = gr.Textbox(
            label="Name on the Hub",
            placeholder="owner/name, its address, or owner/name:config:split",
            max_lines=1,
            scale=4,
            min_width=200,
            elem_id=f"{prefix}-name",
        )
        find = gr.Button("Look", min_width=90, scale=0, elem_id=f"{prefix}-look")
    with gr.Row(elem_id=f"{prefix}-part"):
        config = gr.Dropdown([], label="Config", visible=False, **CHANGING, min_width=160, elem_id=f"{prefix}-config")
        split = gr.Dropdown([], label="Split", visible=False, **CHANGING, min_width=160, elem_id=f"{prefix}-split")
    there = gr.HTML("", elem_id=f"{prefix}-there", elem_classes="note-line")
    named = {"where": where, "bundled": bundled, "file": file, "pasted": pasted, "name": name}
    shown = {"hub": row, "config": config, "split": split, "there": there, "looked": gr.State(None)}
    return Chooser(named, shown, find)


def draw_mapping(prefix: str) -> dict[str, Any]:
    """The format of the rows, and a drop-down for each of its parts."""
    format_ = gr.Dropdown(
        [RECOGNISED, *Format],
        value=RECOGNISED,
        label="Format of the rows",
        info="What a row is meant as; choose it where it is not recognised",
        elem_id=f"{prefix}-format",
    )
    with gr.Row(elem_id=f"{prefix}-columns"):
        columns = {
            f"column_{number}": gr.Dropdown(
                [], visible=False, **CHANGING, min_width=160, elem_id=f"{prefix}-column-{number}"
            )
            for number in range(COLUMNS)
        }
    return {"format_": format_, **columns}


# Looking


def source_of(
    *, where: str, bundled: str, file: str | None, pasted: str | None, name: str | None
) -> DatasetRef | Upload:
    """What the widgets name. Raises InputError where that is nothing."""
    if where == STARTER_SET:
        return DatasetRef.parse(bundled)
    if where == HUB:
        return DatasetRef.parse(name or "")
    if where == PASTED:
        return jobs.pasted(pasted or "")
    if not file:
        raise InputError("No file is chosen.", "Drop one into the field above, or click there.")
    return Upload(Path(file))


def is_named(*, where: str, file: str | None, pasted: str | None, name: str | None, **_: Any) -> bool:
    """Whether there is anything to look at yet."""
    said = {FILE: file, PASTED: pasted, HUB: name}
    return where == STARTER_SET or bool((said[where] or "").strip())


def is_on_the_hub(source: DatasetRef | Upload) -> bool:
    """Whether its rows have to be downloaded."""
    return isinstance(source, DatasetRef) and source.where == "hub"


def offered(*, looked: Looked | None, **named: Any) -> Generator[Update, None, Offer]:
    """What there is to choose from in what the widgets name, looked at where that was not done yet."""
    source = source_of(**named)
    if looked and looked.source == source:
        return looked.offer
    offer: Offer = yield from told(jobs.look_at_dataset(source, token=hub_token()))
    return offer


def chosen_rows(*, split: str | None, looked: Looked | None, **named: Any) -> Generator[Update, None, Rows]:
    """The rows that the widgets name, downloaded and read where that was not done yet."""
    offer = yield from offered(looked=looked, **named)
    known = looked is not None and looked.offer is offer
    rows: Rows = yield from told(jobs.read_rows(offer, split if known else None, token=hub_token()))
    return rows


def look(*, looked: Looked | None, **named: Any) -> Iterator[Update]:
    """Show the fields of where the rows come from, and the configs and splits there, once something is named."""
    where = named["where"]
    yield {
        **nothing_looked_at(),
        "bundled": gr.update(visible=where == STARTER_SET),
        "file": gr.update(visible=where == FILE),
        "pasted": gr.update(visible=where == PASTED),
        "hub": gr.update(visible=where == HUB),
    }
    if is_named(**named):
        yield from _look(looked=looked, **named)


@answering
def _look(*, config: str | None = None, looked: Looked | None, **named: Any) -> Iterator[Update]:
    source = source_of(**named)
    if config:
        offer: Offer = yield from told(jobs.look_at_dataset(source, config=config, token=hub_token()))
    else:
        offer = yield from offered(looked=looked, **named)
    yield {**choices(source, offer), "note": ""}


def look_at_config(*, config: str, looked: Looked | None, **named: Any) -> Iterator[Update]:
    """Offer the splits of another config."""
    yield nothing_looked_at() | {"looked": looked}
    yield from _look(config=config, looked=looked, **named)


def nothing_looked_at() -> Update:
    """The widgets, those of the mapping too, of a dataset that was not looked at."""
    return {
        "looked": None,
        "rows": None,
        "note": "",
        "there": "",
        "config": gr.update(choices=[], value=None, visible=False),
        "split": gr.update(choices=[], value=None, visible=False),
        "format_": RECOGNISED,
        **{f"column_{number}": gr.update(visible=False) for number in range(COLUMNS)},
    }


def choices(source: DatasetRef | Upload, offer: Offer) -> Update:
    """The configs and splits as drop-downs, where there are several."""
    layout = offer.layout
    names = [split.name for split in layout.splits]
    wished = None if isinstance(source, Upload) else source.split
    chosen = wished or ("train" if "train" in names else names[0])
    return {
        "looked": Looked(source, offer),
        "config": gr.update(choices=list(layout.configs), value=layout.config, visible=len(layout.configs) > 1),
        "split": gr.update(choices=names, value=chosen, visible=len(names) > 1),
        "there": data_view.what_is_there(offer, layout.split(chosen)),
    }


def split_chosen(*, looked: Looked | None, split: str) -> Update:
    """Say what the split takes."""
    return {"there": data_view.what_is_there(looked.offer, looked.offer.layout.split(split))} if looked else {}


# Which column is what


def mapping_of(format_: str, columns: list[str | None]) -> ColumnMapping | None:
    """What was chosen by hand; None where the rows are to be recognised."""
    if format_ == RECOGNISED:
        return None
    chosen = zip(_parts(Format(format_)), columns, strict=False)
    return ColumnMapping(Format(format_), tuple((part, name) for part, name in chosen if name and name != NO_COLUMN))


def _parts(format_: Format) -> tuple[str, ...]:
    return REQUIRED[format_] + OPTIONAL[format_]


def format_chosen(*, format_: str, rows: Rows | None) -> Update:
    """Offer a column for each part of the format."""
    if format_ == RECOGNISED:
        return {f"column_{number}": gr.update(visible=False, value=None) for number in range(COLUMNS)}
    return columns_of(Format(format_), rows, None)


def columns_of(format_: Format, rows: Rows | None, mapping: ColumnMapping | None) -> Update:
    """The drop-downs of a format's parts, with what is known of them filled in."""
    parts, there = _parts(format_), list(rows.columns) if rows else []
    updates: Update = {f"column_{number}": gr.update(visible=False, value=None) for number in range(COLUMNS)}
    for number, part in enumerate(parts):
        needed = part in REQUIRED[format_]
        known = mapping.column(part) if mapping else part if part in there else None
        updates[f"column_{number}"] = gr.update(
            visible=True,
            label=part.capitalize(),
            choices=there if needed else [NO_COLUMN, *there],
            value=known or (None if needed else NO_COLUMN),
        )
    return updates
