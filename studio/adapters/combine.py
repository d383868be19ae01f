"""Several adapters of one base into one, and how far that is from the exact weighted sum of what they add."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import fields
from studio.adapters.adapter import CONFIG, AdaptedModule, Adapter
from studio.adapters.arithmetic import way_of
from studio.adapters.factors import Factors, cut, distance, nearest, values_of
from studio.adapters.finite import check_finite
from studio.adapters.products import check_products, config_with, held_as, keys_of, place_of
from studio.adapters.reading import read
from studio.adapters.saving import Told, copy_beside, saved, write_config, write_weights
from studio.adapters.sketch import same_base
from studio.adapters.updates import Updates
from studio.checkpoint import read_json
from studio.errors import InputError, Unsupported
from studio.events import Finished, Progress

if TYPE_CHECKING:
    import torch

_APART = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Kinds that work on A and on B each by itself, and so need equal ranks."""
_SVD = "_svd"
COMBINATIONS = ("cat", "svd", *_APART, *(f"{kind}{_SVD}" for kind in _APART[1:]))
_NAMED = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass(frozen=True, slots=True)
class CombinePlan:
    """Adapters, how much each counts, and the folder of what comes of them."""

    adapters: tuple[Path, ...]
    weights: tuple[float, ...]
    """One each, negative to take away what an adapter adds."""
    target: Path
    kind: str = field(
        default="cat",
        metadata={
            "help": "cat is the exact sum and as large as all of them; svd is the nearest one of a smaller rank; the"
            " others drop a part of each, and those without svd in their name come out far from the sum",
            "choices": COMBINATIONS,
        },
    )
    rank: int = field(
        default=0,
        metadata={"help": "Of the result of a kind with svd; 0 is the largest of theirs", "min": 0, "max": 4096},
    )
    density: float = field(
        default=0.5,
        metadata={"help": "Share of each that ties, dare and magnitude_prune keep", "min": 0.01, "max": 1.0},
    )
    majority: str = field(
        default="total",
        metadata={
            "help": "Whose sign wins with ties: that of the sum, or of most of them",
            "choices": ("total", "frequency"),
        },
    )
    seed: int = field(default=0, metadata={"help": "What dare drops is drawn from it", "min": 0, "max": 2**31})

    def __post_init__(self) -> None:
        fields.check(self)
        if not self.adapters or len(self.weights) != len(self.adapters):
            raise InputError(
                f"There are {len(self.adapters)} adapters and {len(self.weights)} weights.", "Give each adapter one."
            )
        if not all(isfinite(weight) for weight in self.weights) or not any(self.weights):
            raise InputError(f"The weights are {self.weights}.", "Choose numbers, at least one of them not zero.")
        if len({path.absolute() for path in self.adapters}) < len(self.adapters):
            raise InputError("One adapter is named twice.", "Give it the sum of its weights.")


@dataclass(frozen=True, slots=True)
class CombineOutlook:
    """What a combination would be, told from the headers of the files."""

    modules: int
    rank: int
    """The largest of its modules."""
    parameters: int
    bytes: int
    caveats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CombinedModule:
    """A module of a combined adapter."""

    module: str
    layer: int | None
    name: str
    adapters: int
    """How many of them change it."""
    rank: int
    norm: float
    """Of the exact weighted sum of their updates."""
    error: float
    """Norm of what the result is away from this sum, relative to it."""


@dataclass(frozen=True, slots=True)
class Combined:
    """An adapter that was made of several."""

    folder: str
    kind: str
    rank: int
    modules: tuple[CombinedModule, ...]
    error: float
    """Norm of what all updates are away from the exact weighted sums, relative to these."""
    parameters: int
    bytes: int
    caveats: tuple[str, ...]


def combine_outlook(plan: CombinePlan) -> CombineOutlook:
    """Whether these adapters can be combined so, and what that would be; reads headers only.

    Raises InputError where they do not belong together or a kind asks for more, Unsupported where updates are more
    than products or a tensor is brought whole, which PEFT would mix silently wrong or leave out.
    """
    _, modules = _checked(plan)
    ranks = _ranks(plan, modules)
    parameters = sum(ranks[path] * (some[0][1].a[1] + some[0][1].b[0]) for path, some in modules.items())
    caveats = _caveats(plan)
    return CombineOutlook(len(modules), max(ranks.values()), parameters, 4 * parameters, caveats)


def combine(plan: CombinePlan) -> Generator[Progress | Finished[Combined], None, None]:
    """Write the combination of adapters as one; last comes `Finished(Combined)`.

    Scaling, ranks by module and rsLoRA are each adapter's own. Raises as `combine_outlook` does, and Damaged for a
    number that is none.
    """
    found, modules = _checked(plan)
    yield from saved(plan.target, lambda part, told: _combined(plan, found, modules, part, told))


Shared = dict[str, list[tuple[int, AdaptedModule]]]
"""Module → which adapters have it, by number, in the order of the layers."""


def _checked(plan: CombinePlan) -> tuple[list[Adapter], Shared]:
    found = [read(folder) for folder in plan.adapters]
    for adapter in found:
        check_products(adapter)
        _check_bare(adapter)
    _check_bases(found)
    shared: Shared = {}
    for number, adapter in enumerate(found):
        for module in adapter.modules:
            shared.setdefault(module.path, []).append((number, module))
    for path, some in shared.items():
        _check_module(plan, path, [module for _, module in some])
    return found, dict(sorted(shared.items(), key=lambda item: _natural(item[0])))


def _check_bare(adapter: Adapter) -> None:
    name = Path(adapter.folder).name
    extra = [each.name for each in adapter.whole] + [each.path for each in adapter.tokens]
    extra += [f"{module.path}.bias" for module in adapter.modules if module.bias]
    if extra:
        raise Unsupported(
            f"{name} brings {extra[0]} beside its updates, and of such tensors there is no weighted sum.",
            "Merge this adapter into the base first, and combine the others on top of that.",
        )


def _check_bases(found: list[Adapter]) -> None:
    folders = [Path(adapter.folder) for adapter in found]
    for folder in folders[1:]:
        if not same_base(folders[0], folder):
            raise InputError(
                f"{folders[0].name} and {folder.name} were trained on different bases: the sketches that they keep"
                " of them differ.",
                "Combine adapters of one base.",
            )


def _check_module(plan: CombinePlan, path: str, some: list[AdaptedModule]) -> None:
    sides = {(module.a[1], module.b[0], module.embedding) for module in some}
    if len(sides) > 1:
        first, second = sorted(sides)[:2]
        raise InputError(
            f"{path} has {first[0]} inputs and {first[1]} outputs in one adapter, {second[0]} and {second[1]} in"
            " another.",
            "Combine adapters of one base.",
        )
    ranks = sorted({module.rank for module in some})
    if plan.kind in _APART and len(ranks) > 1:
        raise InputError(
            f"{plan.kind} adds A to A and B to B, and {path} has the ranks {' and '.join(map(str, ranks))}.",
            "Choose cat, svd or a kind that ends in svd, which take any ranks.",
        )


def _ranks(plan: CombinePlan, modules: Shared) -> dict[str, int]:
    return {path: _rank(plan, [module for _, module in some]) for path, some in modules.items()}


def _rank(plan: CombinePlan, some: list[AdaptedModule]) -> int:
    every, largest = sum(module.rank for module in some), max(module.rank for module in some)
    if plan.kind == "cat":
        return every
    if plan.kind in _APART:
        return largest
    limits = [plan.rank or largest, some[0].a[1], some[0].b[0]]
    return min([*limits, every] if plan.kind == "svd" else limits)


def _caveats(plan: CombinePlan) -> tuple[str, ...]:
    bases = sorted({read(folder).base for folder in plan.adapters} - {""})
    said = []
    if len(bases) > 1:
        said.append(f"They name different bases: {', '.join(bases)}. Where these are not the same, the sum is nothing.")
    if plan.kind in _APART:
        said.append("A and B are added each by itself, so every A meets every B: this is not the sum of the updates.")
    return tuple(said)


def _combined(plan: CombinePlan, found: list[Adapter], modules: Shared, part: Path, told: Told) -> Combined:
    import torch

    for adapter in found:
        for _ in check_finite(adapter):
            told(0, len(modules))
    ranks = _ranks(plan, modules)
    done: list[CombinedModule] = []
    held = {key: held for path, some in modules.items() for key, held in held_as(some[0][1], ranks[path])}
    mixer = _Mixer(plan, torch.Generator().manual_seed(plan.seed))
    size = write_weights(part, held, _tensors(mixer, found, modules, done, told))
    write_config(part, _config(plan, found, ranks))
    copy_beside(plan.adapters[0], part, tokenizer=False)
    whole = sum(each.norm**2 for each in done)
    error = (sum((each.error * each.norm) ** 2 for each in done) / whole) ** 0.5 if whole else 0.0
    return Combined(
        folder=str(plan.target),
        kind=plan.kind,
        rank=max(ranks.values()),
        modules=tuple(done),
        error=error,
        parameters=read(part).parameters,
        bytes=size,
        caveats=_caveats(plan),
    )


def _tensors(
    mixer: _Mixer, found: list[Adapter], modules: Shared, done: list[CombinedModule], told: Told
) -> Iterator[tuple[str, torch.Tensor]]:
    updates = [Updates(adapter) for adapter in found]
    for number, (path, some) in enumerate(modules.items()):
        told(number, len(modules))
        weights = [mixer.plan.weights[each] for each, _ in some]
        scalings = [float(module.scaling or 0) for _, module in some]
        exact, factors = mixer.mixed([updates[each].factors(path) for each, _ in some], weights, scalings)
        norm = float(values_of(exact).norm())
        layer, name = place_of(path)
        error = distance(factors, exact) / norm if norm else 0.0
        done.append(CombinedModule(path, layer, name, len(some), len(factors[0]), norm, error))
        yield from zip(keys_of(some[0][1]), factors, strict=True)


class _Mixer:
    """The updates of one module after the other into one."""

    def __init__(self, plan: CombinePlan, generator: torch.Generator) -> None:
        self.plan = plan
        kind = plan.kind.removesuffix(_SVD)
        majority: Any = plan.majority
        self._way = way_of(kind, plan.density, majority, generator) if kind in _APART else None

    def mixed(
        self, pairs: Sequence[Factors], weights: Sequence[float], scalings: Sequence[float]
    ) -> tuple[Factors, Factors]:
        """The factors of the exact weighted sum, and those of the result."""
        import torch

        counts = [weight * scaling for weight, scaling in zip(weights, scalings, strict=True)]
        exact = (
            torch.cat([a * count for (a, _), count in zip(pairs, counts, strict=True)]),
            torch.cat([b for _, b in pairs], 1),
        )
        if self._way is None:
            return exact, exact if self.plan.kind == "cat" else cut(exact, self._limit(pairs))[0]
        if self.plan.kind.endswith(_SVD):
            updates = [(b @ a) * scaling for (a, b), scaling in zip(pairs, scalings, strict=True)]
            return exact, nearest(self._way(updates, weights), self._limit(pairs))
        # A root of the weight goes to each side, as in PEFT, and the sign to one of them.
        signed = [abs(count) ** 0.5 * (1 if count >= 0 else -1) for count in counts]
        a = self._way([a for a, _ in pairs], signed)
        return exact, (a, self._way([b for _, b in pairs], [abs(each) for each in signed]))

    def _limit(self, pairs: Sequence[Factors]) -> int:
        return self.plan.rank or max(len(a) for a, _ in pairs)


def _config(plan: CombinePlan, found: list[Adapter], ranks: dict[str, int]) -> dict[str, Any]:
    configs = [read_json(folder / CONFIG) for folder in plan.adapters]
    config = config_with(configs[0], ranks)
    same = all(_named(other) == _named(configs[0]) for other in configs[1:])
    if not same or {len(adapter.modules) for adapter in found} != {len(ranks)}:
        config |= {**dict.fromkeys(_NAMED), "target_modules": sorted(ranks)}
    return config


def _named(config: dict[str, Any]) -> list[Any]:
    """Which modules a config means."""
    said = [config.get(name) for name in _NAMED]
    return [sorted(each) if isinstance(each, list) else each for each in said]


def _natural(path: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in path.split("."))
