"""Tensors into the files of a model, one after the other and a few rows at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from studio.adapters.stored import dtype_of
from studio.merging.composing import Output

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
_ENTRY_BYTES = 200
"""What a tensor takes in a header at most, beside its name."""
_PARTS = 6
"""Tensors that a quantized matrix is stored as, at most."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file, in pieces, in the order of its rows and in its dtype."""

    name: str
    dtype: str
    """As the format spells it."""
    shape: tuple[int, ...]
    pieces: Iterable[torch.Tensor]


Contents = Callable[[Output], Iterable[Stored]]


def shards(outputs: Sequence[Output], size: float) -> list[list[Output]]:
    """The tensors in files of at most `size` bytes, or of one tensor that is larger than that."""
    files: list[list[Output]] = [[]]
    room = size
    for output in outputs:
        if files[-1] and output.bytes > room:
            files.append([])
            room = size
        files[-1].append(output)
        room -= output.bytes
    return files


def write(folder: Path, files: Sequence[Sequence[Output]], contents: Contents) -> Iterator[int]:
    """Write the files and, for more than one, their index; yield the bytes written since the last time."""
    names = [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    if len(files) == 1:
        names = ["model.safetensors"]
    where: dict[str, str] = {}
    total = 0
    for name, outputs in zip(names, files, strict=True):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for count in _write_file(folder / name, outputs, contents, header):
            total += count
            yield count
        where |= {tensor: name for tensor in header if tensor != "__metadata__"}
    if len(files) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def write_json(file: Path, content: dict[str, Any]) -> None:
    """A small file, on the disk when this returns."""
    with file.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


def _write_file(file: Path, outputs: Sequence[Output], contents: Contents, header: dict[str, Any]) -> Iterator[int]:
    """Format: 8 bytes with the length n of the header, n bytes of JSON, then the tensors without gaps.

    How long a quantized matrix is shows once it is there, so the header comes last, into room that was left for it;
    spaces fill that up. Every tensor is aligned: matrices in 4 and 8 bit come first, each of whole words, then the
    widest types.
    """
    order = sorted(outputs, key=lambda output: (output.packing is None, -dtype_of(output.dtype).itemsize))
    room = _room(outputs)
    end = 0
    with file.open("xb", buffering=0) as stream:
        stream.seek(8 + room)
        for output in order:
            for stored in contents(output):
                begin = end
                for piece in stored.pieces:
                    count = _write_whole(stream, _raw(piece))
                    end += count
                    yield count
                header[stored.name] = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        assert len(text) <= room, file
        os.fsync(stream.fileno())  # a file with a header has all of its tensors, whenever the power fails
        stream.seek(0)
        _write_whole(stream, room.to_bytes(8, "little") + text + b" " * (room - len(text)))
        os.fsync(stream.fileno())


def _room(outputs: Sequence[Output]) -> int:
    """Bytes that are enough for the header, in whole words."""
    parts = ((1 if output.packing is None else _PARTS, len(json.dumps(output.name))) for output in outputs)
    needed = _ENTRY_BYTES + sum(count * (name + _ENTRY_BYTES) for count, name in parts)
    return needed + -needed % 8


def _write_whole(stream: BinaryIO, content: Any) -> int:
    """A raw file may take less than it is given, as it does when the disk is nearly full."""
    view, done = memoryview(content), 0
    while done < len(view):
        done += stream.write(view[done:])
    return done


def _raw(tensor: torch.Tensor) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
