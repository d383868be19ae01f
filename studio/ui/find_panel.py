"""Find a model: search the Hub, see why one cannot be used, read its card, and put its name into the strip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio import hub
from studio.errors import StudioError
from studio.hub import ModelSummary, SearchQuery
from studio.models import ModelRef
from studio.ui import wording
from studio.ui.handlers import Update, hub_token, on

_SORTS = {"Most downloaded": "downloads", "Most liked": "likes", "Newest": "lastModified", "Trending": "trendingScore"}
_LICENSES = ["any", "apache-2.0", "mit", "cc-by-4.0", "llama3.2", "gemma"]
_LARGEST = {"any size": None} | {f"up to {size} B": size * 10**9 for size in (1, 4, 9, 35, 80)}
_PICTURES = re.compile(r"!\[[^\]]*\]\([^)]*\)|<img[^>]*>|<video.*?</video>", re.DOTALL)
_CARD_CHARS = 6000


def find_panel(model: gr.Dropdown) -> None:
    """Draw the panel and connect it; a chosen row goes into `model`."""
    with gr.Accordion("Find a model on the Hub", open=False, elem_id="find"):
        with gr.Row(elem_id="find-what"):
            asked = _what()
            search = gr.Button("Search", scale=0, min_width=104, elem_id="find-search")
        note = gr.HTML("", elem_id="find-note")
        listed = gr.Radio([], label="Models", show_label=False, container=False, visible=False, elem_id="find-list")
        card = gr.Markdown("", visible=False, elem_id="find-card")
    shown = {"note": note, "listed": listed, "card": card}
    on([search.click, asked["text"].submit], find, inputs=asked, outputs=shown)
    on(listed.input, choose, inputs={"name": listed}, outputs={**shown, "model": model})


def _what() -> dict[str, Any]:
    hint = "qwen, smollm, owner/name or its address"
    return {
        "text": gr.Textbox(label="Name", placeholder=hint, scale=3, min_width=170, elem_id="find-text"),
        "sort": gr.Dropdown(list(_SORTS), value="Most downloaded", label="First", min_width=160),
        "largest": gr.Dropdown(list(_LARGEST), value="any size", label="Size", min_width=110),
        "license_": gr.Dropdown(_LICENSES, value="any", label="Licence", allow_custom_value=True, min_width=110),
        "task": gr.Dropdown(["text-generation", "any"], value="text-generation", label="Task", min_width=150),
        "gated": gr.Dropdown(["any", "open only"], value="any", label="Terms", min_width=110),
    }


def find(*, text: str, sort: str, largest: str, license_: str, task: Any, gated: Any) -> Iterator[Update]:
    """List what the Hub has."""
    yield {"note": wording.note("Asking the Hub…"), "card": gr.update(visible=False)}
    try:
        query = SearchQuery(
            text=text.strip(),
            task=task,
            sort=_SORTS[sort],  # type: ignore[arg-type]
            license=None if license_ in ("any", "") else license_,
            gated=gated,
            max_parameters=_LARGEST[largest],
        )
        found = hub.search(query, token=hub_token())
    except StudioError as error:
        yield {"note": wording.problem(error)}
        return
    words = "Choose one to put it above and to read its card." if found else "The Hub has nothing by these words."
    choices = [(_told(summary), summary.repo) for summary in found]
    listed = gr.update(choices=choices, value=None, visible=bool(choices))
    yield {"note": wording.done(words), "listed": listed}


def _told(found: ModelSummary) -> str:
    """A model in one line: its name, how large and how well known it is, and what stands in the way."""
    facts = [
        f"{wording.count(found.parameters)} parameters" if found.parameters else "",
        f"{wording.count(found.downloads)} downloads",
        f"{wording.count(found.likes)} likes" if found.likes else "",
        f"{found.updated:%b %Y}" if found.updated else "",
        found.license or "no licence told",
        f"not usable: {found.why_not}" if found.why_not else found.remark or "",
    ]
    return f"{found.repo}  ·  {' · '.join(fact for fact in facts if fact)}"


def choose(*, name: str) -> Iterator[Update]:
    """Put a model into the strip and show its card."""
    yield {"model": name, "note": wording.note("Reading its card…")}
    try:
        card = hub.card(ModelRef.parse(name), token=hub_token())
    except StudioError as error:
        yield {"note": wording.problem(error), "card": gr.update(visible=False)}
        return
    facts = [("Licence", card.license), ("Base", ", ".join(card.base_models)), ("Languages", ", ".join(card.languages))]
    told = " · ".join(f"{label}: {value}" for label, value in facts if value)
    # Pictures would be asked of other hosts.
    text = _PICTURES.sub("", card.text).strip()[:_CARD_CHARS] or "This model has no card."
    yield {"note": wording.done(f"{name} is chosen. {told}"), "card": gr.update(value=text, visible=True)}
