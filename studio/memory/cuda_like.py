"""What a CUDA device would do where a CPU does something else: kernels, casts and shortcuts that decide what is held.

The dry run computes on fake tensors of the CPU, because a PyTorch without CUDA cannot even pretend to have one. These
patches are for the whole process, so they belong into one that does nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FUSED_ROWS = 512
"""Inputs with more rows than this are multiplied by an unpacked copy of a 4-bit matrix; for fewer there is a kernel
(bitsandbytes/backends/cuda/ops.py, _gemm_4bit_use_custom_cuda)."""

# torch/csrc/autocast_mode.h: what CUDA computes in 16 bit, and what in 32. The lists of the CPU are others.
_LOW = {
    *("linear", "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "mv", "addmm", "addmv", "addbmm", "baddbmm"),
    *("prelu", "conv1d", "conv2d", "conv3d", "einsum", "scaled_dot_product_attention"),
}  # fmt: skip
_HIGH = {
    *("pow", "__pow__", "rsqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "reciprocal", "softplus", "tan"),
    *("layer_norm", "group_norm", "norm", "renorm", "logsumexp", "cdist", "cosine_similarity", "acos", "asin"),
    *("cosh", "sinh", "nll_loss", "cross_entropy", "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div"),
    "cosine_embedding_loss",
}  # fmt: skip
_HIGH_UNLESS_TOLD = {"softmax", "log_softmax", "sum", "prod", "cumsum", "cumprod"}


def pretend() -> None:
    """Make this process behave as if it had a CUDA device, for good."""
    import bitsandbytes
    import torch
    from transformers import masking_utils

    # Whether several texts share a row is read from positions, and fake ones hold none: a mask would be made for all.
    masking_utils.find_packed_sequence_indices = lambda *_, **__: None
    torch.nn.functional.dropout = _dropout
    torch.nn.functional.scaled_dot_product_attention = _attention(torch.nn.functional.scaled_dot_product_attention)
    bitsandbytes.matmul = _int8_product


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """On CUDA a mask of one byte an element is kept; the CPU keeps noise in the dtype of the input."""
    import torch

    del inplace
    return torch.native_dropout(input, p, training)[0] if training and p else input


def _int8_product(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    out: Any = None,
    state: Any = None,
    threshold: float = 0,
    bias: Any = None,
) -> torch.Tensor:
    """The way of CUDA; a CPU unpacks the matrix. The threshold is left out: it makes shapes depend on values."""
    from bitsandbytes.autograd._functions import MatMul8bitLt

    del threshold
    product: torch.Tensor = MatMul8bitLt.apply(inputs, weight, out, bias, state)
    return product


def _attention(own: Any) -> Any:
    """CUDA has kernels that hold no scores for heads of two sizes and for dropout; a CPU falls back to all scores.

    It has none for grouped queries in 32 bit: the flash kernel computes in 16, and the other one knows no groups.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    class Flash(torch.autograd.Function):  # type: ignore[misc]
        """Keeps what a flash kernel keeps: its inputs, its result, and one number a row."""

        @staticmethod
        def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            out = query.new_empty(*query.shape[:-1], value.shape[-1])
            ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
            return out

        @staticmethod
        def backward(ctx: Any, *_grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
            query, key, value, _, _ = ctx.saved_tensors
            return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any) -> Any:
        dropout = options.get("dropout_p", rest[1] if len(rest) > 1 else 0.0)
        if query.shape[-1] != value.shape[-1] or dropout:
            return Flash.apply(query, key, value)
        wide = query.dtype == torch.float32 and not torch.is_autocast_enabled("cuda")
        if wide and options.get("enable_gqa") and query.shape[1] != key.shape[1]:
            with sdpa_kernel(SDPBackend.MATH):
                return own(query, key, value, *rest, **options)
        return own(query, key, value, *rest, **options)

    return attention


def internals(operation: Any, arguments: tuple[Any, ...]) -> Iterator[int]:
    """Bytes that the CUDA kernel of an operation takes for itself while it runs."""
    import torch

    if operation is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        _, query, key, _ = arguments[:4]
        batch, heads, rows, size = query.shape
        padded = batch * heads * (-(rows // -128) * 128)
        yield padded * (-(size // -32) * 32) * 4  # the gradient of the queries, added up in fp32
        yield padded * 4
        if key.shape[1] != heads:  # gradients of keys and values a query head, before they are summed
            yield 2 * batch * key.shape[2] * heads * size * key.element_size()
    elif operation is torch.ops.bitsandbytes.gemm_4bit.default:
        inputs, _, shape = arguments[:3]
        if inputs.numel() // inputs.shape[-1] > FUSED_ROWS:
            yield shape[0] * shape[1] * inputs.element_size()
    elif operation is torch.ops.bitsandbytes.int8_scaled_mm.default:
        yield 4 * arguments[0].shape[0] * arguments[1].shape[0]  # the product in int32


def perform(operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Carry out an operation on fake tensors, those too that PyTorch refuses without CUDA or in 32 bit."""
    import torch

    if operation is torch.ops.aten._grouped_mm.default and (dtype := arguments[0].dtype) != torch.bfloat16:
        # The shapes of experts are known in bf16 only; the kernels compute in whatever they get.
        sixteen = (arguments[0].bfloat16(), arguments[1].bfloat16(), *arguments[2:])
        return operation(*sixteen, **options).to(dtype)
    return operation(*arguments, **options)


class Autocast:
    """The autocast of CUDA: its lists of operations, and its cache of weights that were cast."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._active = False
        self._cast: dict[int, torch.Tensor] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within it, what CUDA computes in 16 bit is. Within itself it changes nothing."""
        import torch
        from torch.overrides import TorchFunctionMode

        if self._active:
            yield
            return
        inputs_of = self._inputs

        class Casting(TorchFunctionMode):  # type: ignore[misc]
            """Casts what goes into an operation."""

            def __torch_function__(
                self, function: Any, _types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
            ) -> Any:
                arguments, options = inputs_of(getattr(function, "__name__", ""), arguments, options or {})
                return function(*arguments, **options)

        self._active = True
        torch.set_autocast_enabled("cuda", True)  # PEFT and transformers ask for it, and cast less where it is on
        torch.set_autocast_dtype("cuda", self._dtype)
        try:
            with Casting():
                yield
        finally:
            torch.set_autocast_enabled("cuda", False)
            self._active = False
            self._cast.clear()

    def _inputs(self, name: str, arguments: Any, options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        import torch

        if name in _LOW:
            wanted = self._dtype
        elif name in _HIGH or (name in _HIGH_UNLESS_TOLD and options.get("dtype") is None):
            wanted = torch.float32
        else:
            return arguments, options
        with torch._C.DisableTorchFunction():
            return (
                tuple(self._to(value, wanted) for value in arguments),
                {key: self._to(value, wanted) for key, value in options.items()},
            )

    def _to(self, value: Any, wanted: torch.dtype) -> Any:
        import torch

        if isinstance(value, list | tuple):
            return type(value)(self._to(part, wanted) for part in value)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == wanted:
            return value
        if value.is_leaf and value.requires_grad and value.dtype == torch.float32 and wanted == self._dtype:
            if id(value) not in self._cast:
                self._cast[id(value)] = value.to(wanted)
            return self._cast[id(value)]
        return value.to(wanted)
