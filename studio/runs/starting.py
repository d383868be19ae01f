"""Runs are begun, go on and are stopped: each in a worker process of its own, which nothing here waits for.

The worker outlives whoever started it. It waits for its turn itself, so that the next one begins whenever the one
before is gone, however it went; the token of a run is in the memory of its process meanwhile and nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from studio.child import PACKAGE_ROOT
from studio.errors import Busy, InputError, StudioError
from studio.events import Finished
from studio.hub import Token
from studio.runs import document, journal
from studio.runs.directory import Run, folder_of, listing
from studio.runs.journal import Journal
from studio.runs.state import TURN, State, held, place_in_line, queue_up, standing, take_hold, wish
from studio.training import Stop, Stopped

LOG = "log.txt"
"""What the worker and the libraries in it say, in the folder of the run."""
_LOG = logging.getLogger(__name__)
_SECRET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def start(id_: str, *, token: Token) -> None:
    """Begin a run, or let it go on where it was, in a worker process that waits for its turn.

    `token` is what it may download with. Raises InputError for a run that is finished or at work already.
    """
    folder = folder_of(id_)
    lock = begin(folder)
    try:
        spawn("train", folder, lock, token)
    finally:
        os.close(lock)  # the worker has it


def begin(folder: Path) -> int:
    """Put a run in the line; returns its lock, for whoever works it off. Raises InputError as `start`."""
    document.read(folder / document.FILE)
    return line_up(folder, "run", "Make a new one to learn more.")


def line_up(folder: Path, what: str, instead: str, check: Callable[[], None] = lambda: None) -> int:
    """Put what a worker does in a folder in the line; returns its lock. `check` is the last that may refuse it.

    Raises InputError for what is at work already, and for what is finished, where `instead` is what to do.
    """
    try:
        lock = take_hold(folder)
    except Busy:
        raise InputError(f"This {what} is at work already.", "Follow it, or stop it first.") from None
    try:
        told = journal.last(folder, "started", *journal.ENDS)
        if told and isinstance(told.event, Finished):
            raise InputError(f"This {what} is finished.", instead)
        check()
        queue_up(folder)
    except BaseException:
        os.close(lock)
        raise
    return lock


def spawn(command: str, folder: Path, lock: int, token: Token) -> None:
    """Let a command of the studio work off what is in a folder, in a process that outlives this one."""
    words = [sys.executable, "-m", "studio", command, str(folder), "--worker", str(lock)]
    env = {name: value for name, value in os.environ.items() if name not in _SECRET}
    path = os.pathsep.join(part for part in (str(PACKAGE_ROOT), env.get("PYTHONPATH")) if part)
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=env | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            pass_fds=(lock,),
            start_new_session=True,  # neither Ctrl-C nor the end of this process reaches it
        )
    assert process.stdin
    with process.stdin as order:
        order.write(json.dumps({"token": token}).encode() + b"\n")
    threading.Thread(target=process.wait, name="studio-run-ends", daemon=True).start()  # or it stayed as a zombie


def ask_to_stop(id_: str, how: Stop = Stop.CHECKPOINT) -> None:
    """Ask a run to end before its time; returns at once. Raises InputError for one that is not at work."""
    ask_to_end(folder_of(id_), "run", how)


def ask_to_end(folder: Path, what: str, how: Stop) -> None:
    """Ask whatever works in a folder to end; one whose worker is gone leaves the line. As `ask_to_stop`."""
    now = standing(folder).state
    if now is State.DIED and (folder / TURN).exists():
        with held(folder), Journal(folder) as book:
            book.add(Stopped(0, None))
            (folder / TURN).unlink()
        return
    if not now.is_alive:
        raise InputError(f"This {what} is not at work: it is {now}.", "There is nothing to stop.")
    wish(folder, how)


def wake(*, token: Token) -> tuple[str, ...]:
    """Start the runs again whose workers are gone while they waited for their turn, after a restart of the machine.

    Returns their ids, in the order of the line. One that cannot be started stays as it is, which is logged.
    """
    waiting = [run for run in listing() if isinstance(run, Run) and run.standing.state is State.DIED]
    places = {run.id: place for run in waiting if (place := place_in_line(run.folder))}
    started = []
    for id_ in sorted(places, key=lambda each: places[each]):
        try:
            start(id_, token=token)
        except StudioError as error:
            _LOG.warning("The run %s was not started again: %s", id_, error)
        else:
            started.append(id_)
    return tuple(started)
