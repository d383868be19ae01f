"""The page's public API: the words and fields of the command line, over HTTP."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from studio import jobs
from studio.events import Finished, TextDelta
from studio.generation import GenerationSettings, Prompt
from studio.jobs import GenerationRequest
from studio.loading import AUTO
from studio.models import ModelRef
from studio.tokenizer import Message
from studio.ui.handlers import MODEL_QUEUE, errors_as_dialogs, hub_token
from studio.ui.model_strip import plan_for


def public_api() -> None:
    """Declare the endpoints; call it inside the page."""
    gr.api(generate, api_name="generate", **MODEL_QUEUE)
    gr.api(inspect, api_name="inspect")


def generate(
    model: str,
    prompt: str,
    system: str = "",
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    seed: int | None = None,
) -> Iterator[str]:
    """Stream a model's reply to a prompt; every update is all of the reply so far.

    Args:
        model: starter, or a Hub id with an optional @revision
        prompt: what the person says
        system: the system prompt; empty leaves it out
        max_new_tokens: longest reply, in tokens
        temperature: lower is more certain; 0 always takes the likeliest token
        seed: the same seed gives the same reply
    """
    text = ""
    with errors_as_dialogs():
        sampling = {"greedy": True} if temperature == 0 else {"temperature": temperature}
        settings = GenerationSettings(max_new_tokens=max_new_tokens, seed=seed, **sampling)
        messages = (*([Message("system", system)] if system.strip() else []), Message("user", prompt))
        request = GenerationRequest(plan_for(model, AUTO), Prompt(messages), settings)
        with closing(jobs.generate(request, token=hub_token())) as events:
            for event in events:
                if isinstance(event, TextDelta):
                    text += event.text
                    yield text
                elif isinstance(event, Finished):
                    yield event.result.text


def inspect(model: str) -> dict[str, Any]:
    """Say what a checkpoint holds without loading or downloading it: files, tensors, dtypes, and what is wrong with it.

    Args:
        model: starter, or a Hub id with an optional @revision
    """
    with errors_as_dialogs(), closing(jobs.inspect(ModelRef.parse(model), token=hub_token())) as events:
        found = [event.result for event in events if isinstance(event, Finished)]
    return dataclasses.asdict(found[0])
