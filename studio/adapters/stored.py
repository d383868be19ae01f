"""The tensors of safetensors files, a few rows at a time. Nothing is mapped, so nothing is held that is not used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checkpoint import expected_size, parse_header, read_start
from studio.errors import Damaged

if TYPE_CHECKING:
    import torch

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16",
    "U8": "uint8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
PIECE = 1 << 18
"""Numbers that are worked on at once: 1 MB in fp32, which stays in the cache of a core."""
_ROWS = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies."""

    file: Path
    begin: int
    """Byte of the file at which it begins."""
    dtype: str
    """As the format spells it: BF16."""
    shape: tuple[int, ...]
    bytes: int

    @property
    def numbers(self) -> int:
        """How many it has."""
        return prod(self.shape)


def dtype_of(name: str) -> torch.dtype:
    """The dtype that the format calls so. Raises Damaged for one that is none."""
    import torch

    if name not in _DTYPES:
        raise Damaged(f"{name!r} is no dtype.", "Update PyTorch if it is new, or download the file again.")
    found: torch.dtype = getattr(torch, _DTYPES[name])
    return found


def name_of(dtype: torch.dtype) -> str:
    """What the format calls a dtype."""
    return next(name for name, other in _DTYPES.items() if f"torch.{other}" == str(dtype))


def is_float(name: str) -> bool:
    """Whether a dtype is one that weights are computed in."""
    return name in ("F64", "F32", "F16", "BF16")


def places(files: Iterable[Path]) -> dict[str, Place]:
    """Where every tensor of these files is, in the order of the files. Raises Damaged where one is not whole."""
    found: dict[str, Place] = {}
    for file in files:
        size, start = read_start(file)
        header = parse_header(file.name, size, start)
        if (expected := expected_size(header, start)) != size:
            raise _cut(file, f"it has {size:,} bytes of {expected:,}")
        entries = [(entry["data_offsets"], name, entry) for name, entry in header.items() if name != "__metadata__"]
        for (begin, end), name, entry in sorted(entries, key=lambda item: (item[0], item[1])):
            if name in found:
                raise Damaged(f"{name} is in {found[name].file.name} and in {file.name}.", "Download it again.")
            found[name] = _place(file, name, len(start) + begin, end - begin, entry)
    return found


def _place(file: Path, name: str, begin: int, size: int, entry: Mapping[str, Any]) -> Place:
    place = Place(file, begin, entry["dtype"], tuple(entry["shape"]), size)
    if entry["dtype"] in _DTYPES and place.numbers * dtype_of(entry["dtype"]).itemsize != size:
        raise Damaged(f"{name} in {file.name} has {size:,} bytes, and its shape says other.", "Download it again.")
    return place


def read_rows(place: Place, first: int = 0, count: int | None = None) -> torch.Tensor:
    """Some rows of a tensor, or all of it, in memory of its own. Raises Damaged where the file ends before."""
    import torch

    shape = place.shape
    if count is not None:
        shape = (count, *shape[1:])
    dtype = dtype_of(place.dtype)
    width = dtype.itemsize
    room = bytearray(prod(shape) * width)
    if not room:
        return torch.empty(shape, dtype=dtype)
    with place.file.open("rb", buffering=0) as stream:
        stream.seek(place.begin + first * prod(place.shape[1:]) * width)
        view, done = memoryview(room), 0
        while done < len(room):
            if not (got := stream.readinto(view[done:])):
                raise _cut(place.file, "it ends before its last tensor does")
            done += got
    return torch.frombuffer(room, dtype=dtype).view(shape)


def steps(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The rows of a tensor in steps of about `PIECE` numbers: the first of each, and how many.

    A matrix by 64 rows at least: a product has the same bits then as if it were not taken in steps.
    """
    if not shape:
        yield 0, 1
        return
    rows = max(1, PIECE // max(1, prod(shape[1:])))
    if len(shape) == 2:
        rows = max(_ROWS, rows - rows % _ROWS)
    for first in range(0, shape[0], rows):
        yield first, min(rows, shape[0] - first)


def not_finite(tensor: torch.Tensor) -> bool:
    """Whether a number is in it that is none. NaN wins every comparison, and infinities are the largest."""
    from math import isfinite

    if not tensor.numel() or not tensor.is_floating_point():
        return False
    return not all(isfinite(float(end)) for end in tensor.aminmax())


def _cut(file: Path, why: str) -> Damaged:
    return Damaged(f"{file.name} is damaged: {why}.", "Download it again; whole files are kept.")
