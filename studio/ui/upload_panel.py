"""An upload, followed: how far it is, Stop and Start again, and what came of it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio import hub, uploads
from studio.errors import InputError, StudioError
from studio.hub import Account
from studio.jobs.publishing import Offer, check_card
from studio.runs import State, Told
from studio.settings import Settings
from studio.ui import publishing_view, wording
from studio.ui.handlers import Update, on
from studio.uploads import UploadOrder

BEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """An upload as far as this page has read it."""

    id: str
    owner: str
    offset: int = 0
    told: tuple[Told, ...] = ()
    state: str = ""


def upload_panel() -> dict[str, Any]:
    """Draw it."""
    parts: dict[str, Any] = {
        "upload": gr.Button("Upload", variant="primary", interactive=False, elem_id="publish-upload"),
        "note": gr.HTML("", elem_id="publish-note", elem_classes="note-line"),
        "progress": gr.HTML("", elem_id="publish-progress", elem_classes="plainly"),
    }
    with gr.Row(elem_classes="button-row"):
        parts |= {
            "stop": gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="publish-stop"),
            "again": gr.Button("Start again", min_width=130, scale=0, visible=False, elem_id="publish-again"),
        }
    return parts | {"seen": gr.State(None), "timer": gr.Timer(BEAT_SECONDS)}


def connect_upload(parts: dict[str, Any], timer: gr.Timer, showing: gr.State, label: str) -> None:
    """Connect it; nothing is read while another tab is open."""
    watched = {"seen": parts["seen"], "showing": showing, "label": gr.State(label)}
    on(timer.tick, follow, inputs=watched, outputs=parts, queue=False, trigger_mode="always_last")
    on(parts["stop"].click, stop, inputs={"seen": parts["seen"]}, outputs=parts, queue=False)
    on(parts["again"].click, again, inputs={"seen": parts["seen"], "token": parts["token"]}, outputs=parts, queue=False)


def begun(order: UploadOrder, card: str, found: Offer, token: hub.Token, who: Account) -> Update:
    """Write an upload down and begin it. Raises StudioError."""
    check_card(card, found, token=token)
    id_ = uploads.create(order, card)
    uploads.start(id_, token=token)
    return _news(Seen(id_, who.name))


def newest(account: Account | None) -> Update:
    """What somebody has published from here, and how the upload stands that they began last."""
    if account is None:
        return {"list": ""}
    theirs = uploads.listing(account.name)
    shown = {"list": publishing_view.listed(theirs)}
    alive = [each for each in theirs if each.standing.state.is_alive]
    return shown | (_news(Seen(alive[0].id, account.name)) if alive else {})


def follow(*, seen: Seen | None, showing: str, label: str) -> Update:
    """What is new of the upload, where anybody looks at it."""
    if showing != label or seen is None:
        return {}
    try:
        return _news(seen)
    except StudioError as error:
        return {"progress": wording.problem(error), "seen": None}


def _news(seen: Seen) -> Update:
    with closing(uploads.follow(seen.id, after=seen.offset)) as news:
        new = next(news)
    told, state = (*seen.told, *new.told), str(new.standing.state)
    if seen.state == state and not new.told:
        return {}
    found = uploads.of(seen.id)
    update: Update = {
        "seen": Seen(seen.id, seen.owner, new.offset, told, state),
        "progress": publishing_view.going_on(found, told),
    }
    if seen.state == state:
        return update
    alive = found.standing.state.is_alive
    return update | {
        "stop": gr.update(visible=alive and found.standing.state is not State.STOPPING),
        "again": gr.update(visible=found.standing.state.can_start),
        "upload": gr.update(interactive=not alive),
        "list": publishing_view.listed(uploads.listing(seen.owner)),
    }


def stop(*, seen: Seen | None) -> Update:
    """Ask it to end."""
    try:
        uploads.ask_to_stop(_mine(seen))
    except StudioError as error:
        return {"note": wording.problem(error)}
    return {"stop": gr.update(visible=False), "note": wording.done("It ends. Nothing half is left on the Hub.")}


def again(sign_in: gr.OAuthToken | None, *, seen: Seen | None, token: str) -> Update:
    """Let it go on where it was, with the token of whoever presses."""
    if Settings.from_env().shared:
        given: hub.Token = sign_in.token if sign_in else False
    else:
        given = token.strip() or hub.machine_token()
    try:
        id_ = _mine(seen)
        if seen and hub.account(given).name != seen.owner:
            raise InputError("Somebody else began this upload.", "Begin one of your own.")
        uploads.start(id_, token=given)
        return _news(Seen(id_, seen.owner if seen else "")) | {"note": ""}
    except StudioError as error:
        return {"note": wording.problem(error)}


def _mine(seen: Seen | None) -> str:
    if seen is None:
        raise InputError("No upload was begun on this page.", "Press Upload first.")
    return seen.id
