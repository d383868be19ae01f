"""What each precision costs in speed on this machine, measured on the starter model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from studio import generation, loading
from studio.events import Finished, Progress
from studio.generation import GenerationSettings, Prompt, Reply
from studio.loading import LoadedModel, LoadPlan
from studio.models import STARTER, Precision
from studio.settings import STARTER_FOLDER
from studio.tokenizer import Message

COMPARED = (Precision.FP32, Precision.BF16, Precision.FP16, Precision.INT8, Precision.NF4)
_STORY = Prompt((Message("user", "Tell me a story about a fox."),))
_LONG = Prompt(text="The fox went to the river and asked the heron for help. " * 40)


@dataclass(frozen=True, slots=True)
class Speed:
    """One precision, in tokens a second. On a larger model the ratios shift towards fewer bytes a weight."""

    precision: Precision
    writing: float
    reading: float
    """How fast a prompt of some hundred tokens is read."""


def measure(precisions: Sequence[Precision] = COMPARED) -> Generator[Progress, None, tuple[Speed, ...]]:
    """Load the starter in each precision, let it tell one story and read one long text."""
    found = []
    for precision in precisions:
        loaded = yield from loading.load(LoadPlan(STARTER, precision), STARTER_FOLDER)
        yield from _reply(loaded, _STORY, 8)  # the first one is slow: threads start, 4-bit weights are put in order
        story = yield from _reply(loaded, _STORY, 120)
        long = yield from _reply(loaded, _LONG, 1)
        found.append(Speed(precision, story.tokens_per_second, long.prompt_tokens / long.first_token_seconds))
        del loaded
    return tuple(found)


def _reply(loaded: LoadedModel, prompt: Prompt, tokens: int) -> Generator[Progress, None, Reply]:
    for event in generation.stream(loaded, prompt, GenerationSettings(max_new_tokens=tokens, greedy=True)):
        if isinstance(event, Finished):
            return event.result
        if isinstance(event, Progress):
            yield event
    raise AssertionError("a stream ends with Finished or raises")
