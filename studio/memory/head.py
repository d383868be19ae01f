"""The last step of a language model: from hidden states to the loss, in the shapes of the software that is asked about.

For a vocabulary of 128 thousand this is what decides the peak: 12 to 16 bytes a token and entry, or hardly any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studio.errors import Unsupported
from studio.memory.step import Step
from studio.memory.tracker import Tracker

if TYPE_CHECKING:
    import torch

TILE_ROWS, TILE_COLUMNS = 4096, 32768
"""Tokens and entries that TRL's fused head computes at once (trl/trainer/utils.py)."""


def install(model: Any, tracker: Tracker, step: Step) -> None:
    """Give the model the loss of the step, which tells the tracker when it begins."""
    inner = model.get_base_model() if step.adapter is not None else model
    head = inner.get_output_embeddings()
    own = inner.loss_function
    if step.loss in ("chunked", "liger"):
        if head is None:
            raise Unsupported("This model has no head that could be fused with the loss.", "Choose the plain loss.")
        head.forward = lambda hidden: hidden
    if step.loss == "upcast" and head is not None:
        head.register_forward_hook(lambda _module, _inputs, logits: logits.float())

    def loss_function(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, **options: Any) -> torch.Tensor:
        tracker.hold([logits], "logits and loss")
        tracker.phase_of_loss()
        if step.loss in ("chunked", "liger"):
            rows, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
            fused = _fused()[step.loss]
            loss: torch.Tensor = fused.apply(rows, head.weight, labels)
        elif step.loss in ("copied", "upcast"):
            loss = _shifted(logits, labels)
        else:
            loss = own(logits=logits, labels=labels, vocab_size=vocab_size, **options)
        return loss

    inner.loss_function = loss_function


def _shifted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """transformers/loss/loss_utils.py of 4.46 to 4.48, and the models before it: a shifted copy in fp32."""
    import torch

    logits = logits.float()
    shifted = logits[..., :-1, :].contiguous()
    targets = labels[..., 1:].contiguous()
    return torch.nn.functional.cross_entropy(shifted.view(-1, shifted.shape[-1]), targets.view(-1))


def _fused() -> dict[str, Any]:
    """Heads that compute loss and gradients piece by piece, so that the logits are never all there."""
    import torch

    class Chunked(torch.autograd.Function):  # type: ignore[misc]
        """TRL's: tiles of tokens and entries, gradients added up in fp32."""

        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            del labels
            rows, columns = min(TILE_ROWS, hidden.shape[0]), min(TILE_COLUMNS, weight.shape[0])
            tile = hidden.new_empty(rows, columns)
            normalizer = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
            grad_hidden = hidden.new_empty(hidden.shape, dtype=torch.float32)
            trains = ctx.needs_input_grad[1]
            grad_weight = weight.new_empty(weight.shape, dtype=torch.float32) if trains else None
            loss = normalizer.sum()
            del tile, normalizer
            ctx.grads = (
                grad_hidden.to(hidden.dtype),
                grad_weight.to(weight.dtype) if grad_weight is not None else None,
            )
            return loss

        @staticmethod
        def backward(ctx: Any, *_grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            return (*ctx.grads, None)

    class Liger(torch.autograd.Function):  # type: ignore[misc]
        """Liger's: chunks as large as the hidden states are (liger_kernel/ops/fused_linear_cross_entropy.py)."""

        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            del labels
            tokens, (entries, width) = hidden.shape[0], weight.shape
            chunk = 1 << (-(tokens // -max(1, -(entries // -width))) - 1).bit_length()
            grad_hidden, loss = torch.empty_like(hidden), hidden.new_empty(tokens, dtype=torch.float32)
            trains = ctx.needs_input_grad[1]
            grad_weight = torch.empty_like(weight) if trains else None
            logits = hidden.new_empty(min(chunk, tokens), entries)
            if grad_weight is not None:
                grad_weight += torch.mm(logits.t(), hidden[: logits.shape[0]])
            grad_hidden[: logits.shape[0]] = logits @ weight
            del logits
            ctx.grads = (grad_hidden, grad_weight)
            return loss.sum()

        @staticmethod
        def backward(ctx: Any, *_grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            return (*ctx.grads, None)

    return {"chunked": Chunked, "liger": Liger}
