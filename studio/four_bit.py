"""Four-bit weights that stay the ones that were loaded, whatever runs in between, and still decode fast on a CPU.

On a CPU with AVX512-BF16, bitsandbytes packs the weights in place for its fast kernel at the first pass in evaluation
mode. Its way back is wrong: the statistics stay rounded or transposed, so training, merging and saving fail in silence
from then on. Here a weight is unpacked again, bit for bit as it was loaded, whenever somebody asks for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any

from studio.errors import Damaged

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


PIECE = 1 << 20
"""Weights that are quantized at once: a multiple of every block size, whose 20 MB are in use for a moment."""


def guard(model: PreTrainedModel) -> None:
    """Keep the four-bit weights of a model exact, before it runs for the first time. Other layers stay as they are.

    A bare walk over `parameters()` sees the order of the moment; `layer.weight` and `state_dict()` see the exact one.
    """
    from bitsandbytes.nn import Linear4bit

    layers = [layer for layer in model.modules() if isinstance(layer, Linear4bit)]
    for layer in layers:
        state = getattr(layer._parameters["weight"], "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False) and not hasattr(state, "exact"):
            raise Damaged("The four-bit weights of this model were rounded when it ran.", "Load the model again.")
    for layer in layers:
        layer.__class__ = _exact_linear()
        layer.support_avx512bf16_for_cpu = False  # bitsandbytes never packs by itself


@cache
def _exact_linear() -> Any:
    """The class of a guarded layer, which is made here because importing bitsandbytes takes seconds."""
    import bitsandbytes

    class ExactLinear(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
        """A four-bit layer that packs its weight for the fast kernel and unpacks it for everybody else."""

        compute_type_is_set: bool

        @property
        def weight(self) -> Any:
            _unpack(self._parameters.get("weight"))
            return self.__getattr__("weight")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self._parameters["weight"]
            if getattr(weight, "quant_state", None) is None:
                return super().forward(x)
            if not self.compute_type_is_set:
                self.set_compute_type(x)
                self.compute_type_is_set = True
            inputs = x.to(self.compute_dtype or x.dtype)
            # bitsandbytes rounds the stored bias to the dtype of the inputs, for good.
            bias = None if self.bias is None else self.bias.to(inputs.dtype)
            if self.training or not _fast(inputs, weight, (self.out_features, self.in_features)):
                _unpack(weight)
                # Copied, for 0.49 writes the dtype of the inputs into it; transposed, for 0.49 and older insist.
                data, state = weight.data.t(), copy.copy(weight.quant_state)
            else:
                _pack(weight)
                # The kernel takes the last stride for 1 and reads something else where it is not.
                inputs, data, state = inputs.contiguous(), weight.data, weight.quant_state
            outputs: torch.Tensor = bitsandbytes.matmul_4bit(inputs, data, bias=bias, quant_state=state)
            return outputs.to(x.dtype)

        def _apply(self, *arguments: Any, **options: Any) -> Any:
            _unpack(self._parameters["weight"])
            return super()._apply(*arguments, **options)

        def _save_to_state_dict(self, *arguments: Any, **options: Any) -> None:
            _unpack(self._parameters["weight"])
            super()._save_to_state_dict(*arguments, **options)

        def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
            _unpack(self._parameters["weight"])
            super()._load_from_state_dict(*arguments, **options)

        def __reduce_ex__(self, _protocol: Any) -> Any:
            return _blank, (), self.__dict__

    # peft recognises a layer to copy, for DoRA, by this name.
    ExactLinear.__name__ = ExactLinear.__qualname__ = "Linear4bit"
    return ExactLinear


def _blank() -> Any:
    """A guarded layer that pickle or copy is about to fill."""
    return _exact_linear().__new__(_exact_linear())


def _fast(inputs: torch.Tensor, weight: Any, shape: tuple[int, int]) -> bool:
    """Whether the fast kernel is there and right for these inputs: it knows bf16 and whole blocks, and no gradients."""
    import torch

    state = weight.quant_state
    return (
        not torch.is_grad_enabled()
        and inputs.dtype == torch.bfloat16
        and inputs.device.type == weight.device.type == "cpu"
        # An empty batch ends the whole process there, and the length of a row is not looked at.
        and inputs.numel() > 0
        and inputs.shape[-1] == shape[1]
        and tuple(state.shape) == shape
        and shape[0] % 32 == 0
        and shape[1] % state.blocksize == 0
        and _packing() is not None
    )


def _pack(weight: Any) -> None:
    """Bring a weight into the order of the fast kernel; its statistics are put aside as they are."""
    if (kernel := _packing()) is None or hasattr(weight.quant_state, "exact"):
        return
    import torch

    # What is made in inference mode could never be part of a training step again.
    with torch.inference_mode(False):
        data, state = kernel[0](weight.data, copy.copy(weight.quant_state))
    state.exact = weight.quant_state
    # The way back would quantize the statistics once more, and nobody needs that.
    state.original_nested = False
    weight.data, weight.quant_state = data, state


def _unpack(weight: Any) -> None:
    """Bring a weight back to the order it was loaded in, with the statistics that were put aside."""
    exact = getattr(getattr(weight, "quant_state", None), "exact", None)
    if exact is None or (kernel := _packing()) is None:
        return
    import torch

    with torch.inference_mode(False):
        data, _ = kernel[1](weight.data, weight.quant_state)
        weight.data, weight.quant_state = data, exact


@cache
def _packing() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """How this bitsandbytes reorders a weight, and back; None where the CPU, or a version, has no such kernel."""
    from bitsandbytes import functional

    names = ("_convert_weight_packed_for_cpu", "_convert_weight_packed_for_cpu_inverse", "has_avx512bf16")
    pack, unpack, supported = (getattr(functional, name, None) for name in names)
    return (pack, unpack) if pack and unpack and supported and supported() else None


@contextmanager
def in_pieces() -> Iterator[None]:
    """Within it, bitsandbytes quantizes a large matrix on a CPU piece by piece, to the same bits.

    At once it takes up to 24 bytes for every weight of the matrix meanwhile, ten times what the matrix itself does. On
    a GPU its kernels pass over NaN as if it were no weight at all; here it stays in the constants, as it does on a CPU.
    """
    import torch
    from bitsandbytes import functional

    four, eight = functional.quantize_4bit, functional.int8_vectorwise_quant

    def four_in_pieces(weights: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if arguments or weights.device.type != "cpu" or weights.numel() <= PIECE:
            data, state = four(weights, *arguments, **options)
            if weights.device.type != "cpu" and not are_numbers(weights):
                (state.absmax if state.offset is None else state.offset).fill_(torch.nan)
            return data, state
        nested = options.pop("compress_statistics", False)
        parts = [four(piece, **options) for piece in weights.reshape(-1).split(PIECE)]
        return _joined(parts, weights.shape, nested=nested)

    def eight_in_pieces(weights: torch.Tensor, threshold: float = 0.0) -> Any:
        # With a threshold, as for inputs, a column is judged as a whole.
        if threshold or weights.device.type != "cpu" or weights.numel() <= PIECE:
            data, scales, outliers = eight(weights, threshold)
            if not threshold and weights.device.type != "cpu" and not are_numbers(weights):
                scales.fill_(torch.nan)
            return data, scales, outliers
        parts = [eight(rows) for rows in weights.split(max(1, PIECE // weights.shape[-1]))]
        return torch.cat([data for data, _, _ in parts]), torch.cat([scales for _, scales, _ in parts]), None

    functional.quantize_4bit, functional.int8_vectorwise_quant = four_in_pieces, eight_in_pieces
    try:
        yield
    finally:
        functional.quantize_4bit, functional.int8_vectorwise_quant = four, eight


def are_numbers(weights: torch.Tensor) -> bool:
    """Whether there is no NaN and no infinity in a tensor that is not empty."""
    # NaN wins every comparison, and an infinity is the largest: two numbers tell of all.
    return all(isfinite(end.item()) for end in weights.aminmax())


def _joined(parts: list[tuple[torch.Tensor, Any]], shape: torch.Size, *, nested: bool) -> tuple[torch.Tensor, Any]:
    """The packed weights and the state of a whole matrix, from those of its pieces."""
    import torch
    from bitsandbytes import functional

    state, absmax = parts[0][1], torch.cat([state.absmax for _, state in parts])
    told = {"shape": shape, "dtype": state.dtype, "blocksize": state.blocksize, "code": state.code}
    if nested:
        offset = absmax.mean()
        absmax, told["state2"] = functional.quantize_blockwise(absmax - offset, blocksize=256)
        told["offset"] = offset
    return torch.cat([data for data, _ in parts]), functional.QuantState(
        absmax=absmax, quant_type=state.quant_type, **told
    )
