"""Fine-tuning runs: what lasts is a directory, what works is a process of its own, and everyone else reads along."""

from __future__ import annotations

from studio.runs.coding import code
from studio.runs.directory import Broken, Run, at, create, delete, listing, of, rename
from studio.runs.document import with_fields
from studio.runs.following import News, follow
from studio.runs.journal import Failed, RunEvent, Started, Told, events
from studio.runs.starting import ask_to_stop, start, wake
from studio.runs.state import Standing, State, standing
from studio.runs.summing import Comparison, Curve, Difference, Summary, compare, curve, summary

__all__ = [
    "Broken",
    "Comparison",
    "Curve",
    "Difference",
    "Failed",
    "News",
    "Run",
    "RunEvent",
    "Standing",
    "Started",
    "State",
    "Summary",
    "Told",
    "ask_to_stop",
    "at",
    "code",
    "compare",
    "create",
    "curve",
    "delete",
    "events",
    "follow",
    "listing",
    "of",
    "rename",
    "standing",
    "start",
    "summary",
    "wake",
    "with_fields",
]
