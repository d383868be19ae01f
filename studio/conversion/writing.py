"""Tensors into safetensors files, one tensor in memory at a time, read back and compared byte for byte."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import Damaged, DoesNotFit

if TYPE_CHECKING:
    from torch import Tensor

REPORT = "conversion.json"
SHARD_BYTES = 5_000_000_000
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "bool": "BOOL",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
}


@dataclass(slots=True)
class Conversion:
    """What a conversion did, as it is kept in conversion.json of the folder it made."""

    tensors: int = 0
    bytes: int = 0
    sources: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    """Entries that are neither tensors nor plain numbers, as `file: name (type)`; the new files do without them."""
    tied: list[str] = field(default_factory=list)
    """Second names of a tensor that the model ties by itself; the new files have it once."""


@dataclass(slots=True)
class Output:
    """The files written so far, and which tensor is in which. They get their names when it is known how many."""

    folder: Path
    conversion: Conversion = field(default_factory=Conversion)
    stem: str = "model"
    """What the files are called, before -00001-of-00002 and .safetensors."""
    files: list[Path] = field(default_factory=list)
    where: dict[str, int] = field(default_factory=dict)
    source_of: dict[str, str] = field(default_factory=dict)


def dtype_of(tensor: Tensor) -> str:
    """The name of a dtype, without the torch."""
    return str(tensor.dtype).removeprefix("torch.")


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor once written."""
    return int(tensor.numel() * tensor.element_size())


def write_all(source: Path, tensors: dict[str, Tensor], output: Output, tell: Callable[[int], None]) -> None:
    """Write the tensors of one pickle in files of at most 5 GB, and read each back."""
    if twice := sorted(tensors.keys() & output.source_of.keys()):
        raise Damaged(
            f"{twice[0]} is in {output.source_of[twice[0]]} and in {source.name}.", "Download the model again."
        )
    check_disk(output.folder, sum(size_of(tensor) for tensor in tensors.values()))
    for names in _shards(tensors):
        file = output.folder / f"part-{len(output.files)}.safetensors"
        some = {name: tensors[name] for name in names}
        _write(file, some, tell)
        _prove(source, file, some, tell)
        output.where |= dict.fromkeys(names, len(output.files))
        output.source_of |= dict.fromkeys(names, source.name)
        output.files.append(file)
        output.conversion.bytes += sum(size_of(tensor) for tensor in some.values())
        output.conversion.tensors += len(names)


def _shards(tensors: dict[str, Tensor]) -> Iterator[list[str]]:
    """The names in files of at most 5 GB, or of one tensor that is larger than that."""
    names: list[str] = []
    room = SHARD_BYTES
    for name, tensor in tensors.items():
        if names and size_of(tensor) > room:
            yield names
            names, room = [], SHARD_BYTES
        names.append(name)
        room -= size_of(tensor)
    if names:
        yield names


def _write(file: Path, tensors: dict[str, Tensor], tell: Callable[[int], None]) -> None:
    """A safetensors file, tensor by tensor: save_file would want all of them in memory, each in a place of its own.

    Format: 8 bytes with the length n of the header, little-endian, n bytes of JSON, then the tensors without gaps.
    Like save_file, the widest types come first, and spaces fill the header up, so that every tensor is aligned.
    """
    order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in order:
        begin, end = end, end + size_of(tensor)
        header[name] = {"dtype": DTYPES[dtype_of(tensor)], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in order:
            stream.write(_raw(tensor).numpy().data)
            tell(size_of(tensor))
        stream.flush()
        os.fsync(stream.fileno())


def _raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in the order of its shape."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _prove(source: Path, file: Path, tensors: dict[str, Tensor], tell: Callable[[int], None]) -> None:
    """Read the file as everyone will, and compare it byte for byte with what the pickle holds."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as written:
            if set(written.keys()) != tensors.keys():
                raise _differs(source, "names")
            for name, tensor in tensors.items():
                copy = written.get_tensor(name)
                if (copy.shape, copy.dtype) != (tensor.shape, tensor.dtype) or not torch.equal(
                    _raw(copy), _raw(tensor)
                ):
                    raise _differs(source, name)
                tell(size_of(tensor))
    except SafetensorError as error:
        raise _differs(source, str(error)) from error


def _differs(source: Path, what: str) -> Damaged:
    return Damaged(
        f"What was written for {source.name} does not read back as the same: {what}.",
        "Check the disk, or choose a folder on another one, and try again.",
    )


def check_index(weight_map: dict[str, str], there: set[str]) -> None:
    """Raise Damaged where the index of the pickles names a tensor that none of them had."""
    if missing := sorted(weight_map.keys() - there):
        raise Damaged(
            f"{len(missing)} tensors of the index are not in the files, the first is {missing[0]}.",
            "Download the model again: its index and its files do not belong together.",
        )


def name_files(output: Output) -> None:
    """Call the files as transformers looks for them; write the index of several, and the report."""
    count = len(output.files)
    names = [f"{output.stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = [f"{output.stem}.safetensors"]
    for file, name in zip(output.files, names, strict=True):
        file.rename(file.with_name(name))
    if count > 1:
        index = {
            "metadata": {"total_size": output.conversion.bytes},
            "weight_map": {name: names[number] for name, number in sorted(output.where.items())},
        }
        _write_json(output.folder / f"{output.stem}.safetensors.index.json", index)
    _write_json(output.folder / REPORT, asdict(output.conversion))


def _write_json(file: Path, content: dict[str, Any]) -> None:
    with file.open("x", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())


def check_disk(folder: Path, needed: int) -> None:
    """Raise DoesNotFit where the disk of `folder`, which may not be there yet, has less than `needed` bytes free."""
    disk = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if (free := shutil.disk_usage(disk).free) < needed:
        raise DoesNotFit(
            f"The converted model takes {needed / 1e9:.2f} GB more, and the disk with {disk} has {free / 1e9:.2f} GB.",
            "Free some space, or choose a folder on a larger disk.",
        )
