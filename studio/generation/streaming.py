"""From a prompt to a reply: the model runs on a thread of its own, and its text comes out in time with a page."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from threading import Event
from typing import TYPE_CHECKING

from studio.errors import Damaged, InputError
from studio.events import Finished, Phase, Progress, TextDelta
from studio.generation.choosing import generation_config, only
from studio.generation.decoding import Decoder
from studio.generation.listening import Listener, Said
from studio.generation.request import GenerationSettings, Prompt
from studio.heartbeat import heartbeat
from studio.tokenizer import encode, render

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from studio.loading import LoadedModel

BEAT, LONG_BEAT = 0.05, 0.1
"""Seconds between two pieces of text: a browser paints 2,000 single tokens in 30 s, and batched so in less than 2 s.

A reply that has become long is told in longer pieces: each costs the model some milliseconds of Python's lock, and
behind a page of text nobody sees the difference."""
LONG = 256  # tokens


class StopReason(StrEnum):
    """Why a reply ended."""

    END = "end"  # the model said so itself, with its end-of-turn token
    LENGTH = "length"  # max_new_tokens
    CONTEXT = "context"  # the model cannot read any further


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply and how it came about."""

    text: str
    prompt_tokens: int
    tokens: int
    """Generated, the end-of-turn token included."""
    first_token_seconds: float
    """From the start of the prefill to the first token."""
    seconds: float
    stop: StopReason
    seed: int
    """What the random numbers began from: asked for or drawn."""
    context: int | None
    """Tokens that the model reads at most, prompt and reply together; None where its config does not say."""

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding: the first token, which the prefill pays for, is left out."""
        decoding = self.seconds - self.first_token_seconds
        return (self.tokens - 1) / decoding if self.tokens > 1 and decoding > 0 else 0.0


GenerationEvent = Progress | TextDelta | Finished[Reply]


def stream(loaded: LoadedModel, prompt: Prompt, settings: GenerationSettings) -> Generator[GenerationEvent, None, None]:
    """Generate a reply. The last event is `Finished(Reply)`; closing the iterator stops within a layer's time.

    Raises InputError where the prompt is longer than the context or the template refuses it.
    """
    ids = _prompt_ids(loaded.tokenizer, prompt)
    _check_known(loaded, ids)
    room = _room(loaded.resident.context, len(ids))
    length = min(settings.max_new_tokens, room) if room is not None else settings.max_new_tokens
    seed = settings.seed if settings.seed is not None else random.getrandbits(32)
    decoder = Decoder(loaded.tokenizer, ids)
    config = generation_config(loaded.model, loaded.tokenizer, settings, length)

    def work(say: Callable[[Said], None], stop: Event) -> tuple[list[int], float, float]:
        return _generate(loaded.model, ids, config, seed, Listener(say, stop))

    latest = Progress(Phase.PREFILL)

    def tell(said: list[Said]) -> Iterator[GenerationEvent]:
        nonlocal latest
        if text := decoder.take([token for item in said if isinstance(item, list) for token in item]):
            yield TextDelta(text, decoder.count)
            return
        if decoder.count:
            latest = Progress(Phase.DECODE, decoder.count)
        yield (latest := next((item for item in reversed(said) if isinstance(item, Progress)), latest))

    yield latest
    new, first_token, seconds = yield from heartbeat(
        work, tell, every=lambda: BEAT if decoder.count < LONG else LONG_BEAT
    )
    if rest := decoder.finish(new):
        yield TextDelta(rest, len(new))
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    reason = StopReason.END if new and new[-1] in eos else StopReason.LENGTH if length != room else StopReason.CONTEXT
    yield Finished(Reply(decoder.text, len(ids), len(new), first_token, seconds, reason, seed, loaded.resident.context))


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    if prompt.messages:
        text = render(tokenizer, prompt.messages, continue_last=prompt.continue_last)
        return encode(tokenizer, text, special_tokens=False)
    return encode(tokenizer, prompt.text, special_tokens=True)


def _check_known(loaded: LoadedModel, ids: list[int]) -> None:
    """Raise where the model cannot look up an id, or is given none."""
    if not ids:
        raise InputError("The prompt is empty once it is made into tokens.", "Type something else.")
    known = loaded.model.get_input_embeddings().weight.shape[0]
    if max(ids) >= known:
        raise Damaged(
            f"The tokenizer makes a token with the number {max(ids):,}, and the model knows {known:,} tokens.",
            "Its tokenizer belongs to another model. Take the tokenizer files from the model it was made from.",
        )


def _room(context: int | None, prompt_tokens: int) -> int | None:
    """Tokens that still fit behind the prompt; None where the model sets no limit."""
    if context is None:
        return None
    if prompt_tokens >= context:
        raise InputError(
            f"The prompt has {prompt_tokens:,} tokens and this model reads at most {context:,}.",
            "Shorten it, or clear the chat and start a new one.",
        )
    return context - prompt_tokens


def _generate(
    model: PreTrainedModel, ids: list[int], config: GenerationConfig, seed: int, listener: Listener
) -> tuple[list[int], float, float]:
    """New ids, seconds to the first of them, seconds in all."""
    import torch

    beams = config.num_beams > 1
    prompt = torch.tensor([ids], device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    # The global random state is the only one that generate() takes; put back, it is nobody else's concern.
    with torch.random.fork_rng(devices), listener.on(model), only(config, model):
        torch.manual_seed(seed)
        started = time.monotonic()
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=config,
            streamer=None if beams else listener.streamer(),
            stopping_criteria=[listener.criteria()] if beams else None,
        )
        ended = time.monotonic()
    first = listener.first_token or ended
    return output[0, len(ids) :].tolist(), first - started, ended - started
