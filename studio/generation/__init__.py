"""A prompt into text, piece by piece, by the model's own template and transformers' own decoding."""

from __future__ import annotations

from studio.generation.choosing import generation_config, only
from studio.generation.request import GenerationSettings, Prompt
from studio.generation.streaming import GenerationEvent, Reply, StopReason, stream

__all__ = [
    "GenerationEvent",
    "GenerationSettings",
    "Prompt",
    "Reply",
    "StopReason",
    "generation_config",
    "only",
    "stream",
]
