"""Rows out of text files, one after the other, with errors that name the line, the row and what stands there."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from studio.dataset.sniffing import FileFormat, delimiter_of
from studio.errors import InputError

LONGEST_ROW = 64_000_000
"""Bytes that one row may have. Longer ones are no rows, but files whose ends of line are missing."""
_CHUNK = 1 << 18
_SPACE = re.compile(r"\s*")
_JSON_HINT = 'Each row must be one JSON object, such as {"prompt": "…", "completion": "…"}.'
_UTF8_HINT = "Save the file again as UTF-8."

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A row, and how many bytes of its file have been read by now."""

    row: Row
    done: int


def parse(file: Path, name: str, kind: FileFormat) -> Iterator[Parsed]:
    """The rows of a file that holds text. Raises InputError at the first one that is none."""
    readers: dict[FileFormat, Callable[[BinaryIO, str], Iterator[Row]]] = {
        FileFormat.JSONL: _json_lines,
        FileFormat.JSON: _json_document,
        FileFormat.CSV: _table,
        FileFormat.TSV: _table,
        FileFormat.LINES: _lines_of_text,
        FileFormat.PARAGRAPHS: _paragraphs,
    }
    with file.open("rb") as stream:
        for row in readers[kind](stream, name):
            yield Parsed(row, stream.tell())


def shown(value: Any) -> str:
    """The beginning of a value, as it stands in an error."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return next((word for kind, word in kinds.items() if isinstance(value, kind)), type(value).__name__)


# Text


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, each with its end."""
    number, offset = 0, 0
    while raw := stream.readline(LONGEST_ROW + 1):
        number += 1
        if number == 1 and raw.startswith(codecs.BOM_UTF8):
            offset, raw = len(codecs.BOM_UTF8), raw[len(codecs.BOM_UTF8) :]
        if len(raw) > LONGEST_ROW:
            raise _too_long(f"{name}, line {number}")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(name, offset + error.start, raw[error.start], f" (line {number})") from error
        if "\0" in text:
            raise InputError(f"{name} is binary, not text: line {number} holds a zero byte.", _UTF8_HINT)
        offset += len(raw)
        yield number, text


def _lines_of_text(stream: BinaryIO, name: str) -> Iterator[Row]:
    for _, line in _lines(stream, name):
        if line.strip():
            yield {"text": line.rstrip("\r\n")}


def _paragraphs(stream: BinaryIO, name: str) -> Iterator[Row]:
    held: list[str] = []
    for _, line in _lines(stream, name):
        if line.strip():
            held.append(line)
        elif held:
            yield {"text": "".join(held).strip("\r\n")}
            held = []
    if held:
        yield {"text": "".join(held).strip("\r\n")}


def _not_utf8(name: str, position: int, byte: int, where: str = "") -> InputError:
    return InputError(f"{name} is not UTF-8: byte {position:,}{where} is 0x{byte:02x}.", _UTF8_HINT)


def _too_long(place: str) -> InputError:
    return InputError(
        f"{place} is longer than {LONGEST_ROW // 10**6} MB, too long for a row.",
        "Put the rows on lines of their own, or cut long texts into pieces.",
    )


# Tables


def _table(stream: BinaryIO, name: str) -> Iterator[Row]:
    """The rows of a table as text; an empty cell is None, as a table cannot tell the two apart."""
    csv.field_size_limit(LONGEST_ROW)
    lines = _lines(stream, name)
    line, header = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    reader = csv.reader(_chained(header, lines), delimiter=delimiter_of(header), strict=True)
    try:
        columns = _columns(next(reader), name)
        for row, cells in enumerate((cells for cells in reader if cells), start=1):
            if len(cells) != len(columns):
                raise InputError(
                    f"{name}, line {line + reader.line_num - 1} (row {row}) has {len(cells)} cells and the header "
                    f"{len(columns)}: {shown(cells)}.",
                    "Put a cell that holds a delimiter or the end of a line into double quotes.",
                )
            yield {column: cell or None for column, cell in zip(columns, cells, strict=True)}
    except csv.Error as error:
        raise InputError(
            f"{name}, line {line + reader.line_num - 1} cannot be read as a row of a table: {error}.",
            "Look for a double quote that is not closed, or not doubled.",
        ) from error


def _chained(first: str, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    yield first
    for _, line in lines:
        yield line


def _columns(header: list[str], name: str) -> list[str]:
    # pandas writes its index under no name.
    columns = [cell.strip() or f"column {number}" for number, cell in enumerate(header, start=1)]
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        numbers = [str(number) for number, column in enumerate(columns, start=1) if column == twice]
        raise InputError(
            f"{name} has {len(numbers)} columns called {twice!r}: numbers {' and '.join(numbers)}.",
            "Give each column of the header a name of its own.",
        )
    return columns


# JSON


class _TooLarge(ValueError):
    """A whole number that takes more than 64 bits."""


def _whole_number(digits: str) -> int:
    # Neither Arrow nor what reads JSON out of it later holds more.
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise _TooLarge(digits[:30])
    return int(digits)


def _nothing(_word: str) -> None:
    """NaN and Infinity are no JSON: they are what Python writes where pandas has nothing."""


_JSON = json.JSONDecoder(parse_int=_whole_number, parse_constant=_nothing)


def _refused(place: str, error: RecursionError | _TooLarge) -> InputError:
    if isinstance(error, _TooLarge):
        return InputError(f"{place} holds a number that is too large: {error}.", "Write it as text.")
    return InputError(f"{place} is nested too deeply.", _JSON_HINT)


def _json_lines(stream: BinaryIO, name: str) -> Iterator[Row]:
    row = 0
    for number, line in _lines(stream, name):
        if not line.strip():
            continue
        row += 1
        place = f"{name}, line {number} (row {row})"
        try:
            value = _JSON.decode(line)
        except json.JSONDecodeError as error:
            raise _no_json(place, line, error) from error
        except (RecursionError, _TooLarge) as error:
            raise _refused(place, error) from error
        yield _object(value, place)


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise InputError(f"{place} is {kind_of(value)} and no object: {shown(value)}.", _JSON_HINT)
    if not value:
        raise InputError(f"{place} is an object without anything in it.", _JSON_HINT)
    return value


def _no_json(place: str, text: str, error: json.JSONDecodeError) -> InputError:
    near = text[max(0, error.pos - 20) : error.pos + 20].strip("\r\n")
    words = error.msg[:1].lower() + error.msg[1:].removesuffix(" starting at")
    return InputError(f"{place} is not JSON: {words} at character {error.colno}, near {near!r}.", _JSON_HINT)


def _json_document(stream: BinaryIO, name: str) -> Iterator[Row]:
    """The objects of a list, or of the list called data; an object without one is a row by itself."""
    reader = _Reader(stream, name)
    if reader.peek() == "[":
        yield from _elements(reader)
        if reader.peek():
            raise reader.wrong("nothing", "behind the list")
        return
    row: Row = {}
    reader.take("{")
    while reader.peek() != "}":
        if row:
            reader.take(",")
        key = reader.value("the object")
        reader.take(":")
        if key == "data" and reader.peek() == "[":
            yield from _elements(reader)
            return  # what else there is describes them
        row[str(key)] = reader.value("the object")
    reader.take("}")
    if reader.peek():
        raise reader.wrong("nothing", "behind the object")
    yield _object(row, f"{name} (row 1)")


def _elements(reader: _Reader) -> Iterator[Row]:
    reader.take("[")
    row = 0
    while reader.peek() != "]":
        if row:
            reader.take(",")
        row += 1
        reader.peek()
        place = f"{reader.name}, line {reader.line} (row {row})"
        yield _object(reader.value(f"row {row}"), place)
    reader.take("]")


class _Reader:
    """Values of a JSON document, one after the other, with no more of it in memory than the one that is read."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.stream, self.name = stream, name
        self.line = 1
        self._text, self._at, self._fed, self._over = "", 0, 0, False
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            self._skip(_SPACE.match(self._text, self._at).end())  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more(_CHUNK):
                return self._text[self._at : self._at + 1]

    def take(self, character: str) -> None:
        """Go past this character."""
        if self.peek() != character:
            raise self.wrong(repr(character), "")
        self._skip(self._at + 1)

    def value(self, what: str) -> Any:
        """The value that begins here."""
        self.peek()
        more = _CHUNK
        while True:
            try:
                value, end = _JSON.raw_decode(self._text, self._at)
            except (RecursionError, _TooLarge) as error:
                raise _refused(f"{self.name}, line {self.line} ({what})", error) from error
            except json.JSONDecodeError as error:
                # At the end of what is here it is cut off rather than wrong; a text is reported where it begins.
                cut = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated")
                if not cut or not self._more(more):
                    place = f"{self.name}, line {self.line + self._text.count(chr(10), self._at, error.pos)} ({what})"
                    raise _no_json(place, self._text, error) from error
            else:
                if end < len(self._text) or not self._more(more):  # a number may go on
                    self._skip(end)
                    return value
            more *= 2  # so that a long value is not read again and again
            if len(self._text) - self._at > LONGEST_ROW:
                raise _too_long(f"{self.name}, line {self.line} ({what})")

    def wrong(self, expected: str, where: str) -> InputError:
        """What is here is not what has to be."""
        found = repr(self._text[self._at : self._at + 20]) if self.peek() else "the end of the file"
        words = f"{self.name}, line {self.line} is not JSON: expected {expected} {where}".rstrip()
        return InputError(f"{words} and found {found}.", _JSON_HINT)

    def _skip(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self, size: int) -> bool:
        """Read on; False at the end of the file."""
        if self._over:
            return False
        chunk = self.stream.read(size)
        pending = self._decoder.getstate()[0]
        try:
            text = self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise _not_utf8(self.name, self._fed - len(pending) + error.start, error.object[error.start]) from error
        if self._fed == 0:
            text = text.removeprefix("\ufeff")
        self._fed += len(chunk)
        self._over = not chunk
        self._text, self._at = self._text[self._at :] + text, 0
        return True
