"""Everything slow, as requests in and events out: both can be pickled, and a model never leaves."""

from __future__ import annotations

from studio.jobs.fetching import fetch
from studio.jobs.looking import convert, foresee, inspect
from studio.jobs.model import (
    SESSION,
    GenerationRequest,
    check_quality,
    generate,
    keep,
    load,
    measure_speed,
    unload,
)
from studio.jobs.opening import Opened, open_tokenizer

__all__ = [
    "SESSION",
    "GenerationRequest",
    "Opened",
    "check_quality",
    "convert",
    "fetch",
    "foresee",
    "generate",
    "inspect",
    "keep",
    "load",
    "measure_speed",
    "open_tokenizer",
    "unload",
]
