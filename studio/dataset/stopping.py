"""Work on texts that is given up when nobody waits for it any more, however long a text is."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import TypeVar

LONG_CHARS = 200_000
"""Text that takes a tokenizer some 0.1 seconds, in which nothing can interrupt it."""
_STOP_SECONDS = 0.05

Result = TypeVar("Result")


class Stopped(Exception):
    """Nobody waits for this any more."""


def patiently(work: Callable[[], Result], stop: Event) -> Result:
    """What `work` returns. A thread that is in the middle of a text cannot be stopped, so it is left to itself then."""
    outcome: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failed.append(error)
            # What a row is refused for is handed on; a fault of our own is reported by the thread, too.
            if not isinstance(error, Exception):
                raise

    thread = Thread(target=run, name="studio-text", daemon=True)
    thread.start()
    while thread.is_alive():
        if stop.is_set():
            raise Stopped
        thread.join(_STOP_SECONDS)
    if failed:
        raise failed[0]
    return outcome[0]
