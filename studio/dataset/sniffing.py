"""What kind of rows a file holds, by what is in it; the ending of its name decides where the content leaves it open."""

from __future__ import annotations

import csv
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

from studio.errors import InputError

HEAD_BYTES = 1 << 16
_BINARY = {
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive or an office document",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"SQLite format 3": "a database",
    b"ARROW1": "an Arrow file",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
_LINES_OF_JSON = (".jsonl", ".ndjson")
_DELIMITERS = ",\t;|"
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


class FileFormat(StrEnum):
    """How the rows of a file are written."""

    JSONL = "jsonl"
    """A JSON object a line."""
    JSON = "json"
    """A list of objects, or {"data": [...]}; one object alone is one row."""
    CSV = "csv"
    """Cells with a header, between commas, semicolons or bars."""
    TSV = "tsv"
    PARQUET = "parquet"
    LINES = "lines"
    """Plain text without blank lines: each line is a row."""
    PARAGRAPHS = "paragraphs"
    """Plain text with blank lines: each paragraph is a row."""


def sniff(file: Path, name: str) -> FileFormat:
    """The format of a file. Raises InputError where it is empty, or no text and no Parquet."""
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(b"PAR1"):
        return FileFormat.PARQUET
    _refuse_binary(head, name)
    text = head.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise InputError(f"{name} is empty.", "Choose a file with at least one row.")
    ending = file.suffix.lower()
    if (found := _as_json(text, ending)) is not None:
        return found
    if ending in (".csv", ".tsv", ".tab") or (ending in (".json", ".parquet", *_LINES_OF_JSON) and _is_table(text)):
        header = next(line for line in text.splitlines() if line.strip())
        return FileFormat.TSV if delimiter_of(header) == "\t" else FileFormat.CSV
    if ending in (".json", *_LINES_OF_JSON):
        return FileFormat.JSONL  # it is none, and its first row will be named
    if ending == ".parquet":
        raise InputError(
            f"{name} is no Parquet file: it begins with {text[:30]!r}.", "Export it again, or give it the right ending."
        )
    return FileFormat.PARAGRAPHS if _BLANK_LINE.search(text.strip()) else FileFormat.LINES


def delimiter_of(header: str) -> str:
    """What stands between the cells of a header."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(_DELIMITERS, key=bare.count)


def _refuse_binary(head: bytes, name: str) -> None:
    hint = "Unpack or convert it: the studio reads JSON Lines, JSON, CSV, TSV, Parquet and text."
    for magic, kind in _BINARY.items():
        if head.startswith(magic):
            raise InputError(f"{name} is {kind}, not rows of text.", hint)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name} is written in UTF-16.", "Save it again as UTF-8.")
    if b"\0" in head:
        raise InputError(f"{name} is binary, not text: byte {head.index(0)} is zero.", hint)


def _as_json(text: str, ending: str) -> FileFormat | None:
    """Which kind of JSON it is, if it is any."""
    first, *others = [line for line in text.splitlines() if line.strip()]
    second = others[0].lstrip()[:1] if others else ""
    if first.lstrip().startswith("["):
        if ending in (*_LINES_OF_JSON, ".json"):
            return FileFormat.JSONL if second == "[" and _parsed(first) is not None else FileFormat.JSON
        # A text may begin with a bracket, too.
        return FileFormat.JSON if second == "{" or re.match(r"\s*\[\s*\{\s*\"", first) else None
    if not first.lstrip().startswith("{"):
        return None
    row = _parsed(first)
    if isinstance(row, dict):
        return FileFormat.JSON if not others and isinstance(row.get("data"), list) else FileFormat.JSONL
    if ending in _LINES_OF_JSON:
        return FileFormat.JSONL if second in ("", "{") else FileFormat.JSON
    return FileFormat.JSON if ending == ".json" or re.match(r"\s*\{\s*(?:\"[^\"]*\"\s*:|$)", first) else None


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_table(text: str) -> bool:
    """Whether the first lines have the same number of cells, and more than one."""
    lines = text.splitlines()[:3]
    delimiter = delimiter_of(lines[0])
    try:
        widths = {len(cells) for cells in csv.reader(lines, delimiter=delimiter)}
    except csv.Error:
        return False
    return len(lines) > 1 and len(widths) == 1 and widths != {1}
