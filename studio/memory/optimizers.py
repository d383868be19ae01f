"""What gradients and optimizers hold beside the weights that are trained, to the byte, and what a step takes on top."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

_LEAST = 4096
"""Tensors with fewer numbers keep 32-bit states in an 8-bit optimizer (bitsandbytes/optim/optimizer.py)."""
_BLOCK = 256
_PAGED = 100_000
"""Tensors with fewer numbers are not paged (get_state_buffer in the same file)."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Tensors that are trained and alike."""

    shape: tuple[int, ...]
    count: int
    itemsize: int
    """Bytes of a number, and of a number of its gradient."""
    embeds: bool = False
    """The weight of an embedding, for which the Trainer asks for 32-bit states of an 8-bit optimizer."""

    @property
    def numbers(self) -> int:
        """In all of them."""
        return prod(self.shape) * self.count

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return self.numbers * self.itemsize


def state_bytes(optimizer: str, trained: Iterable[Trained]) -> int:
    """Bytes of the states after the first step. `optimizer` is a choice of Question."""
    return sum(_state(optimizer, tensor) * tensor.count for tensor in trained)


def pageable_bytes(optimizer: str, trained: Iterable[Trained]) -> int:
    """How much of them a paged optimizer can move to main memory."""
    if not optimizer.startswith("paged"):
        return 0
    return state_bytes(optimizer, (tensor for tensor in trained if prod(tensor.shape) >= _PAGED))


def gradient_bytes(trained: Iterable[Trained]) -> int:
    """Bytes of the gradients: each is held as its weight is."""
    return sum(tensor.bytes for tensor in trained)


def step_bytes(optimizer: str, trained: Iterable[Trained], *, foreach: bool) -> int:
    """What the step itself takes for a moment."""
    tensors = list(trained)
    if optimizer == "adamw":
        # _foreach_sqrt makes a second copy of all second moments at once; the fused kernel works in place.
        return gradient_bytes(tensors) if foreach else 0
    if optimizer == "adafactor":
        # Of one tensor after the other: its weight, gradient, square and update in fp32 (transformers/optimization.py)
        return max((16 * prod(tensor.shape) for tensor in tensors), default=0)
    return 0


def _state(optimizer: str, tensor: Trained) -> int:
    shape, count = tensor.shape, prod(tensor.shape)
    match optimizer:
        case "adamw":
            return 2 * count * tensor.itemsize + 4  # 4: the number of the step
        case "adamw 8-bit" | "paged adamw 8-bit" if count >= _LEAST and not tensor.embeds:
            return 2 * count + 2 * 4 * -(count // -_BLOCK)
        case "adamw 8-bit" | "paged adamw 8-bit" | "paged adamw":
            return 8 * count
        case "adafactor":
            return 4 * (count // shape[-1] + count // shape[-2]) if len(shape) > 1 else 4 * count
    return 0  # sgd without momentum remembers nothing
