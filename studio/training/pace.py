"""What training computes in: what the machine has, and on a CPU what it was faster in when it was tried."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any, Literal

from studio import compute
from studio.errors import InputError
from studio.training.plan import TrainingSettings

Dtype = Literal["fp32", "bf16", "fp16"]
_WORTH = 1.1
"""bf16 rounds to three digits, so a gain of less than a tenth is not worth it."""
_TOKENS, _ROUNDS = 256, 5


@dataclass(frozen=True, slots=True)
class Compute:
    """What training computes in, and why."""

    dtype: Dtype
    why: str

    @property
    def autocast(self) -> bool:
        """Whether matrices are multiplied in fewer bits than the adapter is held in."""
        return self.dtype != "fp32"

    @property
    def scales(self) -> bool:
        """Whether the loss is scaled, so that small gradients do not vanish: fp16 has no room for them."""
        return self.dtype == "fp16"


def computes_in(model: Any, settings: TrainingSettings) -> Compute:
    """What a run computes in. Auto may try it out, for about a tenth of a second, once for every width of a model.

    Raises InputError for what this machine cannot do.
    """
    machine = compute.machine()
    if settings.compute != "auto":
        return _asked(settings, machine, model)
    if machine.device == "cuda" and not machine.has_bf16 and _trains_fp16(model, settings):
        return Compute("fp32", f"{machine.name} has no bf16, and weights in fp16 cannot be trained with a scaler.")
    return best_of(machine, int(model.get_input_embeddings().weight.shape[1]))


def best_of(machine: compute.Machine, width: int) -> Compute:
    """What auto chooses for a model of a width. On a CPU with bf16 it may try it out."""
    if machine.device == "cuda":
        if machine.has_bf16:
            return Compute("bf16", f"{machine.name} computes in bf16, which has the range of fp32.")
        return Compute("fp16", f"{machine.name} has no bf16; the loss is scaled so that small gradients survive.")
    if machine.device != "cpu" or not machine.has_bf16:
        name = "An Apple GPU" if machine.device == "mps" else "This CPU"
        return Compute("fp32", f"{name} gains nothing by bf16 that was measured.")
    gain = bf16_gain(min(max(width, 64), 2048))
    if gain >= _WORTH:
        return Compute("bf16", f"A step in bf16 is {gain:.1f} times as fast on this CPU, tried just now.")
    return Compute("fp32", f"A step in bf16 is {gain:.1f} times as fast on this CPU, which is not worth its rounding.")


def _asked(settings: TrainingSettings, machine: compute.Machine, model: Any) -> Compute:
    asked = settings.compute
    if asked == "fp16" and machine.device != "cuda":
        raise InputError(
            f"fp16 needs a scaled loss, which PyTorch has for CUDA alone, and this is {machine.name}.",
            f"Choose {'bf16' if machine.has_bf16 else 'fp32'}, or auto.",
        )
    if asked == "fp16" and _trains_fp16(model, settings):
        raise InputError(
            "Weights that are held in fp16 cannot be trained in fp16.", "Load them in fp32, or choose lora."
        )
    if asked == "bf16" and machine.device == "cuda" and not machine.has_bf16:
        raise InputError(f"{machine.name} has no bf16.", "Choose fp16, or auto.")
    return Compute("bf16" if asked == "bf16" else "fp16" if asked == "fp16" else "fp32", "As it was chosen.")


def _trains_fp16(model: Any, settings: TrainingSettings) -> bool:
    """Whether weights are trained that are held in fp16: a scaler refuses their gradients. Adapters are fp32."""
    import torch

    return settings.method == "full" and any(p.dtype == torch.float16 for p in model.parameters())


@cache
def bf16_gain(width: int) -> float:
    """How many times as fast a small step of a width is by bf16 autocast as in fp32, on the CPU, in this process.

    Taken in turns, so that whatever else the machine does meets both; the median of a few.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner = torch.nn.Sequential(
            torch.nn.Linear(width, 3 * width), torch.nn.SiLU(), torch.nn.Linear(3 * width, width)
        )
        inputs = torch.randn(_TOKENS, width, requires_grad=True)
    inner.requires_grad_(False)  # as the base is, under an adapter

    def seconds(*, bf16: bool) -> float:
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = inner(inputs)
        torch.autograd.grad(outputs.float().sum(), inputs)
        return time.perf_counter() - begun

    for bf16 in (False, True):
        seconds(bf16=bf16)  # the first time, kernels are chosen
    rounds = [(seconds(bf16=False), seconds(bf16=True)) for _ in range(_ROUNDS)]
    return median(plain / short for plain, short in rounds)
