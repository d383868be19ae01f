"""`preview`: one row of a dataset as a model would learn it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from studio.cli import following, lines

if TYPE_CHECKING:
    from studio.dataset import Preview
    from studio.jobs import Previewed


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that are not fields of a Preparation."""
    from studio.dataset import Format

    parser.set_defaults(run=run)
    parser.add_argument("data", help="persona, orders, a Hub id, or a file that begins with ./ or /")
    parser.add_argument("--model", required=True, help="a Hub id with an optional @revision, a folder, or starter")
    parser.add_argument("--row", type=int, default=1, help="which row, from 1 (default: 1)")
    formats = [str(format_) for format_ in Format]
    parser.add_argument("--format", choices=formats, help="what a row is; without it the columns are recognised")
    parser.add_argument(
        "--columns", default="", help="with --format: which column is what, prompt=question, completion=answer"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from studio import hub, jobs
    from studio.dataset import Preparation, mapping_of
    from studio.models import DatasetRef, ModelRef

    preparation = Preparation(
        **{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Preparation)}
    )
    work = jobs.preview(
        DatasetRef.parse(arguments.data),
        ModelRef.parse(arguments.model),
        preparation,
        row=arguments.row,
        mapping=mapping_of(arguments.format or "", arguments.columns),
        token=hub.machine_token(),
    )
    with closing(work) as events:
        found: Previewed = following.result(events)
    if arguments.json:
        # In ASCII: a row may hold what no terminal can encode.
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    for line in previewed(found):
        print(lines.safe(line))
    return 0


def previewed(found: Previewed) -> Iterator[str]:
    """A row as lines of text: what it is, a token a line, and what is to be known of it."""
    shown, meant = found.preview, found.recognition
    columns = ", ".join(f"{part}={column}" for part, column in meant.mapping.columns)
    yield f"{found.data}: {found.rows:,} rows, {meant.mapping.format} ({columns}). {meant.why}"
    yield f"{shown.place}, as {found.model} reads it" + (f" by {_WAYS[shown.way]}" if shown.way else "")
    yield from shown.text.split("\n") if shown.text else ()
    yield from lines.table("Tokens, * where trained on", _tokens(shown))
    yield ""
    yield from _facts(shown)
    for advice in found.advice:
        yield f"{advice.severity}: {advice.why}"


_WAYS = {"chat template": "its chat template", "plain text": "plain text"}


def _tokens(shown: Preview) -> Iterator[list[str]]:
    trained = frozenset(shown.trained)
    for piece in shown.pieces:
        mark = "*" if piece.index in trained else "cut off" if piece.index >= shown.kept else ""
        yield [f"{piece.index}", f"{piece.id}", repr(piece.token), mark]


def _facts(shown: Preview) -> Iterator[str]:
    if shown.reason:
        yield f"dropped: {shown.reason}"
        yield f"{shown.message} {shown.hint}"
        return
    cut = f", {shown.tokens - shown.kept:,} behind the limit" if shown.kept < shown.tokens else ""
    yield f"{shown.tokens:,} tokens, {len(shown.trained):,} of them trained on{cut}; for: {shown.side}"
    ends = {True: "is trained on", False: "is not trained on", None: "cannot be told"}[shown.ends]
    yield f"the end of the turn {ends}"
    if shown.note:
        yield shown.note
