"""An adapter seen through: how much each of its updates changes, in how many directions, and which do nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from studio.adapters.adapter import Adapter
from studio.adapters.base_weights import BaseWeights, open_base
from studio.adapters.factors import effective_rank, rank_for, values_of
from studio.adapters.finite import check_finite
from studio.adapters.fitting import Fit, Match, Replaced, fit_to, stored_name
from studio.adapters.layout import Layout, lay_out
from studio.adapters.products import STARTS, place_of
from studio.adapters.reading import read
from studio.adapters.saving import Told, working
from studio.adapters.stored import steps
from studio.adapters.updates import Updates
from studio.errors import InputError, Unsupported
from studio.events import Finished, Progress

if TYPE_CHECKING:
    import torch

NONE = 1e-6
"""Relative to the weight: less than fp32 keeps of a sum, where a number has 6e-8."""
FAINT = 1.66e-3
"""Relative to the weight: what rounding all of it to bf16 changes. An update of that size comes out of such a merge
68 % off, a smaller one more."""
KEPT = 0.99
Effect = Literal["none", "faint", "some"]


@dataclass(frozen=True, slots=True)
class SeenModule:
    """The update of one module."""

    module: str
    layer: int | None
    name: str
    """Within its layer: self_attn.q_proj."""
    rank: int
    """Of fused experts, that of all of them together, as of all other numbers here."""
    norm: float
    """Of what the adapter adds to the weight, scaled; with DoRA the lengths of the rows are in it."""
    weight_norm: float | None
    """Of the weight; None where transformers puts it together in a way that is not known here."""
    relative: float | None
    """The first by the second."""
    effective_rank: float
    """How many directions of the product of B and A count: e to the entropy of its singular values."""
    enough: int
    """The rank that keeps 99 % of the norm of this product."""
    values: tuple[float, ...]
    """The singular values of this product, scaled, the largest first."""
    dora: bool
    effect: Effect


@dataclass(frozen=True, slots=True)
class SeenWhole:
    """A tensor that the adapter brings whole, or rows of one."""

    name: str
    rows: int | None
    """How many rows are replaced; None where it is all of it."""
    new_rows: int
    """How many rows the base does not have."""
    norm: float | None
    """Of what is changed in the rows that the base has; None where it lies in several tensors there."""
    relative: float | None
    """To the norm of the same rows in the base."""
    effect: Effect


@dataclass(frozen=True, slots=True)
class XRay:
    """An adapter beside its base."""

    adapter: str
    modules: tuple[SeenModule, ...]
    """In the order of the layers."""
    whole: tuple[SeenWhole, ...]
    without_effect: tuple[str, ...]
    """Modules and tensors that change nothing."""
    relative: float | None
    """The norm of all updates of modules by that of all their weights."""
    seconds: float


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A figure of every module, by layer and by name; what is in no layer has a row of its own."""

    layers: tuple[int | None, ...]
    names: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]
    """A row a layer; None where there is no such module."""


def xray(adapter: Path, base: Path) -> Generator[Progress | Finished[XRay], None, None]:
    """Look at every update of an adapter beside the weight that it changes; last comes `Finished(XRay)`.

    Of an update only its factors are multiplied, to squares of its rank; with DoRA, whose lengths need them, also some
    rows of it at a time, as the base is read.
    Raises InputError where the two do not belong together, Unsupported for another type than LoRA, Damaged for a
    number that is none.
    """
    started = time.monotonic()
    read_adapter = read(adapter)
    _check(read_adapter)
    modules, whole = yield from working(lambda told: _seen(read_adapter, base, told))
    nothing = [each.module for each in modules if each.effect == "none"]
    nothing += [each.name for each in whole if each.effect == "none"]
    yield Finished(XRay(str(adapter), modules, whole, tuple(nothing), _overall(modules), time.monotonic() - started))


def heat_map(seen: XRay, figure: Callable[[SeenModule], float | None]) -> HeatMap:
    """One figure of all modules, for example `lambda module: module.relative`."""
    layers = tuple(dict.fromkeys(module.layer for module in seen.modules))
    names = tuple(dict.fromkeys(module.name for module in seen.modules))
    cells = {(module.layer, module.name): figure(module) for module in seen.modules}
    return HeatMap(layers, names, tuple(tuple(cells.get((layer, name)) for name in names) for layer in layers))


def _check(adapter: Adapter) -> None:
    if adapter.type != "LORA":
        raise Unsupported(
            f"An adapter of the type {adapter.type} has no A and B to look at.", "Choose a LoRA or DoRA adapter."
        )
    if adapter.start not in STARTS or adapter.features:
        why = adapter.features[0] if adapter.features else adapter.start
        raise Unsupported(
            f"With {why} an update is more than the product of A and B.", "Choose an adapter that was converted."
        )


def _seen(adapter: Adapter, base: Path, told: Told) -> tuple[tuple[SeenModule, ...], tuple[SeenWhole, ...]]:
    import torch

    for _ in check_finite(adapter):
        told(0, len(adapter.modules))
    weights = open_base(base)
    layout = lay_out(base, weights, torch.bfloat16)
    found = fit_to(adapter, weights, layout)
    _check_fit(found)
    total, updates = len(found.matches) + len(found.replaced), Updates(adapter)
    modules = []
    for number, match in enumerate(found.matches):
        modules.append(_module(match, updates, weights, partial(told, number, total)))
    whole = []
    for number, each in enumerate(found.replaced):
        whole.append(_whole(each, updates, weights, layout, partial(told, len(modules) + number, total)))
    return tuple(sorted(modules, key=_order)), tuple(whole)


def _check_fit(found: Fit) -> None:
    if not found.fits:
        other = f"it is of another base, {found.foreign}" if found.foreign else ""
        first = next((some[0] for some in (found.mismatched, found.unexpected, found.missing) if some), "")
        raise InputError(f"The adapter does not fit this base: {other or first}.", "Choose the base it was trained on.")
    if found.older:
        raise Unsupported(
            "The names of this adapter are from before transformers 5.", "Load it with PEFT, and save it again."
        )


def _order(seen: SeenModule) -> tuple[int, str]:
    return -1 if seen.layer is None else seen.layer, seen.name


def _module(match: Match, updates: Updates, weights: BaseWeights, look: Callable[[], None]) -> SeenModule:
    values = _values(match, updates)
    weight = _norm(match, weights, look) if match.tensors else None
    dora = updates.is_dora(match)
    norm = _moved(match, updates, weights, look) if dora else float(values.norm())
    layer, name = place_of(match.parameter.removesuffix(".weight"))
    relative = norm / weight if weight else None
    return SeenModule(
        module=match.module,
        layer=layer,
        name=name,
        rank=match.rank * match.experts,
        norm=norm,
        weight_norm=weight,
        relative=relative,
        effective_rank=effective_rank(values),
        enough=rank_for(values, KEPT),
        values=tuple(values.tolist()),
        dora=dora,
        effect=_effect(norm, relative),
    )


def _values(match: Match, updates: Updates) -> torch.Tensor:
    """The singular values of an update, scaled; of fused experts those of all of them."""
    import torch

    a, b = updates.factors(match.module)
    pairs = [(a, b)]
    if match.experts > 1:
        inner = a.reshape(match.experts, -1, a.shape[1])
        outer = b.reshape(b.shape[0], -1, match.experts)
        pairs = [(inner[expert], outer[:, :, expert]) for expert in range(match.experts)]
    return torch.cat([values_of(pair) for pair in pairs]).sort(descending=True).values * abs(match.scaling)


def _norm(match: Match, weights: BaseWeights, look: Callable[[], None]) -> float:
    squares = 0.0
    for tensor in match.tensors:
        for first, count in steps(weights.tensors[tensor].shape):
            look()
            squares += float(weights.read(tensor, first, count).double().square().sum())
    return float(squares**0.5)


def _moved(match: Match, updates: Updates, weights: BaseWeights, look: Callable[[], None]) -> float:
    """The norm of what DoRA changes: lengths and directions."""
    (tensor,) = match.tensors
    flipped = bool(weights.tensors[tensor].parts) and match.flipped
    places = [(0, match.shape[0])] if match.flipped else [*steps(match.shape)]
    squares = 0.0
    for first, count in places:
        look()
        rows = weights.read(tensor, first, count, flipped=flipped).float()
        squares += float((updates.added(match, rows, first) - rows).double().square().sum())
    return float(squares**0.5)


def _whole(
    each: Replaced, updates: Updates, weights: BaseWeights, layout: Layout, look: Callable[[], None]
) -> SeenWhole:
    rows = None if each.rows is None else len(each.rows)
    pieces = layout.pieces.get(stored_name(each.parameter, layout), ())
    if len(pieces) != 1:
        return SeenWhole(each.parameter, rows, 0, None, None, "some")
    name, there = pieces[0].tensor, weights.tensors[pieces[0].tensor].shape[0]
    brought = updates.place(each.key).shape
    # (row of the base, row of the adapter, how many)
    runs = [(row, number, 1) for number, row in enumerate(each.rows)] if each.rows else _runs(brought)
    moved = before = 0.0
    for row, number, count in runs:
        look()
        known = min(count, there - row)
        if known > 0:
            old = weights.read(name, row, known).double()
            moved += float((updates.rows(each.key, number, known).double() - old).square().sum())
            before += float(old.square().sum())
    new = sum(row >= there for row in each.rows) if each.rows else max(0, brought[0] - there)
    norm, relative = moved**0.5, (moved / before) ** 0.5 if before else None
    effect = "some" if new else _effect(norm, relative)
    return SeenWhole(each.parameter, rows, new, norm, relative, effect)


def _runs(shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    return [(first, first, count) for first, count in steps(shape)]


def _effect(norm: float, relative: float | None) -> Effect:
    if not norm or (relative is not None and relative < NONE):
        return "none"
    return "faint" if relative is not None and relative < FAINT else "some"


def _overall(modules: tuple[SeenModule, ...]) -> float | None:
    known = [module for module in modules if module.weight_norm]
    weights = sum(module.weight_norm**2 for module in known if module.weight_norm)
    return float((sum(module.norm**2 for module in known) / weights) ** 0.5) if weights else None
