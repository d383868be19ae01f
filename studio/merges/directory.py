"""The merges of a workspace, each a folder of its own: made, found, listed and deleted."""

from __future__ import annotations

import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from studio.errors import Busy, InputError
from studio.events import Finished
from studio.keeping import check_vacant
from studio.merges import order as orders
from studio.merges.order import MergeOrder
from studio.merging.outcome import Outcome, not_proven, spare_base
from studio.runs import journal, state
from studio.runs.document import unwritable
from studio.runs.state import Standing, State, held
from studio.settings import Settings

_ID = re.compile(r"[0-9a-f]{32}")
_DIED = Standing(
    State.DIED,
    "The worker process ended without a word: killed, or out of memory. No merged model was left.",
    "Start the merge again. If it dies again, close other programs, or leave out the proof and do it elsewhere.",
)


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge as its folder tells of it at one moment."""

    id: str
    folder: Path
    order: MergeOrder
    made: str
    """When, as 2026-11-25T13:50:29+00:00."""
    standing: Standing
    outcome: Outcome | None
    """What it came to; None until it is finished."""


def home() -> Path:
    """The folder of all merges. Raises InputError for visitors of a shared machine."""
    settings = Settings.from_env()
    if settings.shared:
        raise InputError("Visitors cannot merge on this machine.", "Duplicate the Space, or run the studio.")
    return settings.workspace / "merges"


def folder_of(id_: str) -> Path:
    """The folder of a merge. Raises InputError where there is none of this id."""
    place = home() / id_
    if not _ID.fullmatch(id_) or place.is_symlink() or not place.is_dir():
        raise InputError(f"There is no merge {id_[:40]!r}.", "Look at the list of merges.")
    return place


def create(order: MergeOrder) -> str:
    """Write a new merge down and return its id. Nothing is begun. Raises InputError where the output is taken."""
    order = replace(order, output=order.output.absolute())
    place = home()
    check_vacant(order.output)
    id_ = secrets.token_hex(16)
    folder = place / id_
    try:
        folder.mkdir(parents=True)
        orders.write(order, datetime.now(UTC).isoformat(timespec="seconds"), folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(folder.parent, error) from error
        raise
    return id_


def of(id_: str) -> Merge:
    """A merge by its id. Raises InputError where there is none."""
    return at(folder_of(id_))


def at(folder: Path) -> Merge:
    """The merge in a folder, wherever that is. As `of`."""
    order, made = orders.read(folder)
    told = journal.last(folder, "finished")
    result = told.event.result if told and isinstance(told.event, Finished) else None
    outcome = result if isinstance(result, Outcome) else None
    return Merge(folder.name, folder, order, made, standing(folder), outcome)


def standing(folder: Path) -> Standing:
    """How the merge in a folder stands now."""
    now = state.standing(folder)
    if now.state is not State.DIED:
        return now
    return replace(now, hint="Start the merge again.") if (folder / state.TURN).exists() else _DIED


def listing() -> tuple[Merge, ...]:
    """The merges of the workspace, the newest first."""
    place, found = home(), []
    for folder in place.iterdir() if place.is_dir() else ():
        if _ID.fullmatch(folder.name) and not folder.is_symlink():
            with suppress(InputError):  # it is being made or deleted at this moment
                found.append(at(folder))
    return tuple(sorted(found, key=lambda merge: (merge.made, merge.folder.stat().st_mtime_ns), reverse=True))


def delete(id_: str) -> None:
    """Forget a merge, and delete what is left of it that is not proven. Raises Busy while it is at work.

    A model that it finished stays where it is.
    """
    folder = folder_of(id_)
    try:
        with held(folder):
            with suppress(InputError):
                clear(orders.read(folder)[0].output)
            (folder / orders.FILE).unlink(missing_ok=True)
            shutil.rmtree(folder)
    except Busy:
        raise Busy("The merge is at work, and cannot be deleted meanwhile.", "Stop it first.") from None
    except OSError as error:
        raise unwritable(folder, error) from error


def clear(output: Path) -> None:
    """Delete what a merge that broke off, or was not proven, has left beside its output."""
    place = not_proven(output)
    for folder in (place, place.with_name(place.name + ".part"), *spare_base(place)):
        shutil.rmtree(folder, ignore_errors=True)
