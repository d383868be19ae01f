"""Uploads are begun and stopped: each in a worker process of its own, which waits for nobody."""

from __future__ import annotations

import os
from pathlib import Path

from studio.errors import AccessDenied
from studio.hub import Token
from studio.runs.starting import ask_to_end, line_up, spawn
from studio.training import Stop
from studio.uploads import order as orders
from studio.uploads.directory import folder_of


def start(id_: str, *, token: Token) -> None:
    """Begin an upload, or let it go on, in a worker process. The token is in its memory and nowhere else.

    Raises AccessDenied without a token, and InputError for an upload that is finished or at work already.
    """
    folder = folder_of(id_)
    lock = begin(folder, token=token)
    try:
        spawn("push", folder, lock, token)
    finally:
        os.close(lock)  # the worker has it


def begin(folder: Path, *, token: Token) -> int:
    """Take hold of an upload; returns its lock, for whoever works it off. Raises as `start`."""
    if token is False:
        raise AccessDenied("Nobody is signed in.", "Sign in, or enter a token.")
    orders.read(folder)
    return line_up(folder, "upload", "Begin a new one to publish more.")


def ask_to_stop(id_: str) -> None:
    """Ask an upload to end; returns at once. Raises InputError for one that is not at work."""
    ask_to_end(folder_of(id_), "upload", Stop.NOW)
