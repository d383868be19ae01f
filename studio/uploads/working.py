"""What the worker of an upload does: it looks the folder over again, uploads it, and writes down every word of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from studio import hub
from studio.events import Finished
from studio.hub import Outgoing, Target, Token
from studio.jobs.publishing import check_card, offer
from studio.runs.journal import RunEvent, Started
from studio.runs.state import TURN, wished
from studio.runs.working import written_down
from studio.training import Stopped
from studio.uploads import order as orders

_STOPPED = Stopped(0, None)


def carry_out(folder: Path, lock: int, *, token: Token) -> Generator[RunEvent, None, None]:
    """Work off an upload that was begun, whose lock this closes at the end. Events are on the disk once yielded.

    The last one is Finished or Stopped. Raises what went wrong, which is written down as well.
    """
    room = "Close other programs, and start it again."
    return written_down(folder, lock, _work(folder, token), lambda: _STOPPED, room=room)


def _work(folder: Path, token: Token) -> Generator[RunEvent, None, None]:
    order, _ = orders.read(folder)
    (folder / TURN).unlink(missing_ok=True)
    yield Started()
    # Again: the folder may have changed since it was looked at, and nothing is to leave unseen.
    found = offer(order.folder, order.repo, licence=order.licence, base=order.base, token=token)
    card = orders.card(folder)
    check_card(card, found, token=token)
    files = (*found.contents.files, Outgoing(orders.CARD, len(card.encode()), text=card))
    target = Target(order.repo, order.private, order.branch, order.pull_request)
    with closing(hub.upload(target, files, f"Upload the {found.thing.kind}", token=token)) as events:
        for event in events:
            yield event
            if isinstance(event, Finished):
                return
            if wished(folder):
                break
    yield _STOPPED
