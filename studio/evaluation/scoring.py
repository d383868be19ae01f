"""How likely a model holds what comes next: the loss per token of held-out rows, and of a general text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.errors import Damaged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 4096
SCORE_BYTES = 400_000_000
"""What the scores of a batch may take in 32 bits, unless a single row takes more: one score for each known token."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens to read, and which of them count."""

    ids: tuple[int, ...]
    counts: tuple[bool, ...]

    @property
    def scored(self) -> int:
        """How many are scored: the first has nothing before it."""
        return sum(self.counts[1:])


def mean_loss(model: PreTrainedModel, passages: Sequence[Passage], say: Callable[[int], None]) -> float:
    """-log p per token that counts, given all before it in its passage; says how many are scored.

    Raises Damaged where the model gives no numbers.
    """
    import torch

    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    keeps = "logits_to_keep" in inspect.signature(base.forward).parameters
    total, done = 0.0, 0
    for batch in _batches(passages, SCORE_BYTES // (4 * model.get_input_embeddings().weight.shape[0])):
        width = max(len(passage.ids) for passage in batch)
        # Padded on the right and without a mask: nothing that counts looks to its right.
        ids = torch.tensor([[*passage.ids, *[0] * (width - len(passage.ids))] for passage in batch])
        counts = torch.tensor([[*passage.counts, *[False] * (width - len(passage.ids))] for passage in batch])
        first = min(passage.counts.index(True, 1) for passage in batch) - 1
        less = {"logits_to_keep": width - first} if keeps else {}
        with torch.no_grad():
            scores = model(input_ids=ids.to(model.device), use_cache=False, **less).logits
        scores = scores[:, first - width : -1]
        labels, counts = ids[:, first + 1 :].to(scores.device), counts[:, first + 1 :].to(scores.device)
        loss = torch.nn.functional.cross_entropy(scores[counts].float(), labels[counts], reduction="sum").item()
        if loss != loss or loss == float("inf"):
            raise Damaged(
                "The model gives scores that are not numbers.",
                "Go back to a checkpoint from before, and take a lower learning rate.",
            )
        total, done = total + loss, done + int(counts.sum())
        say(done)
    return total / done


def _batches(passages: Sequence[Passage], most: int) -> Iterator[list[Passage]]:
    """Of like length; a row that is longer than `most` is one by itself."""
    batch: list[Passage] = []
    for passage in sorted((passage for passage in passages if passage.scored), key=lambda passage: len(passage.ids)):
        if batch and len(passage.ids) * (len(batch) + 1) > min(most, BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(passage)
    if batch:
        yield batch
