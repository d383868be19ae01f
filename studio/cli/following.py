"""A job on the command line: what it does meanwhile is said on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from studio.events import Finished, Progress, Waiting


def result(events: Iterator[Any]) -> Any:
    """What a job ends with."""
    said = ""
    for event in events:
        if isinstance(event, Finished):
            return event.result
        if (words := in_words(event)) != said:
            print(said := words, file=sys.stderr)
    raise AssertionError("a job ends with Finished or raises")


def in_words(event: Progress | Waiting) -> str:
    """What an event says, in a few words."""
    if isinstance(event, Waiting):
        return f"waiting for the model: {event.busy_with}"
    share = f" {100 * event.done // event.total} %" if event.total and event.phase in ("download", "upload") else ""
    return f"{event.phase}{share}"
