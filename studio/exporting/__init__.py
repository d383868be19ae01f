"""The way out of the studio: a model as a GGUF file, and how it is served elsewhere, each proven against the folder."""

from __future__ import annotations

from studio.exporting.elsewhere import command_for
from studio.exporting.exporting import export
from studio.exporting.plan import KINDS, Exported, ExportPlan, Likeness
from studio.exporting.serving import Parity, ServePlan, Snippet, parity

__all__ = [
    "KINDS",
    "ExportPlan",
    "Exported",
    "Likeness",
    "Parity",
    "ServePlan",
    "Snippet",
    "command_for",
    "export",
    "parity",
]
