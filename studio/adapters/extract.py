"""A LoRA adapter from a model that was fine-tuned whole: the nearest one of a rank to what the tuning changed."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import fields
from studio.adapters.adapter import PREFIX
from studio.adapters.base_weights import BaseWeights, open_base
from studio.adapters.factors import nearest
from studio.adapters.fitting import sketch_of, stored_name
from studio.adapters.layout import Layout, lay_out
from studio.adapters.products import config_with, place_of
from studio.adapters.reading import read
from studio.adapters.saving import Held, Told, copy_beside, saved, write_weights
from studio.adapters.sketch import write_sketch
from studio.adapters.stored import not_finite, steps
from studio.errors import Damaged, InputError
from studio.events import Finished, Progress

if TYPE_CHECKING:
    import torch

_WEIGHT = ".weight"


@dataclass(frozen=True, slots=True)
class ExtractPlan:
    """A base, what was made of it, and the folder of the adapter."""

    base: Path
    tuned: Path
    target: Path
    rank: int = field(default=32, metadata={"help": "Of the adapter: more keeps more", "min": 1, "max": 1024})
    base_name: str = ""
    """What the adapter calls its base: its name on the Hub; its folder where this is empty."""

    def __post_init__(self) -> None:
        fields.check(self)
        if self.base.absolute() == self.tuned.absolute():
            raise InputError("Base and tuned model are one folder.", "Choose two folders.")


@dataclass(frozen=True, slots=True)
class ExtractedModule:
    """A linear layer whose change has become an update."""

    module: str
    layer: int | None
    name: str
    rank: int
    relative: float
    """Norm of what the tuning changed, relative to the weight of the base."""
    norm: float
    """Of what the tuning changed."""
    error: float
    """Norm of what the update is away from that, relative to it."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What the tuning changed and an adapter of linear layers does not hold: an embedding, a head, a norm, experts."""

    parameter: str
    norm: float | None
    """Of the change; None where transformers puts it together in a way that is not known here."""
    relative: float | None


@dataclass(frozen=True, slots=True)
class Extracted:
    """An adapter that was made of the difference of two models."""

    folder: str
    rank: int
    modules: tuple[ExtractedModule, ...]
    left_out: tuple[LeftOut, ...]
    error: float
    """Norm of what the linear layers are away from the tuned model, relative to what was changed of them."""
    error_with_left_out: float
    """The same of all that the tuning changed and that is known."""
    parameters: int
    bytes: int


def extract(plan: ExtractPlan) -> Generator[Progress | Finished[Extracted], None, None]:
    """Write what a full fine-tuning changed of the linear layers as a LoRA adapter; last comes `Finished(Extracted)`.

    Both models are read twice, a weight at a time. Raises InputError where they are not of one shape or do not differ,
    Unsupported or Damaged where one cannot be opened, Damaged for a number that is none.
    """
    yield from saved(plan.target, lambda part, told: _extracted(plan, part, told))


@dataclass(frozen=True, slots=True)
class _Pair:
    """A model and what was made of it."""

    weights: tuple[BaseWeights, BaseWeights]
    layouts: tuple[Layout, Layout]

    def tensors(self, parameter: str) -> tuple[list[str], list[str]]:
        """Where a parameter is in both checkpoints; empty where that is not known."""
        found = [layout.pieces.get(stored_name(parameter, layout), ()) for layout in self.layouts]
        return [piece.tensor for piece in found[0]], [piece.tensor for piece in found[1]]

    def change(self, names: tuple[str, str], told: Any) -> tuple[float, float]:
        """The squares of the norms of a change and of the weight before it."""
        changed = before = 0.0
        for first, count in steps(self.weights[0].tensors[names[0]].shape):
            told()
            old, new = (self.weights[side].read(names[side], first, count).double() for side in (0, 1))
            if not_finite(new):
                raise Damaged(f"The tuned model holds values that are not numbers, in {names[1]}.", "Tune it again.")
            changed += float((new - old).square().sum())
            before += float(old.square().sum())
        return changed, before

    def difference(self, parameter: str) -> torch.Tensor:
        """What was changed of a linear layer, in fp32, with a row for every output."""
        ((old,), (new,)) = self.tensors(parameter)
        flipped = self.layouts[0].parameters[parameter].flipped
        parts = [
            weights.read(name, flipped=flipped and bool(weights.tensors[name].parts)).float()
            for weights, name in zip(self.weights, (old, new), strict=True)
        ]
        return (parts[1] - parts[0]).t() if flipped else parts[1] - parts[0]


@dataclass(frozen=True, slots=True)
class _Change:
    parameter: str
    norm: float | None
    relative: float | None


def _extracted(plan: ExtractPlan, part: Path, told: Told) -> Extracted:
    pair = _opened(plan)
    linear = _linear(pair)
    changes = _changes(pair, told)
    moved = {change.parameter: change for change in changes if change.norm}
    names = {name.rpartition(".")[2] for name in linear if name + _WEIGHT in moved}
    chosen = [name for name in linear if name.rpartition(".")[2] in names]
    if not chosen:
        raise InputError(
            "The linear layers of the two models are the same, so there is nothing for an adapter to hold.",
            "Choose the base that the tuned model was made from, and the tuned model.",
        )
    shapes = {name: _sides(pair.layouts[0], name) for name in chosen}
    ranks = {name: min(plan.rank, *sides) for name, sides in shapes.items()}
    done: list[ExtractedModule] = []
    size = write_weights(part, dict(_held(shapes, ranks)), _tensors(pair, moved, ranks, done, told))
    _write_config(plan, pair, names, ranks, part)
    write_sketch(part, sketch_of(pair.weights[0], pair.layouts[0]))
    copy_beside(plan.tuned, part)
    left = [
        LeftOut(change.parameter, change.norm, change.relative)
        for change in changes
        if change.norm != 0 and change.parameter.removesuffix(_WEIGHT) not in shapes
    ]
    lost, whole = sum((each.norm * each.error) ** 2 for each in done), sum(each.norm**2 for each in done)
    more = sum(each.norm**2 for each in left if each.norm)
    return Extracted(
        folder=str(plan.target),
        rank=max(ranks.values()),
        modules=tuple(done),
        left_out=tuple(left),
        error=(lost / whole) ** 0.5,
        error_with_left_out=((lost + more) / (whole + more)) ** 0.5,
        parameters=read(part).parameters,
        bytes=size,
    )


def _opened(plan: ExtractPlan) -> _Pair:
    import torch

    weights = (open_base(plan.base), open_base(plan.tuned))
    layouts = (
        lay_out(plan.base, weights[0], torch.float32),
        lay_out(plan.tuned, weights[1], torch.float32),
    )
    before, after = ({name: each.shape for name, each in layout.parameters.items()} for layout in layouts)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            sizes = [list(some[name]) if name in some else "absent" for some in (before, after)]
            raise InputError(
                f"{name} is {sizes[0]} in the base and {sizes[1]} in the tuned model.",
                "Choose the base that the tuned model was made from.",
            )
    return _Pair(weights, layouts)


def _linear(pair: _Pair) -> list[str]:
    """Linear layers whose weight is one tensor in both, but not the head: it may be the embedding too."""
    import torch
    from transformers.pytorch_utils import Conv1D

    layout = pair.layouts[0]
    return [
        name
        for name, module in layout.model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name + _WEIGHT not in (layout.head, layout.embedding)
        if [len(side) for side in pair.tensors(name + _WEIGHT)] == [1, 1]
    ]


def _changes(pair: _Pair, told: Told) -> list[_Change]:
    """What the tuning changed of every parameter, those that share a weight once."""
    found: dict[tuple[tuple[str, ...], tuple[str, ...]] | str, _Change] = {}
    parameters = pair.layouts[0].parameters
    for parameter in parameters:
        old, new = pair.tensors(parameter)
        key = (tuple(old), tuple(new)) if old and new else parameter
        if key in found:
            continue
        if not old or len(old) != len(new):
            found[key] = _Change(parameter, None, None)
            continue
        squares = [pair.change(names, lambda: told(0, len(parameters))) for names in zip(old, new, strict=True)]
        changed, before = (sum(side) ** 0.5 for side in zip(*squares, strict=True))
        found[key] = _Change(parameter, changed, changed / before if before else None)
    return [*found.values()]


def _sides(layout: Layout, name: str) -> tuple[int, int]:
    """Outputs and inputs."""
    parameter = layout.parameters[name + _WEIGHT]
    out, into = parameter.shape[::-1] if parameter.flipped else parameter.shape
    return out, into


def _held(shapes: Mapping[str, tuple[int, int]], ranks: Mapping[str, int]) -> Iterator[tuple[str, Held]]:
    for name, (out, into) in shapes.items():
        yield f"{PREFIX}{name}.lora_A.weight", ("F32", (ranks[name], into))
        yield f"{PREFIX}{name}.lora_B.weight", ("F32", (out, ranks[name]))


def _tensors(
    pair: _Pair,
    moved: Mapping[str, _Change],
    ranks: Mapping[str, int],
    done: list[ExtractedModule],
    told: Told,
) -> Iterator[tuple[str, torch.Tensor]]:
    for number, (path, rank) in enumerate(ranks.items()):
        told(number, len(ranks))
        change = moved.get(path + _WEIGHT)
        difference = pair.difference(path + _WEIGHT)
        a, b = nearest(difference, rank)
        norm = float(difference.double().norm())
        error = float((difference - b @ a).double().norm()) / norm if norm else 0.0
        layer, name = place_of(path)
        relative = change.relative or 0.0 if change else 0.0
        done.append(ExtractedModule(path, layer, name, rank, relative, norm, error))
        yield f"{PREFIX}{path}.lora_A.weight", a
        yield f"{PREFIX}{path}.lora_B.weight", b


def _write_config(plan: ExtractPlan, pair: _Pair, names: set[str], ranks: Mapping[str, int], part: Path) -> None:
    from peft import LoraConfig

    flipped = any(parameter.flipped for parameter in pair.layouts[0].parameters.values())
    config = {
        "base_model_name_or_path": plan.base_name or str(plan.base),
        "task_type": "CAUSAL_LM",
        "target_modules": sorted(names),
        "fan_in_fan_out": flipped,
    }
    LoraConfig(**config_with(config, ranks)).save_pretrained(str(part))
