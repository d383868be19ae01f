"""The weights of a base as numbers to add to, whether they are stored as such or were quantized by bitsandbytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import gguf
from studio.adapters.packing import SCALES, STATE, Packing, dtype_named, unpack
from studio.adapters.stored import Place, is_float, places, read_rows
from studio.checkpoint import read_checkpoint, read_json, weight_files
from studio.errors import Damaged, Unsupported

if TYPE_CHECKING:
    import torch

_STATE = f".{STATE}"
_AFTER_4BIT = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", _STATE)
_AFTER_8BIT = (SCALES, "weight_format")


@dataclass(frozen=True, slots=True)
class BaseTensor:
    """A tensor of a base."""

    place: Place
    shape: tuple[int, ...]
    dtype: str
    """What it comes out as, as the format spells it."""
    parts: Mapping[str, Place] = field(default_factory=dict)
    """What belongs to it where it is quantized, by name; empty where it is not."""


class BaseWeights:
    """The tensors of a base, by the names that its files give them."""

    def __init__(self, tensors: dict[str, BaseTensor], method: str) -> None:
        self.tensors = tensors
        self.method = method
        """`bitsandbytes` where some are quantized, else empty."""
        self._held: tuple[str, torch.Tensor] | None = None

    def read(self, name: str, first: int = 0, count: int | None = None, *, flipped: bool = False) -> torch.Tensor:
        """Rows of a tensor. Only a quantized one can be `flipped`: inputs first, as Conv1D has them."""
        tensor = self.tensors[name]
        if not tensor.parts:
            return read_rows(tensor.place, first, count)
        if self._held is None or self._held[0] != name:
            self._held = None  # before the next one is made
            self._held = (name, unpack(self.parts(name)))
        whole = self._held[1].t() if flipped else self._held[1]
        return whole if count is None else whole[first : first + count]

    @property
    def quantized(self) -> list[str]:
        """The names of those that are."""
        return [name for name, tensor in self.tensors.items() if tensor.parts]

    def packing(self, name: str, *, turned: bool) -> Packing:
        """How a tensor is quantized."""
        tensor = self.tensors[name]
        if SCALES in tensor.parts:
            return Packing("int8", tensor.dtype, turned=turned)
        state = next(part for part in tensor.parts if part.startswith(STATE))
        return Packing(
            kind=state.removeprefix(STATE),
            dtype=tensor.dtype,
            nested="nested_absmax" in tensor.parts,
            blocksize=int(_state(tensor.parts[state])["blocksize"]),
            turned=turned,
        )

    def parts(self, name: str) -> dict[str, torch.Tensor]:
        """All that a quantized tensor is stored as: what comes behind its name → tensor."""
        tensor = self.tensors[name]
        return {part: read_rows(place) for part, place in tensor.parts.items()} | {"": read_rows(tensor.place)}


def open_base(folder: Path) -> BaseWeights:
    """Look at the files of a base.

    Raises InputError, PickleOnly, Unsupported for a quantization that cannot be undone here, and Damaged.
    """
    if gguf.found(folder):
        raise Unsupported(
            "A GGUF file is no base to merge into.",
            "Choose the model that it was made from, as safetensors; its page on the Hub links to it.",
        )
    read_checkpoint(folder)
    method, dtype = _method(folder)
    found = places(weight_files(folder))
    if not method:
        return BaseWeights({name: BaseTensor(place, place.shape, place.dtype) for name, place in found.items()}, "")
    return BaseWeights(_grouped(found, dtype), method)


def _method(folder: Path) -> tuple[str, str]:
    """How it was quantized, and in which dtype it is computed otherwise."""
    config = read_json(folder / "config.json")
    how = config.get("quantization_config")
    if not isinstance(how, dict) or not how:
        return "", ""
    method = str(how.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in how else "unknown"))
    if method != "bitsandbytes":
        raise Unsupported(
            f"This base was quantized with {method}, and nothing can be added to such weights.",
            "Choose the original model that it was made from; its page on the Hub names it.",
        )
    return method, dtype_named(config.get("dtype") or config.get("torch_dtype"))


def _grouped(found: dict[str, Place], dtype: str) -> dict[str, BaseTensor]:
    """Every tensor with what belongs to it."""
    tensors: dict[str, BaseTensor] = {}
    for name, place in found.items():
        if name.endswith(_AFTER_8BIT) or any(part in name for part in _AFTER_4BIT):
            continue
        stem = name.removesuffix("weight")
        if place.dtype == "I8" and f"{stem}{SCALES}" in found:
            tensors[name] = BaseTensor(place, place.shape, dtype, {SCALES: found[f"{stem}{SCALES}"]})
            continue
        parts = {key: found[key] for key in _keys_of(name, found)}
        if state := next((key for key in parts if _STATE in key), None):
            told = _told(parts[state])
            tensors[name] = BaseTensor(place, told[0], told[1], {key[len(name) + 1 :]: parts[key] for key in parts})
        elif name.endswith(".weight") and not is_float(place.dtype):
            raise Damaged(f"{name} is packed, and how is not said.", "Download the model again.")
        else:
            tensors[name] = BaseTensor(place, place.shape, place.dtype)
    return tensors


def _keys_of(name: str, found: Mapping[str, Place]) -> list[str]:
    usual = [f"{name}{part}" for part in _AFTER_4BIT[:-1]]
    return [key for key in (*usual, *(f"{name}{_STATE}{kind}" for kind in ("nf4", "fp4"))) if key in found]


def _told(place: Place) -> tuple[tuple[int, ...], str]:
    """The shape and the dtype that a quantized tensor had."""
    said = _state(place)
    return tuple(int(size) for size in said["shape"]), dtype_named(said["dtype"])


def _state(place: Place) -> dict[str, Any]:
    """What is said of a quantized tensor."""
    try:
        said = json.loads(bytes(read_rows(place).tolist()))
        [int(size) for size in (*said["shape"], said["blocksize"])]
        return {"dtype": said["dtype"], **said}
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged("The state of a quantized weight cannot be read.", "Download the model again.") from error
