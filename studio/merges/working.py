"""What the worker of a merge does: it waits for its turn, merges, proves, and writes down every word of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from studio.events import Finished
from studio.hub import Token
from studio.jobs.merging import merge
from studio.merges import order as orders
from studio.runs.journal import RunEvent, Started
from studio.runs.state import TURN, wished
from studio.runs.turns import turn
from studio.runs.working import written_down
from studio.training import Stopped

_STOPPED = Stopped(0, None)
_ROOM = "Close other programs, or leave out the proof and do it elsewhere."


def carry_out(folder: Path, lock: int, *, token: Token) -> Generator[RunEvent, None, None]:
    """Work off a merge that was begun, whose lock this closes at the end. Events are on the disk once they are yielded.

    The last one is Finished or Stopped. Raises what went wrong, which is written down as well.
    """
    return written_down(folder, lock, _in_turn(folder, token), lambda: _STOPPED, room=_ROOM)


def _in_turn(folder: Path, token: Token) -> Generator[RunEvent, None, None]:
    order, _ = orders.read(folder)
    with turn(folder, f"the merge {order.output.name}", give_up=lambda: wished(folder) is not None) as place:
        if not (yield from place):
            yield _STOPPED
            return
        (folder / TURN).unlink(missing_ok=True)
        yield Started()
        with closing(merge(order, token=token)) as events:
            for event in events:
                yield event
                if isinstance(event, Finished):
                    return
                if wished(folder):
                    break
    yield _STOPPED
