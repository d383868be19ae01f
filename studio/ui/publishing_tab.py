"""Publish what was made: who signs, what goes, its card, and the upload.

A token is a value of one event: the browser sends it along, and nothing here keeps it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from studio import hub
from studio.errors import InputError, StudioError
from studio.hub import Account
from studio.jobs.publishing import Offer, choices, offer
from studio.settings import Settings
from studio.ui import form, publishing_view, wording
from studio.ui.handed import ToPublish
from studio.ui.handlers import CHANGING, Update, on
from studio.ui.upload_panel import begun, connect_upload, newest, upload_panel
from studio.uploads import UploadOrder

TAB_ID, LABEL = "publishing", "Publish"
_QUEUE: dict[str, Any] = {"concurrency_id": "publishing", "concurrency_limit": 4, "trigger_mode": "always_last"}


def publishing_tab(showing: gr.State, handed: gr.State) -> None:
    """Draw the tab and connect it. `showing` is the open tab, `handed` the folder that another tab hands over."""
    with gr.Tab(LABEL, id=TAB_ID) as tab:
        gr.HTML(
            "<p>Put what was made on the Hub, under your own name, with a card that is drawn from the records.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        with gr.Row(elem_id="publish-row"):
            with gr.Column(scale=7, min_width=320):
                parts = _draw_what()
            with gr.Column(scale=3, min_width=290, elem_id="publish-side"):
                parts |= _draw_who()
                parts |= upload_panel()
        parts["list"] = gr.HTML("", elem_id="publish-list", elem_classes="plainly")
    parts |= {"drawn": gr.State(""), "taken": gr.State(None)}
    timer = parts.pop("timer")  # it shows nothing
    asked = {name: parts[name] for name in (*_WISHES, "what", "card", "drawn", "token")}
    over = {"handed": handed, "taken": parts["taken"]}
    on(tab.select, opened, inputs=asked | over, outputs=parts, **_QUEUE)
    on(parts["what"].input, chosen, inputs=asked, outputs=parts, **_QUEUE)
    again = [event for name in ("repo", "licence", "base") for event in (parts[name].submit, parts[name].blur)]
    on([*again, parts["pull_request"].input], redrawn, inputs=asked, outputs=parts, **_QUEUE)
    on(parts["anew"].click, drawn_anew, inputs=asked, outputs=parts, **_QUEUE)
    on([parts["token"].submit, parts["token"].blur], signed, inputs=asked, outputs=parts, **_QUEUE)
    on(parts["card"].blur, checked, inputs={"card": parts["card"]}, outputs=parts, queue=False)
    on(parts["upload"].click, begin_upload, inputs=asked, outputs=parts, **_QUEUE)
    connect_upload(parts, timer, showing, LABEL)


_OWN = {"repo": "", "base": "", "licence": ""}
"""What another thing has of its own."""
_WISHES = ("repo", "licence", "private", "pull_request", "branch", "base")


def _draw_what() -> dict[str, Any]:
    parts: dict[str, Any] = {"nothing": gr.HTML("", elem_id="publish-nothing", elem_classes="plainly")}
    parts["what"] = gr.Dropdown(
        [],
        label="What",
        info="What was made here; or write a folder that begins with / or ./",
        elem_id="publish-what",
        **CHANGING,
    )
    with gr.Row(elem_classes="fields"):
        parts["repo"] = gr.Textbox(
            label="Repository", info="owner/name; it is made if it is not there", max_lines=1, elem_id="publish-repo"
        )
        parts |= form.widgets(UploadOrder, only=("licence",), prefix="publish")
    parts |= form.widgets(UploadOrder, only=("private",), prefix="publish")
    with gr.Accordion("Advanced", open=False, elem_id="publish-advanced"), gr.Row(elem_classes="fields"):
        parts |= form.widgets(UploadOrder, only=("base", "branch", "pull_request"), prefix="publish")
    parts["about"] = gr.HTML("", elem_id="publish-about", elem_classes="plainly")
    with gr.Accordion("The card", open=False, visible=False, elem_id="publish-card-fold") as parts["fold"]:
        parts["card"] = gr.Textbox(
            label="README.md", info="Yours to change; what it says now is from the records", lines=16, max_lines=24,
            elem_id="publish-card",
        )  # fmt: skip
        with gr.Row(elem_classes="button-row"):
            parts["anew"] = gr.Button("Draw it anew", min_width=150, scale=0, elem_id="publish-anew")
        parts["card_state"] = gr.HTML("", elem_id="publish-card-state", elem_classes="note-line")
        gr.HTML(publishing_view.about_cards(), elem_classes="plainly", padding=False)
        parts["preview"] = gr.Markdown("", elem_id="publish-preview", container=True)
    return parts


def _draw_who() -> dict[str, Any]:
    parts: dict[str, Any] = {"who": gr.HTML("", elem_id="publish-who", elem_classes="plainly")}
    on_a_space = _on_a_space()
    if on_a_space:
        gr.LoginButton(elem_id="publish-login")
    parts["token"] = gr.Textbox(
        label="Token",
        info="In place of the login of this machine. It is sent with what you press, and kept nowhere.",
        type="password",
        max_lines=1,
        visible=not on_a_space and not Settings.from_env().shared,
        elem_id="publish-token",
    )
    return parts


def _on_a_space() -> bool:
    """Whether people sign in by the Hub itself."""
    return bool(os.environ.get("OAUTH_CLIENT_ID"))


def _how_to_sign_in() -> str:
    if _on_a_space():
        return "Sign in with the button below."
    if Settings.from_env().shared:
        return "This Space has no sign-in: its README.md lacks hf_oauth: true."
    return "Enter a token below, or log in on this machine: hf auth login."


def _token(sign_in: gr.OAuthToken | None, typed: str) -> hub.Token:
    """What an event may use: a visitor's sign-in where the machine is shared, else what was typed or its login."""
    if Settings.from_env().shared:
        return sign_in.token if sign_in else False
    return typed.strip() or hub.machine_token()


def _account(token: hub.Token) -> Account | None:
    return hub.account(token) if token else None


# What is offered


def opened(
    sign_in: gr.OAuthToken | None,
    *,
    what: str | None,
    handed: ToPublish | None,
    taken: ToPublish | None,
    **values: Any,
) -> Iterator[Update]:
    """The tab when it is opened: what another tab has just handed over, else what is chosen, or was made last."""
    new = handed and handed != taken
    yield {"taken": handed}
    yield from _open(sign_in, what, handed.folder if handed and new else what, values)


def _open(
    sign_in: gr.OAuthToken | None, before: str | None, wanted: str | None, values: dict[str, Any]
) -> Iterator[Update]:
    there = choices()
    names: list[tuple[str, str]] = [(each.label, str(each.folder)) for each in there]
    picked = wanted or (names[0][1] if names else "")
    empty = publishing_view.visitors() if Settings.from_env().shared else publishing_view.nothing()
    yield {"what": gr.update(choices=names, value=picked or None), "nothing": "" if picked else empty}
    try:
        account = _account(_token(sign_in, values["token"]))
    except StudioError as error:
        yield {"who": wording.problem(error)}
    else:
        yield {"who": publishing_view.who(account, _how_to_sign_in())} | newest(account)
    if picked and (picked != before or not values["card"]):
        yield from _offered(sign_in, picked, values | _OWN, fresh=True)


def chosen(sign_in: gr.OAuthToken | None, *, what: str | None, **values: Any) -> Iterator[Update]:
    """Another thing: its own name, licence and card."""
    if what:
        yield from _offered(sign_in, what, values | _OWN, fresh=True)


def redrawn(sign_in: gr.OAuthToken | None, *, what: str | None, **values: Any) -> Iterator[Update]:
    """The same under another name, licence or base; a card that was changed by hand stays as it is."""
    if what:
        yield from _offered(sign_in, what, values, fresh=values["card"] == values["drawn"])


def drawn_anew(sign_in: gr.OAuthToken | None, *, what: str | None, **values: Any) -> Iterator[Update]:
    """The card as the records have it, whatever was written into it."""
    if what:
        yield from _offered(sign_in, what, values, fresh=True)


def signed(sign_in: gr.OAuthToken | None, *, token: str, what: str | None, **values: Any) -> Iterator[Update]:
    """Another token: who that is, and where they may publish."""
    try:
        account = _account(_token(sign_in, token))
    except StudioError as error:
        yield {"who": wording.problem(error)}
        return
    yield {"who": publishing_view.who(account, _how_to_sign_in())} | newest(account)
    if what and account and "/" not in values["repo"]:
        yield from _offered(sign_in, what, values | {"token": token}, fresh=values["card"] == values["drawn"])


def checked(*, card: str) -> Update:
    """What the Hub would say to a card, and how it looks."""
    return {"card_state": publishing_view.card_state(hub.card_faults(card)), "preview": _body(card)} if card else {}


def _offered(sign_in: gr.OAuthToken | None, what: str, values: dict[str, Any], *, fresh: bool) -> Iterator[Update]:
    yield {"note": wording.note("Looking it over…"), "about": "", "upload": gr.update(interactive=False)}
    token = _token(sign_in, values["token"])
    try:
        repo = _full_name(values["repo"].strip() or _name_for(what), token)
        found = _looked(what, repo, values, token)
    except StudioError as error:
        yield {"note": wording.problem(error), "fold": gr.update(visible=False)}
        return
    card = found.card if fresh else values["card"]
    yield {
        "repo": repo,
        "base": values["base"],
        "licence": gr.update(value=values["licence"], placeholder=found.licence),
        "about": publishing_view.offered(found),
        "nothing": "",
        "note": "",
        "fold": gr.update(visible=True),
        "card": card,
        "drawn": found.card,
        "upload": gr.update(interactive=True),
        **checked(card=card),
    }


def _looked(what: str, repo: str, values: dict[str, Any], token: hub.Token) -> Offer:
    folder = Path(what).expanduser()
    if not folder.is_absolute() and not what.startswith("."):
        raise InputError(f"{what!r} is nothing of the list.", "Choose one, or write a folder that begins with / or ./")
    return offer(folder.absolute(), repo, licence=values["licence"].strip(), base=values["base"].strip(), token=token)


def _name_for(what: str) -> str:
    """What to call a thing on the Hub: as its run or its folder is called."""
    label = next((each.label for each in choices() if str(each.folder) == what), Path(what).name)
    name = re.sub(r" \([^)]*\)$", "", label.partition(": ")[2] or label)
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:60] or "model"


def _full_name(repo: str, token: hub.Token) -> str:
    """With the owner in front, where somebody is signed in."""
    if "/" in repo or not token:
        return repo
    try:
        return f"{hub.account(token).name}/{repo}"
    except StudioError:
        return repo  # who is not known is told of beside it


def _body(card: str) -> str:
    """A card without what is for machines, and without pictures: those are not there yet."""
    text = re.sub(r"\A---.*?\n---\s*", "", card, count=1, flags=re.DOTALL)
    return re.sub(r"!\[([^\]]*)\]\([^)]*\)", r"*\1*", text)


# The upload


def begin_upload(
    sign_in: gr.OAuthToken | None, *, what: str | None, card: str, token: str, **values: Any
) -> Iterator[Update]:
    """Begin the upload, in a process of its own."""
    yield {"note": wording.note("Beginning…"), "upload": gr.update(interactive=False)}
    given = _token(sign_in, token)
    try:
        who = hub.account(given)
        owner = hub.namespace_of(values["repo"].strip(), who)
        who.check_may_write(owner)
        repo = f"{owner}/{values['repo'].strip().rpartition('/')[2]}"
        found = _looked(what or "", repo, values, given)
        wishes = {name: values[name] for name in ("private", "pull_request")}
        wishes |= {name: values[name].strip() for name in ("branch", "licence", "base")}
        order = UploadOrder(found.thing.folder, repo, who.name, **wishes)
        yield {"note": "", "repo": repo, "upload": gr.update(interactive=True)} | begun(order, card, found, given, who)
    except StudioError as error:
        yield {"note": wording.problem(error), "upload": gr.update(interactive=True)}
