"""The texts that a tokenizer is to learn from: collected in a file, with a part held out to measure it by."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from zlib import crc32

from studio.errors import DoesNotFit, InputError, StudioError
from studio.events import Phase, Progress

TEXT_LIMIT = 1_000_000_000
"""Bytes of text that a training takes. Vocabularies hardly change beyond: their words repeat."""
HELD_OUT_EVERY = 20
HELD_OUT_LIMIT = 1_000_000
PIECE = 1000
"""Characters at a time, so that each twentieth can be held out and a training that is fed can say how far it is."""
_BEAT_SECONDS = 0.2
_READ_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(slots=True)
class Gathered:
    """What was collected."""

    texts: int = 0
    characters: int = 0
    bytes: int = 0
    """In UTF-8; as the characters, of what there is to learn from, without what is held out."""
    held_out: list[str] = field(default_factory=list)


def read_texts(files: Iterable[Path]) -> Iterator[str]:
    """The text of files in UTF-8, a megabyte at a time. Raises InputError where one is not there or is no text."""
    for file in files:
        try:
            with file.open(encoding="utf-8", newline="") as stream:
                while text := stream.read(_READ_BYTES):
                    yield text
        except UnicodeDecodeError as error:
            raise InputError(f"{file.name} is not text in UTF-8.", "Save it as UTF-8, or leave it out.") from error
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror or error}.", "Check the path.") from error


def gather(texts: Iterable[str], file: Path) -> Generator[Progress, None, Gathered]:
    """Write the texts to `file`, a piece as JSON a line; keep every twentieth piece, at most 1 MB, to measure by.

    Which pieces are held out depends on their words alone, but that the first never is: what occurs twice is on one
    side only, and is held out once.
    Raises InputError for what is no text, for less than two different characters, and for more than TEXT_LIMIT.
    """
    found = Gathered()
    different: set[str] = set()
    held: dict[str, None] = {}
    room = HELD_OUT_LIMIT
    beat = monotonic()
    with written(file), file.open("xb") as stream:
        for text in _checked(texts):
            found.texts += 1
            if len(different) < 2:
                different.update(text)
            for piece in pieces(text):
                encoded = piece.encode()
                if found.bytes and crc32(encoded) % HELD_OUT_EVERY == 0:
                    if piece in held:
                        continue
                    if len(encoded) <= room:
                        room -= len(encoded)
                        held[piece] = None
                        continue
                _count(found, piece, len(encoded))
                stream.write(json.dumps(piece).encode() + b"\n")
                if monotonic() > beat + _BEAT_SECONDS:
                    beat = monotonic()
                    yield Progress(Phase.GATHER, found.bytes)
    found.held_out = list(held)
    if not "".join(different).strip():
        raise InputError("There is no text to learn from.", "Give at least a few pages; a megabyte is a good start.")
    if len(different) == 1:
        raise InputError(
            f"The text has one character only, {next(iter(different))!r}.", "Give text with words to learn from."
        )
    return found


def _count(found: Gathered, piece: str, size: int) -> None:
    found.characters += len(piece)
    found.bytes += size
    if found.bytes > TEXT_LIMIT:
        raise InputError(
            f"There is more text than {TEXT_LIMIT / 1e9:g} GB, which is as much as a training takes.",
            "Give a part of it: a vocabulary hardly changes with more.",
        )


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts, each of which can be written in UTF-8."""
    number = 0
    try:
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise InputError(
                    f"Text {number} is no text but {type(text).__name__}.", "Choose a column that holds text."
                )
            text.encode()
            yield text
    except UnicodeEncodeError as error:
        raise InputError(f"Text {number} holds bytes that are not text.", "Save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"Text {number + 1} cannot be read: {error.strerror or error}.", "Check its file.") from error


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of at most 1,000 characters, cut in front of the last space of each where there is one."""
    begin = 0
    while len(text) - begin > PIECE:
        end = begin + PIECE
        space = max(text.rfind(" ", begin, end), text.rfind("\n", begin, end))
        end = space if space > begin else end
        yield text[begin:end]
        begin = end
    if begin < len(text):
        yield text[begin:]


@contextmanager
def written(place: Path) -> Iterator[None]:
    """Say in our words that `place` cannot be written. The Rust part has no class of its own: it raises Exception."""
    try:
        yield
    except OSError as error:
        raise _not_written(place, error.errno, error.strerror or str(error)) from error
    except BaseException as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if type(error) is not Exception or number is None:
            raise
        raise _not_written(place, int(number[1]), os.strerror(int(number[1]))) from error


def _not_written(place: Path, number: int | None, reason: str) -> StudioError:
    if number in _FULL:
        return DoesNotFit(
            f"{place} cannot be written: {reason}.", "Free some space, or choose a folder on another disk."
        )
    return InputError(f"{place} cannot be written: {reason}.", "Choose a folder that you may write to.")
