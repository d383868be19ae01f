"""The runs of a workspace, each a folder of its own: made, found, listed, renamed and deleted."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studio.errors import Busy, InputError, StudioError
from studio.models import DatasetRef
from studio.runs import document
from studio.runs.document import Document, unwritable
from studio.runs.state import Standing, held, is_held, standing
from studio.settings import Settings
from studio.training import TrainingRun

DATA = "data"
"""Folder of the files that a person uploaded."""
_ID = re.compile(r"[0-9a-f]{32}")
_HIDDEN = re.compile(r"[/\\\0]|^\.")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its folder tells of it at one moment."""

    id: str
    folder: Path
    document: Document
    standing: Standing


@dataclass(frozen=True, slots=True)
class Broken:
    """A folder among the runs that is none any more. It can be deleted."""

    id: str
    folder: Path
    message: str
    hint: str


def home() -> Path:
    """The folder of all runs. Raises InputError for visitors of a shared machine."""
    settings = Settings.from_env()
    if settings.shared:
        raise InputError("Visitors cannot fine-tune on this machine.", "Duplicate the Space, or run the studio.")
    return settings.workspace / "runs"


def folder_of(id_: str) -> Path:
    """The folder of a run, which may be damaged. Raises InputError where there is none of this id."""
    place = home() / id_
    if not _ID.fullmatch(id_) or place.is_symlink() or not place.is_dir():
        raise InputError(f"There is no run {id_[:40]!r}.", "Look at the list of runs.")
    return place


def create(run: TrainingRun, files: Sequence[Path] = (), name: str = "") -> str:
    """Write a new run down and return its id. Nothing is begun.

    `files` were uploaded for it: they are copied, and sources name them by their file names. Without a name it gets one
    of its data and model. Raises InputError, or DoesNotFit where the disk is full, and then leaves nothing.
    """
    told = document.new(run, name or _name_for(run))
    names = _checked_files(files)
    _check_sources(run, names)
    id_ = secrets.token_hex(16)
    folder = home() / id_
    try:
        folder.mkdir(parents=True)
        with held(folder):  # whoever lists the runs meanwhile sees that it is being made
            _fill(folder, files, told)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(folder.parent, error) from error
        raise
    return id_


def _fill(folder: Path, files: Sequence[Path], told: Document) -> None:
    for file in files:
        (folder / DATA).mkdir(exist_ok=True)
        shutil.copyfile(file, folder / DATA / file.name)
    document.write(told, folder)  # last: a folder without it is no run


def _name_for(run: TrainingRun) -> str:
    data = ", ".join(Path(source.name).name for source in run.data)
    words = "".join(letter for letter in f"{data} on {Path(run.plan.model.name).name}" if letter.isprintable())
    return words[: document.LONGEST_NAME]


def _checked_files(files: Sequence[Path]) -> set[str]:
    names: set[str] = set()
    for file in files:
        if _HIDDEN.search(file.name) or not file.is_file():
            raise InputError(f"{file.name!r} is no file that can be learnt from.", "Upload it again.")
        if file.name in names:
            raise InputError(f"Two of the files are called {file.name}.", "Rename one of them.")
        names.add(file.name)
    return names


def _check_sources(run: TrainingRun, names: set[str]) -> None:
    for source in (*run.data, *([run.held_out] if run.held_out else [])):
        if source.name not in names:
            DatasetRef.parse(source.name)  # raises where it is no name


def of(id_: str) -> Run:
    """A run by its id. Raises InputError where there is none, or where its run.yaml says something that cannot be."""
    return at(folder_of(id_))


def at(folder: Path) -> Run:
    """The run in a folder, wherever that is. As `of`."""
    return Run(folder.name, folder, document.read(folder / document.FILE), standing(folder))


def listing() -> tuple[Run | Broken, ...]:
    """The runs of the workspace, the newest first, and what is left of those that are damaged, last."""
    place = home()
    folders = [each for each in place.iterdir() if _ID.fullmatch(each.name)] if place.is_dir() else []
    looked = [found for folder in folders if (found := _look(folder))]
    runs = sorted((run for run in looked if isinstance(run, Run)), key=lambda run: run.document.made, reverse=True)
    return (*runs, *(run for run in looked if isinstance(run, Broken)))


def _look(folder: Path) -> Run | Broken | None:
    """None for one that is being made or deleted at this moment."""
    if folder.is_symlink() or not folder.is_dir():
        return None
    try:
        return at(folder)
    except StudioError as error:
        return None if is_held(folder) else Broken(folder.name, folder, error.message, error.hint)


def rename(id_: str, name: str) -> None:
    """Give a run another name. Also while it runs."""
    checked = document.checked_name(name)
    document.change(folder_of(id_), lambda told: replace(told, name=checked))


def delete(id_: str) -> None:
    """Delete a run and all that it made, or what is left of a damaged one. Raises Busy while it runs."""
    folder = folder_of(id_)
    try:
        with held(folder):
            # First: if this is cut off, what is left is no run, and can be deleted again.
            (folder / document.FILE).unlink(missing_ok=True)
            shutil.rmtree(folder)
    except Busy:
        raise Busy("The run is at work, and cannot be deleted meanwhile.", "Stop it first.") from None
    except OSError as error:
        raise unwritable(folder, error) from error
