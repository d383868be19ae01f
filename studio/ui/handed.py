"""What one tab hands on to another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr


@dataclass(frozen=True, slots=True)
class Handed:
    """A value, and the button that asks to go on elsewhere with it."""

    what: gr.State
    """None until there is something to hand on."""
    send: gr.Button


@dataclass(frozen=True, slots=True)
class ToPublish:
    """A folder that somebody wants to publish, and when they said so: the same one again is news."""

    folder: str
    at: float


def to_publish(folder: Path) -> dict[str, Any]:
    """Open Publish with a folder: the state `publish`, the `tabs`, and which of them is `showing`."""
    wanted = ToPublish(str(folder), time.time())
    return {"publish": wanted, "tabs": gr.update(selected="publishing"), "showing": "Publish"}
