"""From a folder of files to a model in memory: what it would take, where it would go, and then the loading itself."""

from __future__ import annotations

from studio.loading.outlook import Outlook, best_precision, outlook, settled
from studio.loading.placing import Block
from studio.loading.plan import ATTENTION, AUTO, LoadPlan, Placement, Quantization
from studio.loading.reading import LoadedModel, Resident, load

__all__ = [
    "ATTENTION",
    "AUTO",
    "Block",
    "LoadPlan",
    "LoadedModel",
    "Outlook",
    "Placement",
    "Quantization",
    "Resident",
    "best_precision",
    "load",
    "outlook",
    "settled",
]
