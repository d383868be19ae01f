"""Adapters of the type Bone, which PEFT opens no more, into MiSS, which is the same update under another name."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio.adapters.adapter import CONFIG, WEIGHTS
from studio.adapters.saving import Told, copy_beside, saved, write_config, write_weights
from studio.adapters.stored import Place, not_finite, places, read_rows
from studio.checkpoint import read_json
from studio.errors import Damaged, InputError, PickleOnly
from studio.events import Finished, Progress

if TYPE_CHECKING:
    import torch

_BLOCK, _MISS_BLOCK = ".bone_block", ".miss_block"
_BAT = "bat"


@dataclass(frozen=True, slots=True)
class Converted:
    """An adapter of the type MiSS that was one of the type Bone."""

    folder: str
    rank: int
    variant: str
    """`bat`, where an update also depends on the weight that it changes, or empty."""
    modules: int
    bytes: int


def to_miss(adapter: Path, target: Path) -> Generator[Progress | Finished[Converted], None, None]:
    """Write an adapter of the type Bone as one of the type MiSS; last comes `Finished(Converted)`.

    Every number stays as it is. Raises InputError where it is no such adapter, PickleOnly, and Damaged where the config
    and the file do not agree.
    """
    if not (adapter / CONFIG).is_file():
        raise InputError(f"There is no {CONFIG} in {adapter.name}.", "Choose the folder of an adapter.")
    config = read_json(adapter / CONFIG)
    if config.get("peft_type") != "BONE":
        raise InputError(f"This adapter is of the type {config.get('peft_type')}.", "Choose one of the type Bone.")
    if not (adapter / WEIGHTS).is_file():
        raise PickleOnly(
            f"There is no {WEIGHTS} in {adapter.name}.", "If it has a .bin file, convert that to safetensors first."
        )
    found = places([adapter / WEIGHTS])
    variant, rank = _BAT if config.get("init_weights") == _BAT else "", config.get("r", 64)
    blocks = {name: place for name, place in found.items() if name.endswith(_BLOCK)}
    _check(blocks, variant, rank)
    bias = str(config.get("bias", "none"))
    config |= {"peft_type": "MISS", "bias": "MiSS_only" if bias.lower() == "bone_only" else bias}

    def work(part: Path, told: Told) -> Converted:
        renamed = {name.replace(_BLOCK, _MISS_BLOCK): place for name, place in found.items()}
        held = {name: (place.dtype, place.shape) for name, place in renamed.items()}
        size = write_weights(part, held, _tensors(renamed, told))
        write_config(part, config)
        copy_beside(adapter, part)
        return Converted(str(target), rank, variant, len(blocks), size)

    yield from saved(target, work)


def _check(blocks: dict[str, Place], variant: str, rank: object) -> None:
    """Raise Damaged where the blocks are not those of the config."""
    if not blocks:
        raise Damaged("The file of this adapter has no update of the type Bone.", "Choose another adapter.")
    for name, place in blocks.items():
        shape = place.shape
        square = len(shape) == 3 and shape[1] == shape[2] == rank
        if not (square if variant else len(shape) == 2 and shape[0] == rank):
            raise Damaged(
                f"{name} is {list(shape)}, and the config says rank {rank!r}{' and bat' if variant else ''}.",
                "Choose another adapter.",
            )


def _tensors(renamed: dict[str, Place], told: Told) -> Iterator[tuple[str, torch.Tensor]]:
    for number, (name, place) in enumerate(renamed.items()):
        told(number, len(renamed))
        tensor = read_rows(place)
        if not_finite(tensor):
            raise Damaged(f"{name} holds values that are not numbers.", "Choose an earlier checkpoint.")
        yield name, tensor
