"""What a run is told of its rows by the widgets: which ones, what they mean, and how they become examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from studio import dataset
from studio.dataset import ColumnMapping, Completion, Conversation, Example, Preparation, Recognition, Rows
from studio.dataset.mixing import check_weight
from studio.errors import InputError
from studio.jobs import Offer, Upload
from studio.models import DatasetRef
from studio.training import DataSource
from studio.ui import dataset_chooser, form
from studio.ui.dataset_chooser import Looked, mapping_of, source_of

A_SHARE = "a share of the rows"
PROMPTS = 3
"""That are taken from the rows."""
_LOOKED_FOR_PROMPTS, _LONGEST_PROMPT = 20, 200
PREPARED = "prep_"
"""Before the names of the widgets of a Preparation."""


def naming(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("where", "bundled", "file", "pasted", "name")}


def by_hand(values: dict[str, Any]) -> ColumnMapping | None:
    columns = [values[f"column_{number}"] for number in range(dataset_chooser.COLUMNS)]
    return mapping_of(values["format_"], columns)


def preparation_of(values: dict[str, Any]) -> Preparation:
    """How rows become examples, by the widgets."""
    names = {name.removeprefix(PREPARED): each for name, each in values.items() if name.startswith(PREPARED)}
    return form.read(Preparation, names)


def split_apart(values: dict[str, Any]) -> str | None:
    """The split that is measured with; None where a share of the rows is."""
    return None if values["apart"] in (None, A_SHARE) else values["apart"]


def mixed_of(values: dict[str, Any]) -> tuple[DataSource, ...]:
    """The datasets that are mixed in, each with how often its rows occur. Raises InputError."""
    found = []
    for line in (values["mixed"] or "").splitlines():
        name, _, weight = line.strip().rpartition(" ")
        if not name:
            name, weight = weight, "1"
        if not name:
            continue
        try:
            often = float(weight)
        except ValueError as error:
            raise InputError(
                f"{line.strip()!r} does not say how often its rows occur.",
                "Write a name, a space and a number: orders 0.5.",
            ) from error
        check_weight(name, often)
        found.append(DataSource(str(DatasetRef.parse(name)), weight=often))
    return tuple(found)


def sources_of(values: dict[str, Any]) -> tuple[DataSource, DataSource | None, tuple[Path, ...]]:
    """What is learnt above all, what it is measured with, and the files that were given for it. Raises InputError."""
    source, mapping, looked = source_of(**naming(values)), by_hand(values), values["looked"]
    if isinstance(source, Upload):
        return DataSource(source.file.name, mapping), None, (source.file,)
    known: Looked | None = looked if looked and looked.source == source else None
    learnt = _part(source, known.offer if known else None, values["split"])
    apart = split_apart(values)
    if known is None or apart is None:
        return DataSource(str(learnt), mapping), None, ()
    if apart == learnt.split:
        raise InputError(
            f"The split {apart} is to be learnt and to be measured with.", "Choose another one for one of the two."
        )
    return DataSource(str(learnt), mapping), DataSource(str(replace(learnt, split=apart)), mapping), ()


def _part(source: DatasetRef, offer: Offer | None, split: str | None) -> DatasetRef:
    """With the config and the split that are chosen."""
    if offer is None:
        return source
    config = offer.layout.config if len(offer.layout.configs) > 1 else source.config
    return replace(source, config=config, split=split or source.split)


def first_prompts(rows: Rows | None, recognised: Recognition | None) -> tuple[str, ...]:
    """What the first rows ask, to see on the way how it is answered; nothing for texts, which ask nothing."""
    if rows is None or recognised is None:
        return ()
    data, asked = rows.open(), []
    for index in range(min(_LOOKED_FOR_PROMPTS, rows.count)):
        try:
            example = dataset.as_conversation(data[index], recognised.mapping)
        except InputError:
            continue
        asked += [text for text in _asks(example) if len(text) <= _LONGEST_PROMPT and "\n" not in text]
    return tuple(dict.fromkeys(asked))[:PROMPTS]


def _asks(example: Example) -> list[str]:
    if isinstance(example, Conversation):
        return [turn.content for turn in example.messages[:2] if turn.role == "user"]
    return [example.prompt] if isinstance(example, Completion) and isinstance(example.prompt, str) else []
