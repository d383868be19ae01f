"""What weights take in memory, module by module: computed before they are there, and measured afterwards.

Formats of bitsandbytes (n weights of a matrix, blocks of 64, its source bitsandbytes/functional.py):
int8 holds n bytes and a float32 scale a row; 4 bit holds n/2 bytes, a float32 constant a block and a table of 16
float32; with double quantization the constants take one byte each, with a float32 for every 256 of them, a table of 256
float32 and an offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BLOCK = 64
NESTED_BLOCK = 256


@dataclass(frozen=True, slots=True)
class ModuleWeights:
    """What one module holds of its own, the modules inside it left out. Tied weights count where they come first."""

    name: str
    kind: str
    """Its class: Linear, Linear4bit, Embedding."""
    dtype: str
    """What most of its bytes are: bfloat16, int8, nf4."""
    parameters: int
    bytes: int
    device: str = ""
    note: str = ""
    """Why it was not quantized, where the others were."""


def int8_bytes(rows: int, columns: int) -> int:
    """Bytes of a matrix that bitsandbytes holds in int8: `rows` outputs, `columns` inputs."""
    return rows * columns + 4 * rows


def four_bit_bytes(count: int, *, double_quant: bool, block: int = BLOCK) -> int:
    """Bytes of a matrix of `count` weights that bitsandbytes holds in NF4 or FP4."""
    blocks = -(count // -block)
    packed, table = (count + 1) // 2, 16 * 4
    if not double_quant:
        return packed + 4 * blocks + table
    return packed + blocks + 4 * -(blocks // -NESTED_BLOCK) + 256 * 4 + 4 + table


def predicted(model: torch.nn.Module, dtypes: dict[str, torch.dtype], notes: dict[str, str]) -> list[ModuleWeights]:
    """The modules of a model on the meta device, after bitsandbytes put its own in, with the bytes they will take.

    `dtypes` says what a parameter is held in that is not quantized, by name; `notes` why a module was left alone.
    """
    seen: set[int] = set()
    found = []
    for name, module in model.named_modules():
        parameters = bytes_ = 0
        kinds: dict[str, int] = {}
        for own, tensor in _own_tensors(module, seen):
            parameters += tensor.numel() if own in module._parameters else 0
            dtype, size = _predicted_tensor(module, own, tensor, dtypes.get(f"{name}.{own}" if name else own))
            kinds[dtype] = kinds.get(dtype, 0) + size
            bytes_ += size
        if kinds:
            kind, most = type(module).__name__, max(kinds, key=kinds.__getitem__)
            found.append(ModuleWeights(name, kind, most, parameters, bytes_, note=notes.get(name, "")))
    return found


def _predicted_tensor(
    module: torch.nn.Module, own: str, tensor: torch.Tensor, dtype: torch.dtype | None
) -> tuple[str, int]:
    weight = own == "weight"
    match type(module).__name__:
        case "Linear4bit" if weight:
            format_: Any = module.weight
            size = four_bit_bytes(tensor.numel(), double_quant=format_.compress_statistics, block=format_.blocksize)
            return str(format_.quant_type), size
        case "Linear8bitLt" if weight:
            return "int8", int8_bytes(*tensor.shape)
    held = dtype or tensor.dtype
    return short(held), tensor.numel() * held.itemsize


def measured(model: torch.nn.Module, notes: dict[str, str]) -> list[ModuleWeights]:
    """The modules of a model in memory, with the bytes of every storage that they hold, quantization constants too."""
    seen: set[int] = set()
    stored: set[int] = set()
    found = []
    for name, module in model.named_modules():
        parameters = bytes_ = 0
        kinds: dict[str, int] = {}
        device = ""
        for own, tensor in _own_tensors(module, seen):
            parameters += _weights_in(module, own, tensor)
            device = device or _device(module, own, tensor)
            size = sum(_storage(part, stored) for part in (tensor, *constants(tensor)))
            kinds[_held_as(tensor)] = kinds.get(_held_as(tensor), 0) + size
            bytes_ += size
        if kinds:
            kind, most = _public_kind(module), max(kinds, key=kinds.__getitem__)
            found.append(ModuleWeights(name, kind, most, parameters, bytes_, device, notes.get(name, "")))
    return found


def total(modules: Iterable[ModuleWeights]) -> int:
    """Bytes of all of them."""
    return sum(module.bytes for module in modules)


def by_dtype(modules: Iterable[ModuleWeights]) -> dict[str, int]:
    """Bytes by what they are held in, most first."""
    return _summed((module.dtype, module.bytes) for module in modules)


def by_device(modules: Iterable[ModuleWeights]) -> dict[str, int]:
    """Bytes by the device that they lie on, most first."""
    return _summed((module.device, module.bytes) for module in modules)


def short(dtype: torch.dtype) -> str:
    """The name of a dtype as people write it: bfloat16."""
    return str(dtype).removeprefix("torch.")


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, count in pairs:
        sums[key] = sums.get(key, 0) + count
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def _own_tensors(module: torch.nn.Module, seen: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and buffers of a module itself that no module before it holds."""
    # From the dict and not the attribute: a 4-bit weight that is asked for by name is unpacked first.
    for own, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            yield own, tensor


def constants(tensor: Any) -> Iterator[torch.Tensor]:
    """What a tensor that bitsandbytes quantized needs beside itself; nothing for any other."""
    import torch

    held = getattr(tensor, "__dict__", {})
    state = held.get("quant_state")
    nested = getattr(state, "state2", None)
    candidates = [held.get("SCB"), *(getattr(state, part, None) for part in ("absmax", "code", "offset"))]
    candidates += [getattr(nested, part, None) for part in ("absmax", "code")]
    yield from (part for part in candidates if isinstance(part, torch.Tensor))


def offloaded(module: torch.nn.Module) -> Any:
    """What a module holds elsewhere and accelerate brings in for each use, by name; None where it is here."""
    return getattr(getattr(module, "_hf_hook", None), "weights_map", None)


def _device(module: torch.nn.Module, own: str, tensor: torch.Tensor) -> str:
    if not tensor.is_meta:
        return str(tensor.device)
    held = offloaded(module)
    in_memory = getattr(getattr(held, "dataset", None), "state_dict", {})
    return "cpu" if f"{getattr(held, 'prefix', '')}{own}" in in_memory else "disk"


def _storage(tensor: torch.Tensor, stored: set[int]) -> int:
    if tensor.is_meta:  # offloaded: all of them begin at 0
        return int(tensor.numel() * tensor.element_size())
    storage = tensor.untyped_storage()
    if storage.data_ptr() in stored:
        return 0
    stored.add(storage.data_ptr())
    return int(storage.nbytes())


def _weights_in(module: torch.nn.Module, own: str, tensor: Any) -> int:
    if own not in module._parameters:
        return 0
    state = getattr(tensor, "__dict__", {}).get("quant_state")
    return int(state.shape.numel()) if state is not None else int(tensor.numel())


def _held_as(tensor: Any) -> str:
    state = getattr(tensor, "__dict__", {}).get("quant_state")
    return str(state.quant_type) if state is not None else short(tensor.dtype)


def _public_kind(module: torch.nn.Module) -> str:
    """The library's name of a class that the studio derived from one of bitsandbytes."""
    return next(kind.__name__ for kind in type(module).__mro__ if not kind.__module__.startswith("studio."))
