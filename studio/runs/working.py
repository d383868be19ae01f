"""What a worker does: it waits for its turn, works the run off, and writes down every word of it, the last one too."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from studio.errors import DoesNotFit, StudioError
from studio.events import Finished
from studio.hub import Token
from studio.jobs import training as work
from studio.runs import document
from studio.runs.journal import Failed, Journal, RunEvent, Started
from studio.runs.state import TURN, WISH, wished
from studio.runs.turns import turn
from studio.session import is_out_of_memory, wanted
from studio.training import Began, Stop, Stopped, newest_checkpoint
from studio.training.checkpoints import step_of

_LOG = logging.getLogger(__name__)


def carry_out(folder: Path, lock: int, *, token: Token) -> Generator[RunEvent, None, None]:
    """Work off a run that was begun, whose lock this closes at the end. Every event is on the disk when it is yielded.

    The last one is Finished or Stopped. Raises what went wrong, which is written down as well.
    """
    room = "Lower the batch tokens or the precision, turn checkpointing on, or close what else is running."
    return written_down(folder, lock, _in_turn(folder, token), partial(_stopped, folder), room=room)


def written_down(
    folder: Path,
    lock: int,
    work: Generator[RunEvent, None, None],
    stopped: Callable[[], Stopped],
    *,
    room: str,
) -> Generator[RunEvent, None, None]:
    """Work something off as `carry_out` does a run. `stopped` is its last word where it is ended from outside, and
    `room` what to do where there is too little memory."""
    try:
        with Journal(folder) as book:
            try:
                with closing(work) as events:
                    for event in events:
                        if book.add(event):
                            yield event
            except (GeneratorExit, KeyboardInterrupt):
                book.add(stopped())
                raise
            except BaseException as error:
                failed = _failed(error, room)
                with suppress(StudioError):  # where the disk is full that is what went wrong, and is about to be raised
                    book.add(Failed(type(failed).__name__, failed.message, failed.hint))
                if isinstance(error, StudioError) or not isinstance(error, Exception):
                    raise
                raise failed from error
            finally:
                for name in (WISH, TURN):
                    (folder / name).unlink(missing_ok=True)
    finally:
        os.close(lock)


def help_out(folder: Path, *, token: Token) -> None:
    """Learn beside the process that carries the run out, which keeps its folder and says how it ends."""
    with closing(work.work(folder, token=token, wish=partial(wished, folder))) as events:
        for _ in events:
            pass


def _in_turn(folder: Path, token: Token) -> Generator[RunEvent, None, None]:
    name = document.read(folder / document.FILE).name
    with turn(folder, name, give_up=lambda: wished(folder) is not None) as place:
        if not (yield from place):
            yield _stopped(folder)
            return
        (folder / TURN).unlink(missing_ok=True)
        yield Started()
        yield from _at_work(folder, token)


def _at_work(folder: Path, token: Token) -> Generator[RunEvent, None, None]:
    began = False
    with closing(work.work(folder, token=token, wish=partial(wished, folder))) as events:
        for event in events:
            yield event
            if isinstance(event, Finished | Stopped):
                return
            began = began or isinstance(event, Began)
            wish = wished(folder)
            # Before it learns there is no checkpoint to wait for.
            if wish is Stop.NOW or (wish and not began):
                break
    yield _stopped(folder)


def _stopped(folder: Path) -> Stopped:
    """The last word of a run that ended outside of its training."""
    newest = newest_checkpoint(folder)
    return Stopped(step_of(newest) if newest else 0, newest.name if newest else None)


def _failed(error: BaseException, room: str) -> StudioError:
    """What went wrong, in our words."""
    if isinstance(error, StudioError):
        return error
    if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
        return DoesNotFit(f"There was not enough memory: {wanted(error)} was needed at once.", room)
    _LOG.error("It ended with an error that is unknown", exc_info=error)
    return StudioError(
        f"It ended with an error that the studio does not know: {type(error).__name__}: {error}",
        "The file log.txt in its folder says where. Please report it.",
    )
