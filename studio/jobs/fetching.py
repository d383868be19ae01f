"""Where the files of a request come from: this machine, or the Hub; and what a visitor may name."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from studio import hub
from studio.checkpoint import existing
from studio.errors import InputError
from studio.events import Progress, outcome
from studio.loading import LoadPlan
from studio.models import ModelRef
from studio.settings import STARTER_FOLDER, Settings


def fetch(plan: LoadPlan, *, token: hub.Token) -> Generator[Progress, None, Path]:
    """The folder of a plan's model on this machine, downloaded first where it is on the Hub."""
    if plan.adapter and Settings.from_env().shared:
        raise _closed_to_visitors()
    if folder := folder_here(plan.model):
        return folder
    return (yield from outcome(hub.download(plan.model, token=token, shared=Settings.from_env().shared)))


def peek(ref: ModelRef, *, token: hub.Token) -> Generator[Progress, None, hub.Peek]:
    """What the Hub shows of a model without its weights."""
    return (yield from outcome(hub.peek(ref, token=token, shared=Settings.from_env().shared)))


def folder_here(ref: ModelRef) -> Path | None:
    """The folder of a model that is on this machine by its name; None for one of the Hub.

    Raises InputError for a folder that is none, and for any folder where visitors share the machine.
    """
    if ref.where == "hub":
        return None
    if ref.where == "starter":
        return STARTER_FOLDER
    if Settings.from_env().shared:
        raise _closed_to_visitors()
    return existing(Path(ref.name))


def _closed_to_visitors() -> InputError:
    return InputError("Folders of this machine are not open to visitors.", "Choose a model of the Hub, or the starter.")
