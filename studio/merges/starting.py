"""Merges are begun and stopped: each in a worker process of its own, which waits in one line with the runs."""

from __future__ import annotations

import os
from pathlib import Path

from studio.hub import Token
from studio.keeping import check_vacant
from studio.merges import order as orders
from studio.merges.directory import folder_of
from studio.runs.starting import ask_to_end, line_up, spawn
from studio.training import Stop


def start(id_: str, *, token: Token) -> None:
    """Begin a merge, or begin it anew, in a worker process that waits for its turn.

    `token` is what it may download with. Raises InputError for a merge that is finished or at work already.
    """
    folder = folder_of(id_)
    lock = begin(folder)
    try:
        spawn("merge", folder, lock, token)
    finally:
        os.close(lock)  # the worker has it


def begin(folder: Path) -> int:
    """Put a merge in the line; returns its lock, for whoever works it off. Raises InputError as `start`."""
    order, _ = orders.read(folder)
    return line_up(folder, "merge", "Make a new one.", lambda: check_vacant(order.output))


def ask_to_stop(id_: str) -> None:
    """Ask a merge to end, which leaves nothing of it; returns at once. Raises InputError for one not at work."""
    ask_to_end(folder_of(id_), "merge", Stop.NOW)
