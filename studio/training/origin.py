"""What a checkpoint was made from, and whether a run may go on from it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studio.dataset import Prepared
from studio.errors import Damaged, InputError
from studio.training.plan import TrainingRun

ORIGIN = "origin.json"
_FREE = {"evaluate_every", "save_every", "checkpoints", "keep_best", "patience", "report_to", "checkpointing"}
"""Settings that change nothing of what a step learns."""


def origin_of(run: TrainingRun, data: Prepared, compute: str) -> dict[str, Any]:
    """All that two runs must have in common for one to go on from the other's checkpoint."""
    settings = {name: value for name, value in asdict(run.settings).items() if name not in _FREE}
    return {
        "the model": str(run.plan.model),
        "the precision": str(run.plan.precision),
        "the data": data.fingerprint,
        **{name.replace("_", " "): value for name, value in settings.items()},
        "compute": compute,
    }


def check_same(checkpoint: Path, origin: dict[str, Any]) -> None:
    """Raise InputError, naming it, where something is not what the checkpoint was made from."""
    try:
        before = json.loads((checkpoint / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged(f"{checkpoint.name} does not say what it was made from.", "Remove it, or begin anew.") from error
    changed = [name for name in origin if before.get(name) != origin[name]]
    if not changed:
        return
    told = [name if name == "the data" else f"{name} ({before.get(name)}, now {origin[name]})" for name in changed]
    raise InputError(
        f"This run has a checkpoint at step {checkpoint.name.rpartition('-')[2]}, and since then changed: "
        f"{', '.join(told)}.",
        "Put it back as it was to go on, or begin a new run.",
    )
