"""Gradients through quantized weights, held against the same weights in fp32, on this machine and before a run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from studio.errors import Damaged, Unsupported
from studio.training.targets import is_linear

if TYPE_CHECKING:
    import torch

SHAPES = ((1, 1), (1, 4), (2, 16), (4, 128))
"""Rows and tokens. Kernels are chosen by shape: one token, a few, many."""
_PACKED = ("Linear4bit", "Linear8bitLt")
_WITHIN = {"fp32": 1e-4, "16 bit": 3e-2, "int8": 5e-2}
"""The error of each format, with room: measured are 0 in fp32, 6e-3 in bf16 and 1e-2 in int8. Wrong is 0.8 and more."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How far gradients through quantized layers are from those through the same weights in fp32."""

    layers: tuple[str, ...]
    """That were looked at."""
    error: float
    """The largest of outputs and gradients, relative; 0 where nothing is quantized."""
    within: float
    """What the format allows."""


def check_gradients(model: Any, shapes: Sequence[tuple[int, int]] = SHAPES) -> Proof:
    """Hold a model that is ready to train against a reference, and leave it as it is. Takes a second or so.

    Copies of one layer of every kind are run in training, by checkpointing, and after a pass in evaluation. Raises
    Damaged where its weights were changed by running it, Unsupported where this machine computes something else.
    """
    chosen = dict(_sampled(model))
    for name, layer in chosen.items():
        _check_order(name, layer)
    worst, within = 0.0, _WITHIN["fp32"]
    for name, layer in chosen.items():
        allowed = _allowed(layer)
        found = max(_errors(layer, shapes), key=lambda pair: pair[1])
        if not found[1] <= allowed:
            raise Unsupported(
                f"Gradients through {name} are {found[1]:.0%} wrong {found[0]}; its format explains {allowed:.1%}.",
                "Update bitsandbytes, or choose the precision bf16: this machine cannot train on these weights.",
            )
        worst, within = max(worst, found[1]), max(within, allowed)
    return Proof(tuple(chosen), worst, within)


def _sampled(model: Any) -> Iterator[tuple[str, Any]]:
    """The first quantized layer of every kind and shape."""
    seen: set[tuple[Any, ...]] = set()
    for name, module in model.named_modules():
        if type(module).__name__ in _PACKED and is_linear(module):
            kind = (type(module).__name__, module.in_features, module.out_features)
            if kind not in seen:
                seen.add(kind)
                yield name.removeprefix("base_model.model.").removesuffix(".base_layer"), module


def _check_order(name: str, layer: Any) -> None:
    """Weights that were packed by a plain bitsandbytes layer cannot be brought back exactly."""
    state = getattr(layer._parameters["weight"], "quant_state", None)
    if getattr(state, "packing_format_for_cpu", False) and not hasattr(state, "exact"):
        raise Damaged(
            f"The four-bit weights of {name} were rearranged and rounded when the model ran: gradients through them are"
            " about 90 % wrong.",
            "Load the model again, and train it before it writes anything.",
        )


def _allowed(layer: Any) -> float:
    import torch

    if type(layer).__name__ == "Linear8bitLt":
        return _WITHIN["int8"]
    return _WITHIN["fp32" if layer.compute_dtype in (None, torch.float32) else "16 bit"]


def _errors(layer: Any, shapes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, float]]:
    """Every way in which a layer is used, and how far what comes back from it is then from the reference."""
    import torch

    # A copy, for a plain layer of bitsandbytes would be rearranged by the pass in evaluation, for good.
    weight, layer = dequantized(layer), copy.deepcopy(layer)
    exact = _plain(weight, layer.bias)
    chance = torch.Generator(weight.device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=chance, device=weight.device)

    # An adapter below the layer: what it learns comes back through it.
    adapter = draw(4, layer.in_features) / layer.in_features**0.5, draw(layer.in_features, 4)
    for (rows, tokens), checkpointed, evaluated in product(shapes, (False, True), (False, True)):
        inputs, upstream = draw(rows, tokens, layer.in_features), draw(rows, tokens, layer.out_features)
        if evaluated:
            _evaluate(layer, inputs)
        found = _learnt(layer.train(), adapter, inputs, upstream, checkpointed=checkpointed)
        expected = _learnt(exact, adapter, inputs, upstream, checkpointed=False)
        how = f"for {rows} × {tokens} tokens"
        how += " with checkpointing" * checkpointed + " after an evaluation" * evaluated
        yield how, max(map(_apart, found, expected))


def _evaluate(layer: Any, inputs: torch.Tensor) -> None:
    """A pass in evaluation, in both of the formats that kernels are chosen by."""
    import torch

    layer.eval()
    with torch.no_grad():
        layer(inputs)
        layer(inputs.bfloat16())


def _learnt(
    layer: Any,
    adapter: tuple[torch.Tensor, torch.Tensor],
    inputs: torch.Tensor,
    upstream: torch.Tensor,
    *,
    checkpointed: bool,
) -> list[torch.Tensor | None]:
    """What a layer gives, and the gradients of an adapter below it."""
    import torch
    from torch.utils.checkpoint import checkpoint

    down, up = (part.clone().requires_grad_() for part in adapter)
    below = inputs + inputs @ down.T @ up.T
    outputs = checkpoint(layer, below, use_reentrant=False) if checkpointed else layer(below)
    if not outputs.requires_grad:
        return [outputs, None, None]
    return [outputs, *torch.autograd.grad(outputs, (down, up), upstream.to(outputs), allow_unused=True)]


def _plain(weight: torch.Tensor, bias: Any) -> Any:
    """A layer of torch itself."""
    import torch

    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = torch.nn.Parameter(bias.detach().float(), requires_grad=False)
    return linear


def dequantized(layer: Any) -> torch.Tensor:
    """The weight of a quantized layer as it reads in fp32."""
    import torch
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.weight
    if type(layer).__name__ == "Linear4bit":
        state = copy.copy(weight.quant_state)
        # Else it is rounded to what it was quantized from; bitsandbytes 0.50 computes with it unrounded.
        state.dtype = torch.float32
        plain: torch.Tensor = dequantize_4bit(weight.data, state)
        return plain
    scales = weight.SCB if weight.SCB is not None else layer.state.SCB
    scaled: torch.Tensor = weight.data.float() * scales.float().view(-1, 1) / 127
    return scaled


def _apart(found: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    if found is None or expected is None:
        return 1.0  # the way back is cut
    found, expected = found.detach().float(), expected.detach()
    return float((found - expected).norm()) / max(float(expected.norm()), 1e-12)
