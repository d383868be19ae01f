"""Devices: how much of each can be used, what the driver takes, what it can compute; and whether an estimate fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studio import compute
from studio.errors import InputError

GIB = 1 << 30
MIB = 1 << 20
Verdict = Literal["fits", "tight", "probably not", "no"]
Kind = Literal["cuda", "mps", "cpu"]
_SEEN = "total in an out-of-memory message of PyTorch"
_NOMINAL = "from its data sheet, less what the driver kept on cards that were seen"
_CONTEXT = "in use less allocated, in an out-of-memory message of PyTorch"


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a model may run on."""

    key: str
    """How a question names it."""
    name: str
    kind: Kind
    usable: int
    """Bytes that PyTorch says it has in all."""
    context: int
    """Bytes that are gone before the first tensor: the context of CUDA, or the program itself."""
    workspace: int
    """Bytes that cuBLAS takes from the allocator once."""
    bf16: bool
    fp8: bool
    """Computes in FP8, so that such a checkpoint stays as it is."""
    mxfp4: bool
    """Can keep MXFP4 weights packed, with triton and kernels installed."""
    source: str
    nominal: bool = False
    """The usable bytes were not seen, but come from a data sheet."""
    memory_beside: int = 0
    """Main memory of the machine that it is in, in bytes; 0 where that is not given."""
    learned: int = 0
    """Bytes that it held beyond every estimate, as its record tells; below 0 where it held less."""


_AMPERE, _HOPPER = 8_519_680, 32 * MIB  # cuBLAS workspace: 8.125 MiB; 32 MiB from Hopper on


def _gpu(key: str, name: str, usable: float, capability: float, source: str = _NOMINAL, ram: int = 0) -> Device:
    """A card of NVIDIA. `usable` in GiB; `ram` in GB."""
    blackwell = capability >= 10
    context = 0.15 if capability < 8 else 0.65 if blackwell else 0.5
    return Device(
        key,
        name,
        "cuda",
        round(usable * GIB),
        round(context * GIB),
        _HOPPER if capability >= 9 else _AMPERE,
        bf16=capability >= 8,
        fp8=capability >= 8.9,
        mxfp4=capability >= 7.5,
        source=f"{source}; {_CONTEXT}",
        nominal=source.startswith(_NOMINAL),
        memory_beside=ram * 10**9,
    )


def _apple(memory: int) -> Device:
    source = "two thirds of the unified memory, about what torch.mps.recommended_max_memory() gives"
    name = f"Apple {memory} GB"
    usable = round(memory * 10**9 * 2 / 3)
    return Device(f"apple-{memory}", name, "mps", usable, 0, 0, True, False, False, source, nominal=True)


_SPACES = "hub-docs, spaces-zerogpu.md: RTX PRO 6000 Blackwell, half a card and a whole one"
DEVICES = {
    device.key: device
    for device in (
        _gpu("t4", "T4", 14.75, 7.5, _SEEN, ram=15),
        _gpu("l4", "L4", 22.0, 8.9),
        _gpu("a10g", "A10G", 22.0, 8.6, ram=15),
        _gpu("l40s", "L40S", 44.4, 8.9),
        _gpu("a100-40", "A100 40 GB", 39.5, 8.0, _SEEN),
        _gpu("a100-80", "A100 80 GB", 79.25, 8.0, _SEEN),
        _gpu("h100", "H100 80 GB", 79.1, 9.0),
        _gpu("h200", "H200", 139.0, 9.0, _SEEN),
        _gpu("b200", "B200", 178.0, 10.0),
        _gpu("rtx3090", "RTX 3090", 23.7, 8.6),
        _gpu("rtx4090", "RTX 4090", 23.63, 8.9, _SEEN),
        _gpu("rtx5090", "RTX 5090", 31.37, 12.0, _SEEN),
        _gpu("zerogpu-large", "ZeroGPU large", 47.4, 12.0, f"{_NOMINAL}; {_SPACES}"),
        _gpu("zerogpu-xlarge", "ZeroGPU xlarge", 95.0, 12.0, f"{_NOMINAL}; {_SPACES}"),
        *(_apple(memory) for memory in (16, 32, 64)),
        Device(
            "cpu-space",
            "CPU Space, free",
            "cpu",
            16 * 10**9,
            1_250_000_000,
            0,
            bf16=False,
            fp8=False,
            mxfp4=False,
            source="hub-docs, spaces-gpus.md: 16 GB; 1.0–1.5 GB are the process of Python and PyTorch",
            nominal=True,
        ),
    )
}
THIS = "this"


def device(key: str) -> Device:
    """The device that a question names; `this` is the machine as it is measured now. Raises InputError for others."""
    if key == THIS:
        return this_machine()
    if key not in DEVICES:
        raise InputError(f"There is no device {key[:60]!r} in the table.", f"Choose {THIS} or {', '.join(DEVICES)}.")
    return DEVICES[key]


def this_machine() -> Device:
    """What is here: all of a GPU, or the main memory that is free and what this process holds. Imports torch."""
    machine = compute.machine()
    if machine.device == "cuda":
        import torch

        major, minor = torch.cuda.get_device_capability(0)
        card = _gpu(THIS, machine.name, machine.memory / GIB, major + minor / 10, "torch.cuda.mem_get_info")
        others = max(0, machine.memory - compute.free_memory() - torch.cuda.memory_allocated())
        return replace(card, context=max(others, card.context), source=f"{card.source}, now")
    held = compute.process_memory() if machine.device == "cpu" else 0
    usable = compute.free_memory() + held
    source = "free main memory, and what this process holds" if held else "torch.mps.recommended_max_memory"
    return Device(THIS, machine.name, machine.device, usable, held, 0, machine.has_bf16, False, False, source)


def fit(peak: int, device: Device) -> Verdict:
    """Whether a peak finds room. The bounds are those of published runs: 94.4 % of a card completed, 99 % did not."""
    share = (peak + device.learned + device.context) / device.usable
    return "fits" if share <= 0.90 else "tight" if share <= 0.96 else "probably not" if share <= 1.0 else "no"


def room(device: Device) -> int:
    """The largest peak that fits, in bytes."""
    return max(0, int(0.90 * device.usable) - device.context - device.learned)
