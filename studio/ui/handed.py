"""What one tab hands on to another."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr


@dataclass(frozen=True, slots=True)
class Handed:
    """A value, and the button that asks to go on elsewhere with it."""

    what: gr.State
    """None until there is something to hand on."""
    send: gr.Button
