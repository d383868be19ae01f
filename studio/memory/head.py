"""The last step of a language model: from hidden states to the loss, in the shapes of the software that is asked about.

For a vocabulary of 128 thousand this is what decides the peak: 12 to 16 bytes a token and entry, or hardly any.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from studio.errors import Unsupported
from studio.memory.cuda_like import Autocast
from studio.memory.step import Step
from studio.memory.tracker import Tracker

if TYPE_CHECKING:
    import torch


def install(model: Any, tracker: Tracker, step: Step, cast: Autocast | None) -> None:
    """Give the model the loss of the step, which tells the tracker when it begins."""
    inner = model.get_base_model() if step.adapter is not None else model
    head = inner.get_output_embeddings()
    own, scores = inner.loss_function, copy.copy(head)
    if cast and scores is not None:
        scores.forward = _cast_again(scores.forward, cast)
    if step.loss in ("chunked", "liger"):
        if head is None:
            raise Unsupported("This model has no head that could be fused with the loss.", "Choose the plain loss.")
        head.forward = lambda hidden: hidden
    if step.loss == "upcast" and head is not None:
        head.register_forward_hook(lambda _module, _inputs, logits: logits.float())

    def loss_function(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, **options: Any) -> torch.Tensor:
        tracker.hold([logits], "logits and loss")
        tracker.phase_of_loss()
        if step.loss == "chunked":
            loss: torch.Tensor = _in_pieces(logits, scores, labels)
        elif step.loss == "liger":
            loss = _liger().apply(logits.reshape(-1, logits.shape[-1]), head.weight, labels.reshape(-1))
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


def _cast_again(forward: Any, cast: Autocast) -> Any:
    """A layer that computes in the autocast of its first time where it computes once more."""

    def computed(hidden: torch.Tensor) -> Any:
        with cast.on():
            return forward(hidden)

    return computed


def _in_pieces(hidden: torch.Tensor, scores: Any, labels: torch.Tensor) -> torch.Tensor:
    """The studio's own, with every token trained: there are no more."""
    import torch

    from studio.training.loss import scored

    hidden, labels = hidden[:, :-1], labels[:, 1:]
    places = torch.arange(labels.numel(), device=labels.device)
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    return scored(hidden.reshape(-1, hidden.shape[-1])[places], scores, labels.reshape(-1)[places], dtype)


def _liger() -> Any:
    """A head that computes loss and gradients piece by piece, in chunks as large as the hidden states are."""
    import torch

    class Liger(torch.autograd.Function):  # type: ignore[misc]
        """liger_kernel/ops/fused_linear_cross_entropy.py"""

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

    return Liger
