"""An adapter at a smaller rank, with what that loses of each update."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio.adapters.adapter import CONFIG, PREFIX, WEIGHTS, AdaptedModule, Adapter
from studio.adapters.factors import cut
from studio.adapters.finite import check_finite
from studio.adapters.products import check_products, config_with, held_as, keys_of, place_of
from studio.adapters.reading import read
from studio.adapters.saving import Held, Told, copy_beside, saved, write_config, write_weights
from studio.adapters.stored import places, read_rows
from studio.adapters.updates import Updates
from studio.checkpoint import read_json
from studio.errors import InputError
from studio.events import Finished, Progress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class CutModule:
    """A module whose update has a smaller rank now."""

    module: str
    layer: int | None
    name: str
    rank_before: int
    rank: int
    norm: float
    """Of the update before, scaled."""
    loss: float
    """Norm of what was cut off, relative to it: 0 where nothing was lost, 1 where everything was."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """An adapter at a smaller rank, in a folder of its own."""

    folder: str
    rank: int
    modules: tuple[CutModule, ...]
    loss: float
    """Norm of all that was cut off, relative to that of all updates."""
    parameters_before: int
    parameters: int
    bytes_before: int
    bytes: int
    """Of the tensors, which are in fp32."""


def compress(adapter: Path, rank: int, target: Path) -> Generator[Progress | Finished[Compressed], None, None]:
    """Write an adapter anew with no update of more than `rank`; last comes `Finished(Compressed)`.

    Of each update the nearest one of that rank is kept, which its singular values give. What the adapter brings whole
    stays as it is. Needs no base. Raises InputError where no update has a larger rank, Unsupported where updates are
    more than products, Damaged for a number that is none.
    """
    found = read(adapter)
    check_products(found)
    largest = max((module.rank for module in found.modules), default=0)
    if not 1 <= rank < largest:
        raise InputError(
            f"The adapter has rank {largest}, and rank {rank} is not smaller.", f"Choose one from 1 to {largest - 1}."
        )
    yield from saved(target, lambda part, told: _compressed(found, rank, target, part, told))


def _compressed(adapter: Adapter, rank: int, target: Path, part: Path, told: Told) -> Compressed:
    folder = Path(adapter.folder)
    for _ in check_finite(adapter):
        told(0, len(adapter.modules))
    ranks = {each.path: min(rank, each.rank, each.a[1], each.b[0]) for each in adapter.modules}
    cuts: list[CutModule] = []
    held = dict(_held(adapter, ranks))
    size = write_weights(part, held, _tensors(adapter, ranks, cuts, told))
    write_config(part, config_with(read_json(folder / CONFIG), ranks))
    copy_beside(folder, part)
    return Compressed(
        folder=str(target),
        rank=rank,
        modules=tuple(cuts),
        loss=_overall(cuts),
        parameters_before=adapter.parameters,
        parameters=read(part).parameters,
        bytes_before=adapter.bytes,
        bytes=size,
    )


def _held(adapter: Adapter, ranks: dict[str, int]) -> Iterator[tuple[str, Held]]:
    for module in adapter.modules:
        yield from held_as(module, ranks[module.path])
        if module.bias:
            yield _bias_key(module), ("F32", (module.b[0],))
    found = places([Path(adapter.folder, WEIGHTS)])
    for key in _kept(adapter):
        yield key, (found[key].dtype, found[key].shape)


def _tensors(
    adapter: Adapter, ranks: dict[str, int], cuts: list[CutModule], told: Told
) -> Iterator[tuple[str, torch.Tensor]]:
    updates = Updates(adapter)
    for number, module in enumerate(adapter.modules):
        told(number, len(adapter.modules))
        scaling, rank = float(module.scaling or 0), ranks[module.path]
        a, b = updates.factors(module.path)
        factors, values = cut((a * scaling, b), rank)
        norm = float(values.norm())
        layer, name = place_of(module.path)
        loss = float(values[rank:].norm()) / norm if norm else 0.0
        cuts.append(CutModule(module.path, layer, name, module.rank, rank, norm, loss))
        yield from zip(keys_of(module), factors, strict=True)
        if module.bias:  # it was scaled with the product, and the product is not scaled any more
            yield _bias_key(module), updates.tensor(_bias_key(module)).float() * scaling
    for key in _kept(adapter):
        yield key, read_rows(updates.place(key))


def _kept(adapter: Adapter) -> list[str]:
    return [each.key for each in adapter.whole] + [each.key for each in adapter.tokens]


def _bias_key(module: AdaptedModule) -> str:
    return f"{PREFIX}{module.path}.lora_B.bias"


def _overall(cuts: list[CutModule]) -> float:
    whole = sum(each.norm**2 for each in cuts)
    return float((sum((each.norm * each.loss) ** 2 for each in cuts) / whole) ** 0.5) if whole else 0.0
