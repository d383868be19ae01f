"""Whether several rows in one sequence stay apart in a model: tried on the model itself, for no list can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LENGTHS = (13, 19, 9)
"""Of the documents; longer than the shortest sliding window that is tested."""
_WITHIN = {"fp32": 1e-3, "less": 5e-2}
"""Measured: 4e-7 in fp32 where rows stay apart, 1e-2 in bf16 for rounding, and 0.4 and more where they do not."""


@dataclass(frozen=True, slots=True)
class PackingTest:
    """What packing did to documents of random tokens."""

    apart: bool
    """Each reads as if it were alone."""
    error: float
    """How far the logits are from those of the documents alone, relative; infinite where it cannot be told."""
    reason: str


def packs_apart(model: Any) -> PackingTest:
    """Read random documents one by one and in one sequence, as training would. The model stays as it is.

    As training would: positions that begin anew with each document, no mask and no cache.
    """
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone, packed = _both(model)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as failure:
        words = " ".join(str(failure).split())[:160]
        return PackingTest(False, float("inf"), f"It cannot read rows in one sequence: {words}")
    finally:
        model.train(training)
    error = float((alone - packed).norm() / alone.norm())
    within = _WITHIN["fp32" if _is_fp32(model) else "less"]
    if not error <= within:
        return PackingTest(False, error, f"Rows in one sequence see each other here: the logits change by {error:.1%}.")
    return PackingTest(True, error, f"Three rows in one sequence read as they do alone, to {error:.0e}.")


def _both(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the documents alone, and in one sequence."""
    import torch

    embedding = model.get_input_embeddings().weight
    chance = torch.Generator().manual_seed(0)  # its own, so that a run is the same with and without the test
    top = min(model.config.get_text_config().vocab_size, len(embedding))
    documents = [torch.randint(0, top, (1, length), generator=chance).to(embedding.device) for length in _LENGTHS]
    alone = [model(input_ids=document, use_cache=False).logits for document in documents]
    positions = [torch.arange(length, device=embedding.device)[None] for length in _LENGTHS]
    packed = model(input_ids=torch.cat(documents, 1), position_ids=torch.cat(positions, 1), use_cache=False).logits
    return torch.cat(alone, 1).float(), packed.float()


def _is_fp32(model: Any) -> bool:
    import torch

    quantized = getattr(model, "is_quantized", False)
    return not quantized and all(p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point())
