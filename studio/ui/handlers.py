"""The border between the studio and Gradio: handlers get keywords and return names, and errors become dialogs."""

from __future__ import annotations

import functools
import html
import inspect
import json
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import gradio as gr
from gradio.context import get_blocks_context

from studio import hub
from studio.errors import StudioError
from studio.events import Finished, Progress, Waiting
from studio.settings import Settings
from studio.ui import wording

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 16}
"""Events that need the model. They are let in together: the session keeps the line, and says who is in front."""

CHANGING: dict[str, Any] = {"allow_custom_value": True}
"""Of a drop-down whose choices change: Gradio would end an event with an error that still sends one of before."""

Update = dict[str, Any]
"""What a handler wants changed: the name of an output → its new value. What is not named stays."""


def on(
    triggers: Any,
    handler: Callable[..., Update | Iterator[Update]],
    *,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    **options: Any,
) -> Any:
    """Listen to events: `inputs` become the handler's keywords, and what it returns is named by `outputs`."""
    for output in outputs.values():
        if _stays_mounted(output) and output.visible is False:
            output.visible = "hidden"
    options = _quiet() | options
    return gr.on(triggers, _named(handler, outputs), inputs_kwargs=inputs, outputs=list(outputs.values()), **options)


def on_cancel(
    button: gr.Button,
    runs: list[Any],
    ended: Callable[..., Update],
    *,
    note: gr.HTML,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
) -> None:
    """Let a click on the button stop the runs; `ended` draws the page once one of them was stopped, or broke.

    Not before: Gradio drops a click that would start a run again while the server still lets go of the last one.
    """
    button.click(None, js=f"() => {json.dumps(wording.note('Stopping…'))}", outputs=note, cancels=runs)
    for run in runs:
        quiet = {"queue": False, **_quiet()}
        run.failure(_named(ended, outputs), inputs_kwargs=inputs, outputs=list(outputs.values()), **quiet)


def _quiet() -> dict[str, Any]:
    """Options of an event that shows no progress of Gradio's and is no endpoint.

    Gradio brings every output of every event up to date with each message, hidden or not, and looks for each of them in
    the whole page: replies were written ten times slower for it. So all events name the page's first component alone.
    """
    page = get_blocks_context()
    assert page is not None
    first = next((block for block in page.blocks.values() if isinstance(block, gr.HTML)), None)
    return {"show_progress": "hidden", "show_progress_on": first, "api_visibility": "private"}


def _stays_mounted(output: Any) -> bool:
    """Whether an output that is not shown is hidden rather than taken out of the page.

    What is shown for the first time is mounted by Gradio while other updates arrive, and was seen to stay away for good
    on a slow machine. For a button that is to stop something this will not do. Inside of what is itself taken out it
    stays as it was, for there Gradio shows all that is mounted.
    """
    around, enclosed = output.parent, False
    while around is not None:
        enclosed = enclosed or getattr(around, "visible", True) is False
        around = around.parent
    return isinstance(output, (gr.Button, gr.DownloadButton)) and not enclosed


def _shown(output: Any, value: Any) -> Any:
    """What an output becomes, as Gradio is told."""
    if isinstance(value, dict) and value.get("visible") is False and _stays_mounted(output):
        return value | {"visible": "hidden"}
    return value


def _named(handler: Callable[..., Any], outputs: dict[str, Any]) -> Callable[..., Any]:
    def by_component(update: Update) -> Any:
        if update:
            return {outputs[name]: _shown(outputs[name], value) for name, value in update.items()}
        # Gradio takes an empty dict for a value, and a list for the value of a single output.
        return [gr.skip()] * len(outputs) if len(outputs) > 1 else gr.skip()

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def run(*arguments: Any, **keywords: Any) -> Iterator[Any]:
            said = False
            with errors_as_dialogs():
                for update in handler(*arguments, **keywords):
                    said = True
                    yield by_component(update)
            if not said:  # Gradio would empty all outputs
                yield by_component({})
    else:

        @functools.wraps(handler)
        def run(*arguments: Any, **keywords: Any) -> Any:
            with errors_as_dialogs():
                return by_component(handler(*arguments, **keywords))

    return run


@contextmanager
def errors_as_dialogs() -> Iterator[None]:
    """Show a StudioError as it is worded; anything else is logged whole and shown as the bug it is."""
    try:
        yield
    except gr.Error:
        raise
    except StudioError as error:
        raise gr.Error(
            html.escape(error.hint), title=html.escape(error.message), duration=None, print_exception=False
        ) from error
    except Exception as error:  # the one place: whatever a handler raises must reach the person
        log.exception("A handler failed")
        raise gr.Error(
            f"{type(error).__name__}. The log of the studio has the details.",
            title="This is a bug in the studio",
            duration=None,
        ) from error


def answering(handler: Callable[..., Iterator[Update]]) -> Callable[..., Iterator[Update]]:
    """Show the output `stop` while the handler runs, and as `note` that it began, or what went wrong."""

    def run(*arguments: Any, **values: Any) -> Iterator[Update]:
        busy = {"stop": gr.update(visible=True)}
        yield busy | {"note": wording.note("Getting ready…")}
        try:
            yield from insisting(busy, handler(*arguments, **values))
            yield {"stop": gr.update(visible=False)}
        except StudioError as error:
            yield {"stop": gr.update(visible=False), "note": wording.problem(error)}

    return functools.update_wrapper(run, handler)


def insisting(shown: Update, updates: Iterator[Update]) -> Iterator[Update]:
    """Say once a second again what is shown meanwhile: on a slow machine a browser was seen to miss that it began."""
    said = time.monotonic()
    try:
        for update in updates:
            again = time.monotonic() - said > 1
            said = time.monotonic() if again else said
            yield shown | update if again else update
    finally:  # as `yield from` would: a handler that is stopped ends at once
        if isinstance(updates, Generator):
            updates.close()


def told(job: Generator[Progress | Waiting | Finished[Result], None, None]) -> Generator[Update, None, Result]:
    """Show the progress of a job as the output `note`; return its result."""
    with closing(job) as events:
        for event in events:
            if isinstance(event, Finished):
                return event.result
            yield {"note": wording.progress(event)}
    raise AssertionError("a job ends with Finished or raises")


def hub_token() -> hub.Token:
    """The token for the Hub: this machine's login where one person uses it, none where visitors share it."""
    return False if Settings.from_env().shared else hub.machine_token()
