"""A few numbers of a base, kept beside an adapter: they tell whether it is put on the base that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from studio.checkpoint import read_json

if TYPE_CHECKING:
    import torch

_FILE = "base.json"
_NEAR = 0.01
"""How far two sketches of one base may be apart. Rounding to bf16 makes 0.002, another model more than 1."""


def sketch(embedding: torch.Tensor) -> tuple[float, ...]:
    """A few numbers of the first rows of an embedding, which no quantization touches and which no two models share."""
    step = max(1, embedding.shape[1] // 64)
    rows = embedding[: min(256, len(embedding)) : 16, : 8 * step : step]
    return tuple(float(f"{number:.5g}") for number in rows.detach().float().flatten().tolist())


def write_sketch(folder: Path, numbers: Sequence[float]) -> None:
    """Put the sketch of its base beside an adapter."""
    (folder / _FILE).write_text(json.dumps({"embedding": numbers}), encoding="utf-8")


def another_base(folder: Path, numbers: Sequence[float]) -> str:
    """Why a base is not the one of the adapter in a folder; empty where it is, or where nothing tells."""
    if not (folder / _FILE).is_file() or not numbers:
        return ""
    told = read_json(folder / _FILE).get("embedding", [])
    apart = sum((a - b) ** 2 for a, b in zip(told, numbers, strict=False)) ** 0.5
    size = sum(a**2 for a in numbers) ** 0.5
    if len(told) == len(numbers) and apart <= _NEAR * size:
        return ""
    return f"their embeddings differ by {apart / max(size, 1e-9):.0%}" if told else "it has no sketch of one"


def same_base(folder: Path, other: Path) -> bool:
    """Whether nothing that two adapters keep of their bases says that these are different ones."""
    if not (folder / _FILE).is_file():
        return True
    return not another_base(other, read_json(folder / _FILE).get("embedding", []))
