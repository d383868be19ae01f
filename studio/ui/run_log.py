"""What a run said, line by line, in words."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from typing import Any

from studio.events import Finished, Progress, Retrying, Waiting
from studio.runs import Failed, Started, Told
from studio.training import Began, Evaluated, Sampled, Saved, Stepped, Warned
from studio.training.telling import Stopped
from studio.ui import wording

LINES = 200
"""The last ones: a run of a day says a million."""


def log(told: Sequence[Told]) -> str:
    """The last lines, the newest on top."""
    last = told[: -LINES - 1 : -1]
    lines = "".join(f"<li><time>{_clock(each.at)}</time> {html.escape(_line(each.event))}</li>" for each in last)
    return f'<div class="sheet log"><ol>{lines}</ol></div>' if lines else ""


def ahead(waiting: Waiting) -> str:
    """How many runs come before."""
    return f"{waiting.ahead} come first." if waiting.ahead > 1 else "It is next."


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _line(event: Any) -> str:
    return _WORDS[type(event)](event)


def _progress(event: Progress) -> str:
    return wording.phase(event.phase) + (f", {event.done / event.total:.0%}" if event.total else "")


def _began(event: Began) -> str:
    return (
        f"From step {event.step:,} to {event.total:,}, {event.rows:,} rows and {event.held_out:,} held out; "
        f"{event.trainable:,} parameters learn, in {event.compute} on {event.device}"
    )


def _stepped(event: Stepped) -> str:
    return (
        f"step {event.step:,} of {event.total:,}: loss {event.loss:.4f}, rate {event.learning_rate:.2e}, "
        f"gradient {event.gradient:.3f}, {event.tokens:,} tokens in {event.seconds:.2f} s"
    )


def _evaluated(event: Evaluated) -> str:
    return f"step {event.step:,}: loss {event.loss:.4f} on held-out rows{', the best so far' if event.best else ''}"


def _finished(event: Finished[Any]) -> str:
    return f"Finished after {event.result.steps:,} steps, {wording.duration(event.result.seconds)} of learning"


_WORDS: dict[type, Callable[[Any], str]] = {
    Started: lambda _event: "A worker process begins",
    Progress: _progress,
    Waiting: lambda event: f"Waits: {event.busy_with} has the machine. {ahead(event)}",
    Retrying: lambda event: f"{event.why} Again in {event.seconds:.0f} s",
    Began: _began,
    Stepped: _stepped,
    Evaluated: _evaluated,
    Sampled: lambda event: f"step {event.step:,}: “{event.prompt[:60]}” → “{event.reply[:120]}”",
    Saved: lambda event: f"step {event.step:,}: checkpoint {event.folder}, {wording.size(event.bytes)}",
    Warned: lambda event: f"{event.id}: {event.message} {event.hint}",
    Stopped: lambda event: f"Stopped at step {event.step:,}",
    Failed: lambda event: f"{event.kind}: {event.message} {event.hint}",
    Finished: _finished,
}
