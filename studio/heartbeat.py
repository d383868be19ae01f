"""Run blocking work on a thread, so that the generator that owns it keeps yielding and can be closed at any moment."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

Said = TypeVar("Said")
Told = TypeVar("Told")
Result = TypeVar("Result")


def heartbeat(
    work: Callable[[Callable[[Said], None], Event], Result],
    tell: Callable[[list[Said]], Iterable[Told]],
    *,
    every: float | Callable[[], float],
) -> Generator[Told, None, Result]:
    """Run `work(say, stop)` on a thread; every `every` seconds yield what `tell` makes of what was said, or of `[]`.

    `every` may change from beat to beat. Returns what `work` returned and raises what it raised. Closing the generator
    sets `stop` and waits for the thread, so `work` should look at it often; what it raises then is nobody's concern.
    """
    said: deque[Said] = deque()
    stop = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="studio-work") as executor:
        future = executor.submit(work, said.append, stop)
        try:
            while not future.done():
                wait([future], timeout=every() if callable(every) else every)
                yield from tell([said.popleft() for _ in range(len(said))])
            if said:
                yield from tell(list(said))
        finally:
            stop.set()
    return future.result()


def patiently(work: Callable[[Event], Result], event: Told, *, after: float = 0.5) -> Generator[Told, None, Result]:
    """Run `work(stop)` on a thread; once it takes longer than `after` seconds, yield `event` as often as that.

    Closing the generator sets `stop` and waits, as it does with `heartbeat`.
    """
    late = time.monotonic() + after
    return (
        yield from heartbeat(
            lambda _say, stop: work(stop), lambda _: [event] if time.monotonic() >= late else [], every=after
        )
    )
