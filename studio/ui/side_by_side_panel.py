"""One prompt to the base and to adapters of it, in columns, and a vote on which is best, with the names hidden."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import gradio as gr

from studio import runs
from studio.errors import InputError, StudioError
from studio.events import Finished
from studio.fields import limits
from studio.generation import GenerationSettings, Prompt
from studio.jobs.comparing import Column, ComparisonRequest, InColumn, compare, without_strength
from studio.loading import LoadPlan
from studio.merges.adapters import made
from studio.tokenizer import Message
from studio.ui import form, wording
from studio.ui import side_by_side_view as view
from studio.ui.handlers import CHANGING, MODEL_QUEUE, Update, answering, hub_token, on, on_cancel
from studio.ui.model_strip import default_plan
from studio.ui.side_by_side_view import Round, Side, Tally

ROWS = 8
"""Adapters that can be chosen; those without one are hidden until they are added."""
NO_DIFFERENCE = "No difference"
_PACE = 20_000
"""Characters a second that a browser draws with ease; it draws all columns for each piece."""
_BEAT = 0.4
"""Seconds between two drawings of the columns."""
_STRENGTH = "0 is the base, 1 the adapter as it was trained"


def side_by_side_panel(plan: gr.State, asked: dict[str, Any]) -> None:
    """Draw the panel and connect it. `asked` are the widgets of the tab by name: mode, system prompt and sampling."""
    with gr.Tab("Side by side", id="side-by-side") as tab:
        gr.HTML(
            "<p>One prompt, answered by the base and by as many adapters as you like, with the same seed and settings."
            " They go on the one model in memory, one after another.</p>",
            padding=False,
            elem_classes="panel-line",
        )
        rows, shown = _draw_rows()
        drawn = rows | shown | _draw_prompt() | _draw_vote()
    values = {name: widget for name, widget in rows.items() if name.startswith(("adapter_", "strength_"))}
    count = {"count": drawn["count"]}
    on(tab.select, opened, inputs=values | count | {"plan": plan}, outputs=drawn, queue=False)
    on(drawn["add"].click, added, inputs=count, outputs=drawn, queue=False)
    for number in range(ROWS):
        one = {"adapter": rows[f"adapter_{number}"]}
        strength = {"strength": rows[f"strength_{number}"]}
        on(rows[f"adapter_{number}"].input, looked_at, inputs=one, outputs=strength, queue=False)
        on(rows[f"drop_{number}"].click, _dropping(number), inputs=values | count, outputs=drawn, queue=False)
    told = values | count | {"plan": plan, "prompt": drawn["prompt"], "blind": drawn["blind"]} | asked
    begin = [drawn["begin"].click, drawn["prompt"].submit]
    # No more than it changes: the page goes over every output of an event with each piece of text.
    answers = {name: drawn[name] for name in ("stop", "note", "found", "choice", "last")}
    running = on(begin, ask_all, inputs=told, outputs=answers, **MODEL_QUEUE)
    on_cancel(drawn["stop"], [running], stopped, note=drawn["note"], inputs={}, outputs=answers)
    voted = {"last": drawn["last"], "votes": drawn["votes"], "choice": drawn["choice"]}
    on(drawn["choice"].input, vote, inputs=voted, outputs=drawn, queue=False)
    on(drawn["clear"].click, clear, inputs={}, outputs=drawn, queue=False)


def _draw_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    bounds = limits(Column)["strength"]
    rows: dict[str, Any] = {}
    with gr.Column(elem_id="sides-rows"):
        for number in range(ROWS):
            with gr.Row(visible=number == 0, elem_classes="side-row", elem_id=f"side-{number + 1}") as row:
                rows[f"adapter_{number}"] = gr.Dropdown(
                    [], value=None, label=f"Adapter {number + 1}", info="A run, its folder, or owner/name on the Hub",
                    scale=3, min_width=180, **CHANGING,
                )  # fmt: skip
                rows[f"strength_{number}"] = gr.Slider(
                    bounds["min"], bounds["max"], value=1, step=bounds["step"], label=f"Strength {number + 1}",
                    info=_STRENGTH, scale=2, min_width=150,
                )  # fmt: skip
                rows[f"drop_{number}"] = gr.Button("✕", size="sm", scale=0, min_width=36, elem_classes="drop-turn")
            rows[f"row_{number}"] = row
    add = gr.Button("Add an adapter", size="sm", min_width=130, scale=0, elem_id="sides-add")
    return rows, {"add": add, "count": gr.State(1)}


def _draw_prompt() -> dict[str, Any]:
    prompt = gr.Textbox(
        label="Prompt", placeholder="Ask all of them", lines=2, max_lines=8, submit_btn=False, elem_id="sides-prompt"
    )
    with gr.Row(elem_classes="button-row"):
        begin = gr.Button("Ask all", variant="primary", min_width=130, scale=0, elem_id="sides-begin")
        stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="sides-stop")
        blind = gr.Checkbox(label="Hide names until I vote", container=False, min_width=200, elem_id="sides-blind")
    note = gr.HTML("", elem_id="sides-note", elem_classes="note-line")
    found = gr.HTML("", elem_id="sides-found", elem_classes="plainly")
    return {"prompt": prompt, "begin": begin, "stop": stop, "blind": blind, "note": note, "found": found}


def _draw_vote() -> dict[str, Any]:
    choice = gr.Radio([], label="Which is best?", visible=False, elem_id="sides-choice")
    tally = gr.HTML("", elem_id="sides-tally", elem_classes="bare")
    clear = gr.Button("Clear the votes", size="sm", min_width=140, scale=0, visible=False, elem_id="sides-clear")
    states = {"last": gr.State(None), "votes": gr.State(Tally())}
    return {"choice": choice, "tally": tally, "clear": clear, **states}


def opened(*, plan: LoadPlan | None, count: int, **values: Any) -> Update:
    """Offer the adapters of the workspace; the first row begins with the one that the page talks to, or the newest."""
    there = made()
    choices = [(each.label, each.value) for each in there]
    update: Update = {f"adapter_{number}": gr.update(choices=choices) for number in range(ROWS)}
    if count == 1 and not values["adapter_0"] and (first := _first(plan)):
        update["adapter_0"] = gr.update(choices=choices, value=first)
        update |= looked_at(adapter=first, name="strength_0")
    return update


def _first(plan: LoadPlan | None) -> str:
    plan = plan or default_plan()
    if plan.adapter:
        return next((each.value for each in made() if each.folder == plan.adapter), str(plan.adapter))
    fitting = (each.run for each in made() if each.run and runs.of(each.run).document.run.plan.model == plan.model)
    return next(fitting, "")


def looked_at(*, adapter: str | None, name: str = "strength") -> Update:
    """Whether an adapter has a strength; where it has none, or cannot be read, its row says so."""
    why = ""
    if adapter:
        try:
            why = without_strength(adapter)
        except StudioError as error:
            why = error.message
    if why:
        return {name: gr.update(value=1, interactive=False, info=why)}
    return {name: gr.update(interactive=True, info=_STRENGTH)}


def added(*, count: int) -> Update:
    """One row more."""
    count = min(count + 1, ROWS)
    return {
        "count": count,
        f"row_{count - 1}": gr.update(visible=True),
        "add": gr.update(interactive=count < ROWS),
    }


def _dropping(number: int) -> Any:
    def dropped(*, count: int, **values: Any) -> Update:
        """Take a row out; those below move up, and the last one that is left is emptied."""
        kept = [(values[f"adapter_{at}"], values[f"strength_{at}"]) for at in range(count) if at != number]
        rows = kept or [(None, 1)]
        update: Update = {"count": len(rows), "add": gr.update(interactive=True)}
        for at in range(ROWS):
            update[f"row_{at}"] = gr.update(visible=at < len(rows))
            adapter, strength = rows[at] if at < len(rows) else (None, 1)
            update[f"adapter_{at}"] = adapter
            update[f"strength_{at}"] = gr.update(value=strength, **_without_value(adapter))
        return update

    return dropped


def _without_value(adapter: str | None) -> dict[str, Any]:
    found = looked_at(adapter=adapter)["strength"]
    return {name: found[name] for name in ("interactive", "info")}


@answering
def ask_all(
    *, plan: LoadPlan | None, count: int, prompt: str, blind: bool, mode: str, system: str, **values: Any
) -> Iterator[Update]:
    """Ask the base and every adapter, and show what each says as it says it."""
    yield {"choice": gr.update(visible=False), "found": "", "last": None}
    columns = _columns(count, values)
    names = view.named(columns, {each.value: each.label for each in made()})
    if blind:
        # Also in another order than they were chosen in: who answers first would be known by it.
        order = random.SystemRandom().sample(range(len(columns)), len(columns))
        columns, names = [columns[at] for at in order], [names[at] for at in order]
    settings = form.read(GenerationSettings, {name: values[name] for name in GenerationSettings.__dataclass_fields__})
    request = ComparisonRequest(
        replace(plan or default_plan(), adapter=None), tuple(columns), _prompt(prompt, mode, system), settings
    )
    asked = Round(tuple(Side(name) for name in names), blind)
    yield from _followed(request, asked)
    yield {"last": asked, "found": view.columns(asked), "note": "", **_ballot(asked)}


def _columns(count: int, values: dict[str, Any]) -> list[Column]:
    chosen = [(values[f"adapter_{number}"], values[f"strength_{number}"]) for number in range(count)]
    columns = [Column(str(adapter).strip(), float(strength)) for adapter, strength in chosen if adapter]
    if not columns:
        raise InputError("No adapter is chosen.", "Choose a run, or write a folder or a name of the Hub.")
    if len(set(columns)) < len(columns):
        raise InputError("Two columns are the same.", "Choose another adapter, or another strength.")
    return [Column(), *columns]


def _prompt(text: str, mode: str, system: str) -> Prompt:
    if mode != "Chat":
        return Prompt(text=text)
    before = (Message("system", system.strip()),) if system.strip() else ()
    if not text.strip():
        raise InputError("There is no prompt.", "Write one for all of them.")
    return Prompt((*before, Message("user", text)))


def _followed(request: ComparisonRequest, asked: Round) -> Iterator[Update]:
    """The columns again and again, and beside them what concerns all of them."""
    said = since = 0.0
    with closing(compare(request, token=hub_token())) as events:
        for event in events:
            match event:
                case InColumn(column, news):
                    asked.sides[column].heard(news)
                    written = sum(len(side.text) for side in asked.sides)
                    if time.monotonic() - since > max(_BEAT, written / _PACE):
                        since = time.monotonic()
                        yield {"found": view.columns(asked), "note": wording.note(_done_of(asked.sides))}
                case Finished():
                    pass
                case _ if time.monotonic() - said > _BEAT:
                    said = time.monotonic()
                    yield {"note": wording.progress(event)}


def _done_of(sides: Sequence[Side]) -> str:
    return f"{sum(side.end is not None for side in sides)} of {len(sides)} have answered"


def _ballot(asked: Round) -> Update:
    """What can be voted for, where there are two at least."""
    if len(asked.offered) < 2:
        return {}
    words = "Which is best? The names come with your vote." if asked.blind else "Which is best?"
    offered = [(each if asked.blind else asked.sides[at].name, each) for each, at in asked.offered.items()]
    choices = [*offered, (NO_DIFFERENCE, NO_DIFFERENCE)]
    return {"choice": gr.update(choices=choices, value=None, label=words, visible=True)}


def vote(*, last: Round | None, votes: Tally, choice: str | None) -> Update:
    """Count a vote, and name the columns. One vote a round."""
    if last is None or last.choice or not choice or choice not in (*last.offered, NO_DIFFERENCE):
        return {}
    at = last.offered.get(choice)
    among = [last.sides[number].name for number in last.offered.values()]
    votes = votes.voted(among, None if at is None else last.sides[at].name)
    last = replace(last, choice=choice)
    return {
        "last": last,
        "votes": votes,
        "found": view.columns(last),
        "choice": gr.update(visible=False),
        "tally": view.tally(votes),
        "clear": gr.update(visible=True),
    }


def clear() -> Update:
    """Forget all votes."""
    return {"votes": Tally(), "tally": "", "clear": gr.update(visible=False)}


def stopped() -> Update:
    """After Stop: what was written stays, and there is nothing to vote on."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped. The base in memory is as it was.")}
