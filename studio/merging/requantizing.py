"""A base as the adapter knew it: quantized while it was loaded, and so a little other than in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from studio.adapters import BaseWeights, Layout
from studio.adapters.packing import Packing, pack, unpack
from studio.adapters.stored import dtype_of, name_of
from studio.errors import InputError, Unsupported
from studio.loading import LoadPlan
from studio.loading.outlook import read_config
from studio.loading.skeleton import build_skeleton, held_dtypes, left_alone, quantization_config, sixteen_bit
from studio.merging.plan import ORIGINAL, QUANTIZED, MergePlan
from studio.models import ModelRef

if TYPE_CHECKING:
    import torch


class QuantizedOnTheWay(BaseWeights):
    """The weights of a base that is not quantized, as they are once bitsandbytes has quantized them."""

    def __init__(
        self, weights: BaseWeights, packings: Mapping[str, Packing], dtypes: Mapping[str, torch.dtype]
    ) -> None:
        super().__init__(weights.tensors, weights.method)
        self._packings, self._dtypes = packings, dtypes
        self._packed: tuple[str, dict[str, torch.Tensor], torch.Tensor] | None = None

    def read(self, name: str, first: int = 0, count: int | None = None, *, flipped: bool = False) -> torch.Tensor:
        """Rows of a tensor, of a quantized one as it comes out again."""
        if name not in self._packings:
            rows = super().read(name, first, count, flipped=flipped)
            return rows.to(self._dtypes[name]) if rows.is_floating_point() else rows
        whole = self._quantized(name)[1]
        return whole if count is None else whole[first : first + count]

    @property
    def quantized(self) -> list[str]:
        """The names of those that are."""
        return list(self._packings)

    def packing(self, name: str, *, turned: bool) -> Packing:
        """How a tensor is quantized."""
        assert self._packings[name].turned == turned
        return self._packings[name]

    def parts(self, name: str) -> dict[str, torch.Tensor]:
        """What a tensor is stored as, quantized for the first time."""
        return self._quantized(name)[0]

    def _quantized(self, name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if self._packed is None or self._packed[0] != name:
            self._packed = None  # before the next one is made
            packing = self._packings[name]
            parts = pack(super().read(name).to(dtype_of(packing.dtype)), packing)
            whole = unpack(parts)
            self._packed = (name, parts, whole.t() if packing.turned else whole)
        return self._packed[1:]


def as_trained(plan: MergePlan, weights: BaseWeights, layout: Layout) -> BaseWeights:
    """The base that the adapter is to be added to. Raises InputError where a plan and its base do not agree."""
    if weights.method and plan.precision:
        raise InputError(
            f"The base is quantized already, and the plan says that it was while it was loaded ({plan.precision}).",
            "Leave the precision out, or choose the original base.",
        )
    if plan.onto == ORIGINAL or weights.method:
        return weights
    if not plan.precision:
        raise InputError(
            f"The {plan.onto} base is asked for, and the one in {plan.base.name} is not quantized.",
            "Say how it was quantized while the adapter learnt: nf4, fp4 or int8.",
        )
    dtype = sixteen_bit()
    skeleton = build_skeleton(read_config(plan.base), _load_plan(plan))
    held = held_dtypes(skeleton.model, dtype)
    packings = {}
    for name in _quantized_modules(skeleton.model):
        pieces = layout.pieces.get(f"{name}.weight", ())
        if len(pieces) != 1:
            raise Unsupported(
                f"transformers puts {name} together from several tensors, and then quantizes it.",
                "Merge onto the original base.",
            )
        packings[pieces[0].tensor] = Packing(
            kind=plan.precision.value,
            dtype=name_of(dtype),
            nested=plan.quantization.double_quant,
            turned=layout.parameters[f"{name}.weight"].flipped,
        )
    return QuantizedOnTheWay(
        weights, packings, {tensor: held.get(layout.rename(tensor), dtype) for tensor in weights.tensors}
    )


def packings_of(plan: MergePlan, weights: BaseWeights, layout: Layout) -> dict[str, Packing]:
    """Tensor → how it is to be quantized again; empty where nothing is. Raises Unsupported where it cannot be."""
    if plan.onto != QUANTIZED:
        return {}
    turned = {piece.tensor for name, some in layout.pieces.items() for piece in some if layout.parameters[name].flipped}
    found = {name: weights.packing(name, turned=name in turned) for name in weights.quantized}
    for name in found:
        tensor = weights.tensors[name]
        if tensor.parts and tensor.place.dtype not in ("U8", "I8"):
            raise Unsupported(
                f"The packed bytes of {name} are called {tensor.place.dtype}, as FSDP wants them.",
                "Merge onto the dequantized base.",
            )
        rows, columns = tensor.shape
        if rows % 2 or columns % 2 or rows * columns % 8:
            raise Unsupported(
                f"{name} has {rows} times {columns} numbers, which do not fill whole words when they are quantized.",
                "Merge onto the dequantized base.",
            )
    return found


def quantization_of(plan: MergePlan, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the config of a quantized model says of it: that of the base, or what loading would have made of it."""
    if isinstance(already := config.get("quantization_config"), dict):
        return already
    skeleton = build_skeleton(read_config(plan.base), _load_plan(plan))
    kept = left_alone(skeleton.model, plan.quantization.kept)
    made = quantization_config(_load_plan(plan), kept)
    assert made is not None
    return {**made.to_dict(), "quant_method": "bitsandbytes"}


def _load_plan(plan: MergePlan) -> LoadPlan:
    how = replace(plan.quantization, storage="uint8")
    return LoadPlan(ModelRef("folder", str(plan.base)), plan.precision, quantization=how)


def _quantized_modules(model: Any) -> list[str]:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return [name for name, module in model.named_modules() if isinstance(module, (Linear4bit, Linear8bitLt))]
