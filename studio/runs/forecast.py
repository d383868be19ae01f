"""The file estimate.json: what a run was predicted to take, and what it took."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from studio.errors import InputError
from studio.runs.document import put
from studio.runs.plain import as_plain, from_plain

FILE = "estimate.json"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted and measured memory and time."""

    predicted: int | None = None
    """Bytes at the peak on the device; None where nobody could tell."""
    why: str = ""
    """Nobody could."""
    measured: int | None = None
    """Bytes: the most that the process (CPU) or the allocator (GPU) held; None until the run is finished."""
    seconds: float | None = None
    """That it took to learn."""


def read(folder: Path) -> Forecast | None:
    """The forecast of a run; None where there is none, or none that can be read."""
    try:
        return from_plain(Forecast, json.loads((folder / FILE).read_text(encoding="utf-8")), FILE)
    except (OSError, ValueError, InputError):
        return None


def write(folder: Path, forecast: Forecast) -> None:
    """Put it into the folder of a run. Raises DoesNotFit where the disk is full."""
    put(folder / FILE, json.dumps(as_plain(forecast), indent=1) + "\n")
