"""Rules that fire where they matter: pure functions of facts, each a sentence with its number and where it is from."""

from __future__ import annotations

from studio.advice.conversations import on_conversation
from studio.advice.loading import on_checkpoint, on_loading
from studio.advice.memory import on_memory
from studio.advice.merging import on_batch, on_merge
from studio.advice.publishing import on_card, on_publishing
from studio.advice.rows import on_examples, on_row
from studio.advice.rule import Advice, Severity
from studio.advice.training import Wish, on_adapter, on_training

__all__ = [
    "Advice",
    "Severity",
    "Wish",
    "on_adapter",
    "on_batch",
    "on_card",
    "on_checkpoint",
    "on_conversation",
    "on_examples",
    "on_loading",
    "on_memory",
    "on_merge",
    "on_publishing",
    "on_row",
    "on_training",
]
