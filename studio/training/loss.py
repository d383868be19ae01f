"""The loss of a batch: only trained tokens are scored, a piece at a time, so that their logits are never all there."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from studio.training.batches import IGNORED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PIECE = 1 << 24
"""Logits that are held at once: 64 MB in 32 bit."""
SAME = 1e-3
"""How far two ways to compute the same may be apart, relative to the value; one that forgets something is further."""
_CHANGES_LOGITS = (
    *("final_logit_softcapping", "logits_soft_cap", "output_logit_softcapping", "logit_scale", "logits_scaling"),
    *("lm_head_multiplier", "output_router_logits", "logits_processor", "dim_model_base", "mup_width_multiplier"),
)
"""Fields of a config by which a model computes more than its head (Gemma 2, Cohere, Granite, Falcon-H1, MiniCPM)."""


@dataclass(frozen=True, slots=True)
class Head:
    """A model in two parts: what makes hidden states, and the layer that scores them."""

    backbone: Any
    scores: Any


def computing_in(device: str, compute: str) -> AbstractContextManager[Any]:
    """What a forward pass runs in, for fp32, bf16 or fp16."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(compute)
    return torch.autocast(device, dtype) if dtype else nullcontext()


def plain_head(model: PreTrainedModel) -> Head | None:
    """The parts of a model whose loss is the cross-entropy of its head and nothing else; None for every other one.

    Believed only where both ways give the same loss on a short text.
    """
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    if any(getattr(config, name, None) not in (None, False) for name in _CHANGES_LOGITS):
        return None
    backbone, scores = getattr(inner, inner.base_model_prefix, None), inner.get_output_embeddings()
    if backbone is None or backbone is inner or scores is None:
        return None
    head, batch = Head(backbone, scores), _short_text(model, config.vocab_size)
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            try:
                ours = summed(model, head, batch) / count(batch)
            except (TypeError, AttributeError):
                return None  # it asks for more than ids, or gives something else than hidden states
            own = summed(model, None, batch) / count(batch)
    finally:
        model.train(was)
    return head if abs(ours - own) <= SAME * abs(own) else None


def _short_text(model: PreTrainedModel, entries: int) -> dict[str, Any]:
    import torch

    ids = torch.randint(entries, (1, 12), generator=torch.Generator().manual_seed(0)).to(model.device)
    return {"input_ids": ids, "labels": ids}


def count(batch: dict[str, Any]) -> int:
    """Tokens of a batch that are scored."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def summed(model: Any, head: Head | None, batch: dict[str, Any]) -> torch.Tensor:
    """The sum of the losses of all trained tokens of a batch; without a head as the model itself computes it."""
    trained = count(batch)
    if head is None or not trained:
        loss = model(**batch, use_cache=False).loss
        # The mean over no tokens is not a number; the sum is nothing, of which gradients are wanted all the same.
        return loss * trained if trained else sum(p.sum() * 0.0 for p in model.parameters() if p.requires_grad)
    import torch

    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    hidden = head.backbone(**inputs, use_cache=False).last_hidden_state[:, :-1]
    targets = batch["labels"][:, 1:].to(hidden.device)
    places = (targets != IGNORED).reshape(-1).nonzero().squeeze(1)
    device = head.scores.weight.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return scored(hidden.reshape(-1, hidden.shape[-1])[places], head.scores, targets.reshape(-1)[places], dtype)


def scored(hidden: torch.Tensor, scores: Any, targets: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The sum of the losses of hidden states, rows × width, by the layer that scores them.

    `dtype` is what autocast computes in, None without it. A frozen head is cast to it for a moment, as a whole.
    """
    import torch

    weight = scores.weight
    hidden, targets = hidden.to(weight.device), targets.to(weight.device)
    rows = max(1, PIECE // scores.out_features) if hasattr(scores, "out_features") else 256
    if type(scores) is torch.nn.Linear and not any(p.requires_grad for p in scores.parameters()):
        if dtype:  # once, and not for each piece
            weight = weight.to(dtype)
        loss: torch.Tensor = _at_once().apply(hidden, weight, scores.bias, targets, rows)
        return loss

    def piece(part: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(scores(part).float(), wanted, reduction="sum")

    from torch.utils.checkpoint import checkpoint

    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.stack([checkpoint(piece, *part, use_reentrant=False) for part in parts]).sum()


@cache
def _at_once() -> Any:
    """The loss of a frozen head, made here as importing torch takes a second."""
    import torch

    class AtOnce(torch.autograd.Function):  # type: ignore[misc]
        """Computes the gradient with the loss: a piece of logits is needed once, and not again for the way back."""

        @staticmethod
        def forward(
            ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: Any, targets: torch.Tensor, rows: int
        ) -> torch.Tensor:
            wanted = ctx.needs_input_grad[0]
            gradient = torch.empty_like(hidden) if wanted else None
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            for begin in range(0, len(targets), rows):
                part, right = hidden[begin : begin + rows].to(weight.dtype), targets[begin : begin + rows, None]
                logits = torch.nn.functional.linear(part, weight, bias).float()
                normalizer = logits.logsumexp(-1, keepdim=True)
                total += (normalizer - logits.gather(-1, right)).sum()
                if gradient is not None:
                    chances = logits.sub_(normalizer).exp_()
                    chances.scatter_add_(-1, right, chances.new_full(right.shape, -1.0))
                    gradient[begin : begin + rows] = chances.to(weight.dtype) @ weight
            ctx.save_for_backward(gradient)
            return total

        @staticmethod
        def backward(ctx: Any, *above: torch.Tensor) -> tuple[Any, ...]:
            (gradient,) = ctx.saved_tensors
            return gradient * above[0].to(gradient.dtype), None, None, None, None

    return AtOnce
