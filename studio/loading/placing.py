"""Which layer goes to which device, from exact bytes, before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from studio.compute import Room
from studio.errors import DoesNotFit, InputError
from studio.loading.plan import Placement
from studio.memory import ModuleWeights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

DISK = "disk"


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the model that stays together on one device: a layer, the embedding, the head."""

    name: str
    bytes: int
    device: str = ""
    beside: str = ""
    """The block whose weights it shares, and whose device: a tied head lies with the embedding."""


def blocks_of(model: PreTrainedModel, modules: Sequence[ModuleWeights]) -> list[Block]:
    """The model as blocks in the order in which they compute; what transformers does not split stays whole."""
    held = {module.name: module.bytes for module in modules}
    if "" in held:  # told as a whole only
        return [Block("", sum(held.values()))]
    together = set(model._no_split_modules or ())
    found = list(_blocks(model, "", held, together))
    for weight, shared in model.all_tied_weights_keys.items():
        own, other = (_holder(found, name) for name in (weight, shared))
        if own is not None and other is not None and own != other:
            found[own] = replace(found[own], beside=found[other].beside or found[other].name)
    return found


def _holder(blocks: Sequence[Block], weight: str) -> int | None:
    return next((at for at, block in enumerate(blocks) if weight.startswith(f"{block.name}.")), None)


def _blocks(module: torch.nn.Module, name: str, held: dict[str, int], together: set[str]) -> list[Block]:
    inside = [part for part in held if part == name or part.startswith(f"{name}." if name else "")]
    # A module that holds weights of its own beside its parts is not split: there would be no name for them.
    if name and (name in held or type(module).__name__ in together or not list(module.children())):
        return [Block(name, sum(held[part] for part in inside))] if inside or not list(module.children()) else []
    found = []
    for own, child in module.named_children():
        found += _blocks(child, f"{name}.{own}" if name else own, held, together)
    return found


def place(blocks: Sequence[Block], devices: Sequence[Room], placement: Placement) -> list[Block]:
    """The blocks with their devices. `devices` are ordered, GPUs first and the CPU last, with what is free on each.

    Raises DoesNotFit where they do not fit in all of it, and InputError for a limit of a device that is not there.
    """
    wanted = _wanted(devices, placement)
    gpus = [device for device in wanted if device.device != "cpu"]
    whole = [replace(block, bytes=_with_shared(block, blocks)) for block in blocks if not block.beside]
    where = None
    if len(gpus) > 1 and placement.strategy != "sequential":
        where = _even(whole, gpus, low_0=placement.strategy == "balanced_low_0")
    where = where or _spread(whole, wanted, disk=placement.disk)
    if where is None:
        raise _does_not_fit(blocks, wanted, disk=placement.disk)
    return [replace(block, device=where[block.beside or block.name]) for block in blocks]


def device_map(placed: Sequence[Block]) -> dict[str, str]:
    """What from_pretrained is told: one entry where everything lies together."""
    devices = {block.device for block in placed}
    return {"": devices.pop()} if len(devices) == 1 else {block.name: block.device for block in placed}


def _with_shared(block: Block, blocks: Sequence[Block]) -> int:
    return block.bytes + sum(other.bytes for other in blocks if other.beside == block.name)


def _wanted(devices: Sequence[Room], placement: Placement) -> list[Room]:
    limits = placement.limit_of
    if strangers := sorted(set(limits) - {device.device for device in devices}):
        raise InputError(
            f"This machine has no {strangers[0]}.", f"It has {', '.join(device.device for device in devices)}."
        )
    within = [replace(device, free=min(device.free, limits.get(device.device, device.free))) for device in devices]
    match placement.strategy:
        case "cpu":
            return [device for device in within if device.device == "cpu"]
        case "one device":
            return within[:1]
    return within


def _even(blocks: Sequence[Block], gpus: Sequence[Room], *, low_0: bool) -> dict[str, str] | None:
    """Block → GPU with the smallest equal shares that do; with `low_0` the first takes only what the others cannot."""

    def held(first: int, share: int) -> dict[str, str] | None:
        limits = (first, *(share for _ in gpus[1:]))
        return _fill(blocks, [replace(gpu, free=min(gpu.free, most)) for gpu, most in zip(gpus, limits, strict=True)])

    most = max(gpu.free for gpu in gpus)
    if held(most, most) is None:
        return None
    if not low_0:
        share = _least(most, lambda share: held(share, share) is not None)
        return held(share, share)
    first = _least(most, lambda first: held(first, most) is not None)
    return held(first, _least(most, lambda share: held(first, share) is not None))


def _least(most: int, does: Callable[[int], bool]) -> int:
    """The smallest number up to `most` that does, where every larger one does too."""
    least = 0
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if does(middle) else (middle + 1, most)
    return most


def _spread(blocks: Sequence[Block], rooms: Sequence[Room], *, disk: bool) -> dict[str, str] | None:
    """Block → device, one device after the other filled up; None where it cannot be."""
    largest = max((block.bytes for block in blocks), default=0)
    for number, main in enumerate(rooms):
        others = rooms[number + 1 :]
        where = _fill(blocks, rooms[number:])
        if where is not None and (main.device == "cpu" or "cpu" not in where.values()):
            return where
        # What lies on the CPU or the disk is brought to the first device, one block after the other.
        if main.free >= largest:
            where = _fill(blocks, [replace(main, free=main.free - largest), *others], disk=disk)
            if where is not None:
                return where
        # Else without that device: it is too small to compute on.
    return None


def _fill(blocks: Sequence[Block], devices: Sequence[Room], *, disk: bool = False) -> dict[str, str] | None:
    """Each block on the first device, from the one of the block before on, that has room for it; None without room."""
    where, at, used = {}, 0, 0
    for block in blocks:
        while at < len(devices) and used + block.bytes > devices[at].free:
            at, used = at + 1, 0
        if at == len(devices) and not disk:
            return None
        used += block.bytes
        where[block.name] = devices[at].device if at < len(devices) else DISK
    return where


def _does_not_fit(blocks: Sequence[Block], devices: Sequence[Room], *, disk: bool) -> DoesNotFit:
    total, largest = sum(block.bytes for block in blocks), max(block.bytes for block in blocks)
    free = ", ".join(f"{device.device} has {device.free / 1e9:.2f} GB" for device in devices)
    if disk:
        return DoesNotFit(
            f"The largest part of the model takes {largest / 1e9:.2f} GB at once, and {free} for it.",
            "Close other programs, raise the limits, or choose a lower precision or a smaller model.",
        )
    return DoesNotFit(
        f"The weights take {total / 1e9:.2f} GB, and {free} for them.",
        "Close other programs, choose a lower precision or a smaller model, or let the rest be read from the disk.",
    )
