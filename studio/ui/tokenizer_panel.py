"""What the panels of the Tokenizer tab share: how they are shown anew, and the tokenizer of the model in the strip."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio import jobs
from studio.jobs import Opened
from studio.models import ModelRef
from studio.ui import wording
from studio.ui.handlers import Update, hub_token

TEXT_QUEUE: dict[str, Any] = {"concurrency_id": "text", "concurrency_limit": 8, "trigger_mode": "always_last"}
"""Events that need a tokenizer and no model: they never wait for one. Of several keys pressed the last one counts."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the tab, and what it does when it is opened, or when the model changes while it is open."""

    tab: gr.Tab
    show: Callable[..., Iterator[Update]]
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    reads_text: bool = True
    """Whether it is about the text on top of the tab, which is hidden otherwise."""
    stops: Callable[[list[Any]], None] | None = None
    """Connects its Stop with the events that show it; None where it has none."""


def opened(model: str | None, *, note: str = "note") -> Generator[Update, None, Opened]:
    """The tokenizer of a model by name. While it is fetched and read, the output called `note` says so."""
    with closing(jobs.open_tokenizer(ModelRef.parse(model or ""), token=hub_token())) as events:
        while True:
            try:
                yield {note: wording.progress(next(events))}
            except StopIteration as end:
                found: Opened = end.value
                return found
