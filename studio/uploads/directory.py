"""The uploads of a workspace, each a folder of its own and somebody's: made, found, listed and forgotten."""

from __future__ import annotations

import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from studio.errors import Busy, InputError
from studio.events import Finished
from studio.hub import Uploaded
from studio.runs import journal, state
from studio.runs.document import unwritable
from studio.runs.state import Standing, State, held
from studio.settings import Settings
from studio.uploads import order as orders
from studio.uploads.order import UploadOrder

_ID = re.compile(r"[0-9a-f]{32}")
_DIED = Standing(
    State.DIED,
    "The upload ended without a word: its process was killed, or the machine went down.",
    "Start it again: what has arrived already is not sent a second time.",
)


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload as its folder tells of it at one moment."""

    id: str
    folder: Path
    order: UploadOrder
    made: str
    """When, as 2026-11-25T13:50:29+00:00."""
    standing: Standing
    uploaded: Uploaded | None
    """What came of it; None until it is finished."""


def home() -> Path:
    """The folder of all uploads."""
    return Settings.from_env().workspace / "uploads"


def folder_of(id_: str) -> Path:
    """The folder of an upload. Raises InputError where there is none of this id."""
    place = home() / id_
    if not _ID.fullmatch(id_) or place.is_symlink() or not place.is_dir():
        raise InputError(f"There is no upload {id_[:40]!r}.", "Look at the list of uploads.")
    return place


def create(order: UploadOrder, card: str) -> str:
    """Write a new upload down and return its id. Nothing is begun."""
    id_ = secrets.token_hex(16)
    folder = home() / id_
    try:
        folder.mkdir(parents=True)
        orders.write(order, card, datetime.now(UTC).isoformat(timespec="seconds"), folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(folder.parent, error) from error
        raise
    return id_


def of(id_: str) -> Upload:
    """An upload by its id. Raises InputError where there is none."""
    return at(folder_of(id_))


def at(folder: Path) -> Upload:
    """The upload in a folder. As `of`."""
    order, made = orders.read(folder)
    told = journal.last(folder, "finished")
    result = told.event.result if told and isinstance(told.event, Finished) else None
    uploaded = result if isinstance(result, Uploaded) else None
    return Upload(folder.name, folder, order, made, standing(folder), uploaded)


def standing(folder: Path) -> Standing:
    """How the upload in a folder stands now."""
    now = state.standing(folder)
    return _DIED if now.state is State.DIED else now


def listing(owner: str | None = None) -> tuple[Upload, ...]:
    """The uploads of a person by name, of everybody where that is None, the newest first."""
    place, found = home(), []
    for folder in place.iterdir() if place.is_dir() else ():
        if _ID.fullmatch(folder.name) and not folder.is_symlink():
            with suppress(InputError):  # it is being made or deleted at this moment
                found.append(at(folder))
    theirs = (each for each in found if owner is None or each.order.owner == owner)
    return tuple(sorted(theirs, key=lambda each: (each.made, each.folder.stat().st_mtime_ns), reverse=True))


def delete(id_: str) -> None:
    """Forget an upload. What it put on the Hub stays there. Raises Busy while it is at work."""
    folder = folder_of(id_)
    try:
        with held(folder):
            (folder / orders.FILE).unlink(missing_ok=True)
            shutil.rmtree(folder)
    except Busy:
        raise Busy("The upload is at work, and cannot be forgotten meanwhile.", "Stop it first.") from None
    except OSError as error:
        raise unwritable(folder, error) from error
