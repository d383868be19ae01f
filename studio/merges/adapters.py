"""Adapters of the workspace, to be merged: what runs have made, and what was made of those."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from studio import keeping, runs
from studio.adapters.adapter import CONFIG
from studio.errors import InputError, StudioError
from studio.models import ModelRef
from studio.runs import Run
from studio.settings import Settings

_ADAPTER = "adapter"
_RUN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Made:
    """An adapter that was made here."""

    run: str
    """The run that has learnt it; empty where it was made of others."""
    name: str
    folder: Path

    @property
    def value(self) -> str:
        """What `named` knows it by."""
        return self.run or str(self.folder)

    @property
    def label(self) -> str:
        """What a person tells it by."""
        return f"{self.name} ({self.run[:6] or 'made of others'})"


def made() -> tuple[Made, ...]:
    """Those of the workspace: of runs, then what was made of others, each the newest first; none for visitors."""
    try:
        there = [each for each in runs.listing() if isinstance(each, Run)]
    except StudioError:
        return ()
    learnt = (
        Made(run.id, run.document.name, run.folder / _ADAPTER)
        for run in there
        if (run.folder / _ADAPTER / CONFIG).is_file()
    )
    reworked = (Made("", folder.name, folder) for folder in keeping.kept_adapters(Settings.from_env().workspace))
    return (*learnt, *reworked)


def adapter_of(run: str) -> ModelRef:
    """The adapter of a run by its id. Raises InputError where there is none."""
    folder = runs.of(run).folder / _ADAPTER
    if not (folder / CONFIG).is_file():
        raise InputError("This run has made no adapter.", "Let it finish, or choose one that did.")
    return ModelRef("folder", str(folder))


def named(text: str) -> tuple[ModelRef, str]:
    """An adapter by the id of its run, its folder or its name on the Hub; and the run that made it, or nothing.

    Raises InputError for what is none of these.
    """
    if not text.strip():
        raise InputError("No adapter is chosen.", "Choose a run, or write a folder or a name of the Hub.")
    if _RUN.fullmatch(text):
        return adapter_of(text), text
    ref = ModelRef.parse(text)
    return ref, run_behind(ref)


def run_behind(ref: ModelRef) -> str:
    """The run of the workspace that made an adapter, by its id; empty where none did."""
    if ref.where != "folder":
        return ""
    return next((each.run for each in made() if each.folder == Path(ref.name)), "")
