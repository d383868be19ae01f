"""What a merge and its proof came to, in short, and where the models are that came of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studio.merging.merging import REPORT

NOT_PROVEN = ".not-proven"
"""What the name of a folder ends with until the merge in it is proven, and for good where that fails."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A merge that was carried out."""

    folder: Path
    """The one that was asked for; where the proof failed, the one beside it that is called not proven."""
    passed: bool | None
    """What the proof said; None where none was asked for."""
    failed: tuple[str, ...]
    """The checks that failed, by name."""
    covered: str
    """What was looked at, in words."""
    way: Literal["streamed", "in memory"]
    why: str
    """Why it was not streamed; empty where it was."""
    tensors: int
    changed: int
    files: int
    bytes: int
    """Of the tensors."""
    seconds: float
    """That the merge took, without the proof."""
    peak: int
    """The most memory that the process was seen to hold while it merged, in bytes."""


def not_proven(folder: Path) -> Path:
    """Where a merge lies until it is proven to be what it should."""
    return folder.with_name(folder.name + NOT_PROVEN)


def spare_base(place: Path) -> tuple[Path, Path]:
    """Where the quantized base of a merge lies while the merge is proven, and where while it is written."""
    return place.with_name(place.name + ".base"), place.with_name(place.name + ".base.part")


def merged_models(workspace: Path) -> tuple[Path, ...]:
    """The merged models of a workspace, by name; those that are not proven to the end are not among them."""
    folders = (report.parent for report in sorted((workspace / "models").glob(f"*/{REPORT}")))
    return tuple(folder for folder in folders if not folder.name.endswith((NOT_PROVEN, ".part")))
