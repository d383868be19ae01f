"""A matrix in the format of bitsandbytes, and back: several tensors, of which the weight itself goes by no suffix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from studio import four_bit
from studio.adapters.stored import dtype_of

if TYPE_CHECKING:
    import torch

STATE = "quant_state.bitsandbytes__"
SCALES = "SCB"
_STATE_BYTES = 512
_NESTED_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Packing:
    """How a matrix is quantized."""

    kind: str
    """nf4, fp4 or int8."""
    dtype: str
    """What it comes out as, as the format spells it."""
    nested: bool = False
    """Whether the constants of the blocks are quantized too."""
    blocksize: int = 64
    turned: bool = False
    """Whether the parameter has its inputs first, as Conv1D has: packed is always the other way round."""

    def bytes(self, shape: tuple[int, ...]) -> int:
        """What a matrix takes, to a few hundred bytes."""
        numbers = prod(shape)
        if self.kind == "int8":
            return numbers + 4 * max(shape)
        blocks = -(-numbers // self.blocksize)
        constants = blocks + 4 * (blocks // _NESTED_BLOCK + 257) if self.nested else 4 * blocks
        return numbers // 2 + constants + 64 + _STATE_BYTES


def part_name(weight: str, part: str) -> str:
    """What the file calls a part of a weight."""
    if part == SCALES:
        return weight.removesuffix("weight") + part
    return f"{weight}.{part}" if part else weight


def pack(matrix: torch.Tensor, packing: Packing) -> dict[str, torch.Tensor]:
    """Quantize a matrix as the parameter has it: part → tensor, in the order in which they are written."""
    from bitsandbytes import functional

    if packing.turned:
        matrix = matrix.t()
    with four_bit.in_pieces():
        if packing.kind == "int8":
            import torch

            data, scales, _ = functional.int8_vectorwise_quant(matrix.contiguous().to(torch.float16))
            return aligned({"": data, SCALES: scales})
        data, state = functional.quantize_4bit(
            matrix.contiguous(),
            blocksize=packing.blocksize,
            compress_statistics=packing.nested,
            quant_type=packing.kind,
        )
    state.dtype = dtype_of(packing.dtype)
    parts = {"": data} | state.as_dict(packed=True)
    return aligned(parts)


def aligned(parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same in an order in which each begins in a file where its type may: the widest first, the state last.

    The state is JSON, which may end in spaces: so many that what comes behind it begins with a whole word.
    """
    import torch

    ordered = dict(sorted(parts.items(), key=lambda item: (item[0].startswith(STATE), -item[1].element_size())))
    size = sum(part.numel() * part.element_size() for part in ordered.values())
    for name, part in ordered.items():
        if name.startswith(STATE):
            ordered[name] = torch.cat([part, torch.full((-size % 8,), ord(" "), dtype=part.dtype)])
    return ordered


def unpack(parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The numbers that a quantized matrix stands for, outputs first: of int8 in fp32, else as its state says."""
    import torch
    from bitsandbytes import functional

    if SCALES in parts:
        whole: torch.Tensor = functional.int8_vectorwise_dequant(parts[""], parts[SCALES])
        return whole
    state = {part: tensor for part, tensor in parts.items() if part}
    whole = functional.dequantize_4bit(
        parts[""].view(torch.uint8), functional.QuantState.from_dict(state, device="cpu")
    )
    return whole.contiguous()


def dtype_named(said: Any) -> str:
    """A dtype as a config or a state spells it, in the spelling of the format; bf16 where it is none of the three."""
    return {"float32": "F32", "float16": "F16"}.get(str(said), "BF16")
