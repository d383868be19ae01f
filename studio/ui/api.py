"""The page's public API: the words and fields of the command line, over HTTP."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from studio import jobs
from studio.errors import InputError
from studio.events import Finished, TextDelta
from studio.generation import GenerationSettings, Prompt
from studio.jobs import GenerationRequest
from studio.loading import AUTO
from studio.memory import Question
from studio.models import ModelRef
from studio.tokenizer import Message
from studio.ui.handlers import MODEL_QUEUE, errors_as_dialogs, hub_token
from studio.ui.model_strip import plan_for

LONGEST_TEXT = 100_000
"""Characters in one call: each may be a token with a dozen facts."""


def public_api() -> None:
    """Declare the endpoints; call it inside the page."""
    gr.api(generate, api_name="generate", **MODEL_QUEUE)
    gr.api(inspect, api_name="inspect")
    gr.api(estimate, api_name="estimate", concurrency_id="estimate", concurrency_limit=2)
    gr.api(tokenize, api_name="tokenize", concurrency_id="text", concurrency_limit=8)


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


def estimate(model: str, task: str = "train", device: str = "", more: str = "", dry: bool = False) -> dict[str, Any]:
    """Say what a model would take in memory to generate or to be trained: the peak by part, which devices it fits, the
    largest context and batch, and the smallest changes that make it fit. Downloads no weights.

    `more` may have precision, double_quant, context, batch, reply,
    cache_dtype, cache, method, rank, targets, dropout, adapter_dtype, kbit_preparation, optimizer, checkpointing,
    attention, loss, packing, accumulation, autocast, devices, strategy and profile.

    Args:
        model: starter, a Hub id with an optional @revision, or sizes such as 8B, 32 layers
        task: train or generate
        device: which device "make it fit" is for, t4 or a100-80 for example, or this; empty for none
        more: the rest of the question as the query of a link: precision=nf4&context=4096&batch=2
        dry: carry out the real step on tensors without content too, which takes seconds and is more exact
    """
    with errors_as_dialogs():
        said = urlencode({"model": model, "task": task, "device": device})
        question = Question.from_query(f"{said}&{more.removeprefix('?')}")
        with closing(jobs.estimate(question, token=hub_token(), dry=dry)) as events:
            found = [event.result for event in events if isinstance(event, Finished)]
    answer = found[0]
    return {"peak": answer.estimate.peak, "query": question.query, **dataclasses.asdict(answer)}


def tokenize(model: str, text: str, special_tokens: bool = True) -> dict[str, Any]:
    """Say what a model reads in a text: its tokens with ids, bytes and positions, every stage of the tokenizer, and the
    text as the first message of a chat. Downloads the tokenizer alone, never the weights.

    Args:
        model: starter, or a Hub id with an optional @revision
        text: what is read, at most 100,000 characters
        special_tokens: whether the tokens that the tokenizer puts around a text are among them
    """
    with errors_as_dialogs():
        if len(text) > LONGEST_TEXT:
            raise InputError(
                f"The text has {len(text):,} characters.", f"Send at most {LONGEST_TEXT:,}, or use the command line."
            )
        work = jobs.tokenize_text(ModelRef.parse(model), text, special_tokens=special_tokens, token=hub_token())
        with closing(work) as events:
            found = [event.result for event in events if isinstance(event, Finished)]
    return dataclasses.asdict(found[0])
