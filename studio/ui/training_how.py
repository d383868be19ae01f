"""How it is learnt: presets, every setting under Advanced, and what that takes in memory and time."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import gradio as gr

from studio.training import TrainingSettings
from studio.ui import form

PRESETS = {"Quick": "quick", "Balanced": "balanced", "Thorough": "thorough"}
OWN = "My own"
SETTING = "set_"
"""Before the names of the widgets of TrainingSettings."""
TARGETS = f"{SETTING}targets"
_ADAPTER = (
    *("method", "rank", "alpha", "targets", "rslora", "dropout", "start", "lora_plus", "whole_modules", "new_tokens"),
    "adapter",
)
_ON_THE_WAY = ("evaluate_every", "save_every", "checkpoints", "keep_best", "patience", "report_to")


def draw_how() -> dict[str, Any]:
    """What is always there: the preset, what it takes, and the buttons."""
    parts: dict[str, Any] = {
        "preset": gr.Radio([*PRESETS, OWN], value="Quick", label="How thorough", elem_id="training-preset"),
        "meaning": gr.HTML("", elem_id="training-meaning", elem_classes="plainly"),
        "takes": gr.HTML("", elem_id="training-takes", elem_classes="plainly"),
    }
    with gr.Row(elem_id="training-buttons", elem_classes="button-row"):
        parts |= {
            "start": gr.Button("Start", variant="primary", min_width=120, scale=1, elem_id="training-start"),
            "rehearse": gr.Button("Rehearse", min_width=110, scale=1, elem_id="training-rehearse"),
            "stop": gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="rehearsal-stop"),
        }
    parts["note"] = gr.HTML("", elem_id="training-note", elem_classes="note-line")
    parts["rehearsed"] = gr.HTML("", elem_id="training-rehearsed", elem_classes="plainly")
    return parts


def draw_settings() -> dict[str, Any]:
    """What belongs under Advanced, in three groups."""
    rest = [each.name for each in fields(TrainingSettings) if each.name not in (*_ADAPTER, *_ON_THE_WAY)]
    widgets: dict[str, Any] = {}
    for title, names in (("The adapter", _ADAPTER), ("Learning", rest), ("On the way", _ON_THE_WAY)):
        gr.HTML(f"<h4>{title}</h4>", elem_classes="group")
        if names is _ADAPTER:
            widgets["targets"] = gr.CheckboxGroup(
                [],
                label="Modules that get one",
                info="Choose none for all linear ones; behind each, how many, and the parameters of the adapter",
                elem_id="train-targets",
            )
        with gr.Row(elem_classes="fields"):
            widgets |= form.widgets(TrainingSettings, only=set(names) - {"targets"}, prefix="train")
    return {f"{SETTING}{name}": widget for name, widget in widgets.items()}


def draw_prompts() -> dict[str, Any]:
    """What the model is asked on the way, and what the run is called."""
    with gr.Row(elem_classes="fields"):
        return {
            "prompts": gr.Textbox(
                label="Prompts on the way",
                info="Asked before, at every look and after; one a line, and none asks the first rows",
                lines=3,
                elem_id="training-prompts",
            ),
            "run_name": gr.Textbox(
                label="Name of the run",
                info="Empty names it after data and model",
                max_lines=1,
                elem_id="training-name",
            ),
        }


def settings_of(values: dict[str, Any]) -> TrainingSettings:
    """The settings that the widgets hold. Raises InputError that names the field."""
    named = {name.removeprefix(SETTING): value for name, value in values.items() if name.startswith(SETTING)}
    return form.read(TrainingSettings, named | {"targets": ", ".join(named["targets"] or ()) or "all-linear"})


def shown(settings: TrainingSettings) -> dict[str, Any]:
    """The settings as their widgets hold them."""
    values = {f"{SETTING}{each.name}": getattr(settings, each.name) for each in fields(settings)}
    return values | {TARGETS: list(settings.target_names)}
