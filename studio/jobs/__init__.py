"""Everything slow, as requests in and events out: both can be pickled, and a model never leaves."""

from __future__ import annotations

from studio.jobs.conversing import Asked, Shown, show_conversation
from studio.jobs.estimating import Answer, Fit, Limits, estimate, facts_of, record
from studio.jobs.fetching import fetch
from studio.jobs.learning import Written, learn_tokenizer
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
from studio.jobs.previewing import Previewed, pasted, prepare, preview, rows_of
from studio.jobs.rows import Measured, Offer, Upload, look_at_dataset, measure_rows, read_rows
from studio.jobs.tokenizing import Excerpt, Tokenization, compare_tokenizers, excerpt, tokenize_text

__all__ = [
    "SESSION",
    "Answer",
    "Asked",
    "Excerpt",
    "Fit",
    "GenerationRequest",
    "Limits",
    "Measured",
    "Offer",
    "Opened",
    "Previewed",
    "Shown",
    "Tokenization",
    "Upload",
    "Written",
    "check_quality",
    "compare_tokenizers",
    "convert",
    "estimate",
    "excerpt",
    "facts_of",
    "fetch",
    "foresee",
    "generate",
    "inspect",
    "keep",
    "learn_tokenizer",
    "load",
    "look_at_dataset",
    "measure_rows",
    "measure_speed",
    "open_tokenizer",
    "pasted",
    "prepare",
    "preview",
    "read_rows",
    "record",
    "rows_of",
    "show_conversation",
    "tokenize_text",
    "unload",
]
