"""Tensors of several adapters into one: the weighted sum, and the ways that drop a part of each before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Majority = Literal["total", "frequency"]
"""Whose sign wins in a place: that of the sum, or the one that more of them have."""
Way = Callable[[Sequence["torch.Tensor"], Sequence[float]], "torch.Tensor"]


def way_of(kind: str, density: float, majority: Majority, generator: torch.Generator) -> Way:
    """What a kind does with tensors and their weights. `density` is the share of each that is kept."""

    def largest(tensor: torch.Tensor) -> torch.Tensor:
        return _largest(tensor, density)

    def drawn(tensor: torch.Tensor) -> torch.Tensor:
        return _drawn(tensor, density, generator)

    ways: dict[str, Way] = {
        "linear": _sum,
        "magnitude_prune": lambda tensors, weights: _sum([largest(each) for each in tensors], weights),
        "dare_linear": lambda tensors, weights: _sum([drawn(each) for each in tensors], weights),
        "ties": lambda tensors, weights: _agreed([largest(each) for each in tensors], weights, majority),
        "dare_ties": lambda tensors, weights: _agreed([drawn(each) for each in tensors], weights, majority),
    }
    return ways[kind]


def _sum(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    import torch

    return torch.stack([tensor * weight for tensor, weight in zip(tensors, weights, strict=True)]).sum(0)


def _agreed(tensors: Sequence[torch.Tensor], weights: Sequence[float], majority: Majority) -> torch.Tensor:
    """In every place the mean of those that have the sign of the majority (TIES, Yadav et al. 2023)."""
    import torch

    stacked = torch.stack(list(tensors))
    votes = (stacked if majority == "total" else stacked.sign()).sum(0)
    agree = stacked.sign() == torch.where(votes >= 0, 1.0, -1.0)
    return _sum([*(stacked * agree)], weights) / agree.sum(0).clamp(min=1)


def _largest(tensor: torch.Tensor, density: float) -> torch.Tensor:
    """The largest numbers of a tensor, and zero for the others."""
    import torch

    flat = tensor.reshape(-1)
    kept = flat.abs().topk(int(density * flat.numel())).indices
    return torch.zeros_like(flat).scatter(0, kept, flat[kept]).view_as(tensor)


def _drawn(tensor: torch.Tensor, density: float, generator: torch.Generator) -> torch.Tensor:
    """Numbers of a tensor drawn at random, larger so that the mean stays (DARE, Yu et al. 2023)."""
    import torch

    if density >= 1:
        return tensor
    return tensor * torch.bernoulli(torch.full_like(tensor, density), generator=generator) / density
