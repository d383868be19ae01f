"""The one model that is in memory: a slot with a line of jobs in front of it, keyed by the plan."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from studio import compute
from studio.errors import DoesNotFit
from studio.events import Phase, Progress, Waiting
from studio.loading import LoadedModel, LoadPlan, Resident, load, settled

Loading = Generator[Progress | Waiting, None, LoadedModel]
WAIT_BEAT = 0.25
"""Seconds between two words to somebody who waits: also how soon a job that gives up waiting leaves the line."""


@dataclass(eq=False, slots=True)
class _Ticket:
    """A place in the line. Compared by identity: two jobs may ask for the same."""

    purpose: str
    since: float


@dataclass(frozen=True, slots=True)
class Status:
    """What the session bar says. Bytes are measured."""

    resident: Resident | None
    busy_with: str | None
    busy_seconds: float
    waiting: int


class Session:
    """Lends the model to one job at a time, in the order they came, loading it first if the slot holds another or none.

    A loan is a context manager around an iterator: `loaded = yield from loan` waits, makes room and loads.
    Leaving the context, also by closing the generator around it, hands the model or the place in the line back.
    """

    def __init__(self, load: Callable[[LoadPlan, Path], Generator[Progress, None, LoadedModel]] = load) -> None:
        self._load = load
        self._slot: LoadedModel | None = None
        self._line: list[_Ticket] = []
        # Nothing below holds this across a yield: Gradio may resume a generator on another thread.
        self._moved = threading.Condition()

    def status(self) -> Status:
        """Who has the model, at this moment."""
        with self._moved:
            head, slot = self._line[0] if self._line else None, self._slot
            return Status(
                resident=slot.resident if slot else None,
                busy_with=head.purpose if head else None,
                busy_seconds=time.monotonic() - head.since if head else 0.0,
                waiting=max(0, len(self._line) - 1),
            )

    @contextmanager
    def borrow(self, plan: LoadPlan, folder: Path, *, purpose: str) -> Iterator[Loading]:
        """Lend the model for work that leaves it as it was."""
        with self._turn(purpose) as turn:
            yield self._lend(turn, plan, folder)

    @contextmanager
    def take(self, plan: LoadPlan, folder: Path, *, purpose: str) -> Iterator[Loading]:
        """Give a fresh model away for work that changes it, such as training; the slot is empty afterwards."""
        with self._turn(purpose) as turn:
            try:
                yield self._give(turn, plan, folder)
            finally:
                self._let_go()

    @contextmanager
    def alone(self, *, purpose: str) -> Iterator[Generator[Waiting, None, None]]:
        """Hold the line for work that needs the machine and not the model, which stays where it is."""
        with self._turn(purpose) as turn:
            yield self._wait(turn)

    def unload(self) -> Generator[Progress | Waiting, None, None]:
        """Wait for the jobs before, then let go of the model."""
        with self._turn("Unloading") as turn:
            yield from self._wait(turn)
            yield from self._make_room()

    def _lend(self, turn: _Ticket, plan: LoadPlan, folder: Path) -> Loading:
        yield from self._wait(turn)
        plan = settled(plan, folder)
        if self._slot is None or self._slot.resident.plan != plan:
            yield from self._make_room()
            self._slot = yield from self._load(plan, folder)
        return self._slot

    def _give(self, turn: _Ticket, plan: LoadPlan, folder: Path) -> Loading:
        yield from self._wait(turn)
        yield from self._make_room()
        return (yield from self._load(plan, folder))

    def _make_room(self) -> Generator[Progress, None, None]:
        """Let go of the old model before the new one needs its place."""
        if self._slot is not None:
            yield Progress(Phase.MAKE_ROOM)
            self._let_go()

    def _let_go(self) -> None:
        self._slot = None
        compute.release()

    def _wait(self, turn: _Ticket) -> Generator[Waiting, None, None]:
        while True:
            with self._moved:
                ahead = self._line.index(turn)
                if ahead and not self._moved.wait_for(lambda: self._line[0] is turn, timeout=WAIT_BEAT):
                    ahead, head = self._line.index(turn), self._line[0]
                    news = Waiting(ahead, head.purpose, time.monotonic() - head.since)
                else:
                    turn.since = time.monotonic()
                    return
            yield news

    @contextmanager
    def _turn(self, purpose: str) -> Iterator[_Ticket]:
        """A place in the line, from joining it to handing the model back."""
        ticket = _Ticket(purpose, time.monotonic())
        with self._moved:
            self._line.append(ticket)
        try:
            with self._out_of_memory_explained():
                yield ticket
        finally:
            with self._moved:
                self._line.remove(ticket)
                self._moved.notify_all()

    @contextmanager
    def _out_of_memory_explained(self) -> Iterator[None]:
        """The one place where running out of memory is caught: free everything, then say what would fit."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            free = compute.free_memory()
            # The traceback holds the tensors of every frame it went through.
            error.__traceback__ = None
            self._let_go()
            raise DoesNotFit(
                f"There was not enough memory: {wanted(error)} was needed at once and {free / 1e9:.2f} GB were free.",
                "The model was unloaded. Shorten the prompt or the reply, close programs, or choose a smaller model.",
            ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator had no more to give."""
    # torch.OutOfMemoryError is a RuntimeError; the CPU allocator raises a plain one.
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "allocate memory" in words


def wanted(error: BaseException) -> str:
    """The size in the allocator's own words: bytes on a CPU, MiB or GiB on a GPU."""
    found = re.search(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", str(error), re.IGNORECASE)
    if found is None:
        return "more"
    return f"{float(found[1]) / 1e9:.2f} GB" if found[2] == "bytes" else f"{found[1]} {found[2]}"
