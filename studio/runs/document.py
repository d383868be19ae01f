"""The file run.yaml: everything that is needed to do a run again, to be read and changed by hand."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from studio.errors import Damaged, DoesNotFit, InputError
from studio.runs.plain import as_plain, from_plain
from studio.training import TrainingRun

FILE = "run.yaml"
LONGEST_NAME = 120
"""Characters of the name of a run."""
_GROUPS = ("settings", "preparation", "plan")
"""The parts of a run that a field without the name of its part is looked for in, in this order."""
_MOST_BYTES = 1_000_000
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers")


@dataclass(frozen=True, slots=True)
class Document:
    """What run.yaml holds."""

    run: TrainingRun
    name: str
    """Given by a person."""
    made: str = ""
    """When, as 2026-11-25T13:50:29+00:00."""
    versions: tuple[tuple[str, str], ...] = ()
    """(library, version) of those it was made with."""


def new(run: TrainingRun, name: str) -> Document:
    """A document of now, with the libraries that are installed. Raises InputError for a name that is none."""
    return Document(run, checked_name(name), datetime.now(UTC).isoformat(timespec="seconds"), installed())


def installed() -> tuple[tuple[str, str], ...]:
    """The libraries that decide what a run computes, with their versions."""
    return tuple((name, version) for name in _LIBRARIES if (version := _version(name)))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def checked_name(name: str) -> str:
    """The name without space around it. Raises InputError for one that is empty, too long or of several lines."""
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        said = repr(name[:LONGEST_NAME])
        raise InputError(
            f"{said} is no name for a run.", f"Write one line of at most {LONGEST_NAME} characters, such as Persona."
        )
    return name


def read(file: Path) -> Document:
    """What a file says, which may leave out every field with a default. Raises InputError that names the field."""
    return parse(_content(file), file.stem if file.name != FILE else "run")


def _content(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InputError(f"{file} is too large for a description of a run.", "Choose the file of a run.")
        return content.decode("utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.", "Choose the file of a run.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not text.", "Choose the file of a run, saved as UTF-8.") from error


def parse(text: str, name: str) -> Document:
    """The same of a text; `name` is that of a run whose file gives none."""
    import yaml  # type: ignore[import-untyped]

    try:
        said = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise InputError(f"The description of the run is no YAML{line}.", "Compare it with that of a run.") from error
    if not isinstance(said, Mapping):
        raise InputError("The description of the run holds no fields.", "It begins with plan: and data:.")
    versions = said.get("versions") or {}
    if not isinstance(versions, Mapping):
        raise InputError(f"versions is {versions!r}.", "Write the libraries with their versions there, or nothing.")
    own = [field.name for field in dataclasses.fields(Document) if field.name != "run"]
    run = from_plain(TrainingRun, {key: value for key, value in said.items() if key not in own}, "run")
    texts = {key: from_plain(str, said.get(key, ""), key) for key in ("name", "made")}
    pairs = tuple((str(library), str(version)) for library, version in versions.items())
    return Document(run, checked_name(texts["name"] or name), texts["made"], pairs)


def with_fields(run: TrainingRun, values: Iterable[tuple[str, str]]) -> TrainingRun:
    """The run with fields as (rank, 8) or (preparation.seed, 1) say. Raises InputError that names the field."""
    import yaml

    said = as_plain(run)
    for field, text in values:
        group, _, name = field.rpartition(".")
        place = next((each for each in _GROUPS if group in ("", each) and name in said[each]), None)
        if place is None:
            known = [*said["settings"], *said["preparation"]]
            raise InputError(
                f"There is no setting {field!r}.", f"Write FIELD=VALUE, the field one of {', '.join(known)}."
            )
        said[place][name] = text if isinstance(said[place][name], str) else yaml.safe_load(text)
    return from_plain(TrainingRun, said, "run")


def as_text(document: Document) -> str:
    """The document as YAML, every field written out."""
    import yaml

    said: dict[str, Any] = {"name": document.name, "made": document.made, "versions": dict(document.versions)}
    return str(yaml.safe_dump(said | as_plain(document.run), sort_keys=False, allow_unicode=True, width=120))


def write(document: Document, folder: Path) -> None:
    """Write it into the folder of a run, whole or not at all. Raises InputError where it would not read back equal."""
    text = as_text(document)
    if parse(text, document.name) != document:
        raise InputError("This run cannot be written down so that it reads back equal.", "Name its model as usual.")
    put(folder / FILE, text)


def change(folder: Path, how: Callable[[Document], Document]) -> Document:
    """Read the document of a run, change and write it; two who do so at once come one after the other."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        changed = how(read(folder / FILE))
        write(changed, folder)
    finally:
        os.close(handle)
    return changed


def put(file: Path, text: str) -> None:
    """Replace a small file, so that after any crash it is the old or the new one. Raises DoesNotFit or Damaged."""
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(file.parent, error) from error


def unwritable(folder: Path, error: OSError) -> DoesNotFit | Damaged:
    """What a disk complained of, in our words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DoesNotFit(f"The disk with {folder} is full.", "Free some space there, then go on with the run.")
    return Damaged(f"{folder} cannot be written: {error.strerror or error}.", "Check the disk and its permissions.")
