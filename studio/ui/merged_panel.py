"""A merge, followed: where it is, its verdict, and what to do with the merged model."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio import merges
from studio.errors import InputError, StudioError
from studio.loading import LoadPlan
from studio.merges import Merge
from studio.models import ModelRef
from studio.runs import State, Told
from studio.ui import merged_view, wording
from studio.ui.gguf_panel import gguf_panel
from studio.ui.handed import to_publish
from studio.ui.handlers import Update, hub_token, on
from studio.ui.model_strip import model_choices
from studio.ui.parity_panel import parity_panel

BEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A merge as far as this page has read it."""

    id: str
    offset: int = 0
    told: tuple[Told, ...] = ()
    state: str = ""


def merged_panel(merge: gr.State, tab_is_open: dict[str, Any], page: dict[str, Any]) -> None:
    """Draw the panel and connect it. `merge` holds the id of the merge that is looked at.

    `tab_is_open` are inputs by which `follow` tells whether anybody looks; `page` are the strip's plan, model and note,
    the tabs, which of them is open, and what Publish takes over.
    """
    with gr.Tab("Result", id="result") as tab:
        outputs: dict[str, Any] = {"seen": gr.State(None)}
        outputs["head"] = gr.HTML(_nothing(), elem_id="merged-head", elem_classes="bare")
        with gr.Row(elem_id="merged-buttons", elem_classes="button-row"):
            outputs |= {
                "stop": gr.Button("Stop", variant="stop", min_width=110, scale=0, visible=False, elem_id="merged-stop"),
                "again": gr.Button("Start again", min_width=130, scale=0, visible=False, elem_id="merged-again"),
                "talk": gr.Button(
                    "Generate with it", variant="primary", min_width=180, scale=0, visible=False, elem_id="merged-talk"
                ),
                "look": gr.Button("Look at it in Load", min_width=180, scale=0, visible=False, elem_id="merged-load"),
                "publish_it": gr.Button("Publish", min_width=120, scale=0, visible=False, elem_id="merged-publish"),
            }
        outputs["note"] = gr.HTML("", elem_id="merged-note", elem_classes="note-line")
        outputs["gguf"] = gguf_panel(merge)
        outputs["parity"] = parity_panel(merge)
        timer = gr.Timer(BEAT_SECONDS)
    here = {"merge": merge}
    watched = here | {"seen": outputs["seen"]} | tab_is_open
    on(timer.tick, follow, inputs=watched, outputs=outputs, queue=False, trigger_mode="always_last")
    on([merge.change, tab.select], opened, inputs=here, outputs=outputs, queue=False)
    on(outputs["stop"].click, stop, inputs=here, outputs=outputs, queue=False)
    on(outputs["again"].click, again, inputs=here, outputs=outputs, queue=False)
    beside = {**page, "note": outputs["note"]}
    on(outputs["talk"].click, talk, inputs=here, outputs=beside, queue=False)
    on(outputs["look"].click, look, inputs=here, outputs=beside, queue=False)
    on(outputs["publish_it"].click, publish, inputs=here, outputs=beside, queue=False)


def _nothing() -> str:
    return wording.done("No merge yet. Press Merge and prove under Set up, or choose one under All merges.")


def follow(*, merge: str | None, seen: Seen | None, showing: str, label: str) -> Update:
    """What is new of the merge, where anybody looks at it."""
    if showing != label or not merge:
        return {}
    try:
        return _news(merge, seen)
    except StudioError as error:
        return {"head": wording.problem(error), **_hidden()}


def opened(*, merge: str | None) -> Update:
    """All of a merge."""
    if not merge:
        return {"head": _nothing(), "seen": None, "note": "", **_hidden()}
    try:
        return _news(merge, None) | {"note": ""}
    except StudioError as error:
        return {"head": wording.problem(error), "seen": None, **_hidden()}


def _news(id_: str, seen: Seen | None) -> Update:
    before = seen if seen and seen.id == id_ else Seen(id_)
    with closing(merges.follow(id_, after=before.offset)) as news:
        new = next(news)
    told, state = (*before.told, *new.told), str(new.standing.state)
    if before.state == state and not new.told:
        return {}
    found = merges.of(id_)
    update: Update = {"seen": Seen(id_, new.offset, told, state), "head": merged_view.head(found, told)}
    return update | (_buttons(found) if before.state != state else {})


def _buttons(found: Merge) -> Update:
    state = found.standing.state
    usable = bool(found.outcome and found.outcome.passed is not False and found.outcome.folder.is_dir())
    return {
        "stop": gr.update(visible=state.is_alive and state is not State.STOPPING),
        "again": gr.update(visible=state.can_start, value="Start" if state is State.NEW else "Start again"),
        "talk": gr.update(visible=usable),
        "look": gr.update(visible=usable),
        "publish_it": gr.update(visible=bool(usable and found.outcome and found.outcome.passed)),
        "gguf": gr.update(visible=usable),
        "parity": gr.update(visible=usable),
    }


def _hidden() -> Update:
    return {
        name: gr.update(visible=False) for name in ("stop", "again", "talk", "look", "publish_it", "gguf", "parity")
    }


def stop(*, merge: str | None) -> Update:
    """Ask it to end, which leaves nothing of it."""
    try:
        merges.ask_to_stop(merge or "")
    except StudioError as error:
        return {"note": wording.problem(error)}
    return {"stop": gr.update(visible=False), "note": wording.done("It ends, and what was written is cleared away.")}


def again(*, merge: str | None) -> Update:
    """Begin it anew."""
    try:
        merges.start(merge or "", token=hub_token())
        return _news(merge or "", None) | {"note": ""}
    except StudioError as error:
        return {"note": wording.problem(error)}


def talk(*, merge: str | None) -> Update:
    """Talk to the merged model: the strip speaks of it, and Generate opens."""
    return _taken(merge, "generation", "Generate", "answers now.")


def look(*, merge: str | None) -> Update:
    """Put the merged model into the strip, and open Load."""
    return _taken(merge, "loading", "Load", "is chosen.")


def publish(*, merge: str | None) -> Update:
    """Open Publish with the merged model, which has passed its proof."""
    try:
        outcome = merges.of(merge or "").outcome
        if outcome is None or not outcome.passed:
            raise InputError("This merge has made no proven model.", "Merge again with the proof on.")
    except StudioError as error:
        return {"note": wording.problem(error)}
    return to_publish(outcome.folder)


def _taken(merge: str | None, tab: str, label: str, words: str) -> Update:
    try:
        found = merges.of(merge or "")
        if found.outcome is None or found.outcome.passed is False:
            raise InputError(
                "This merge has made no model that could be used.", "Merge again, or use base and adapter."
            )
    except StudioError as error:
        return {"note": wording.problem(error)}
    model = ModelRef("folder", str(found.outcome.folder))
    return {
        "plan": LoadPlan(model),
        "model": gr.update(choices=model_choices(), value=str(model)),
        "tabs": gr.update(selected=tab),
        "showing": label,
        "strip_note": wording.done(f"The merged model {found.outcome.folder.name} {words}"),
    }


def newest() -> str | None:
    """The merge that a page opens on: one that is at work, or else the last one. None without any."""
    try:
        there = merges.listing()
    except StudioError:  # visitors have none
        return None
    alive = [each for each in there if each.standing.state.is_alive]
    return (alive or there)[0].id if there else None
