"""What a model folder holds, read from its small files and the headers of its weights, without loading anything."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from studio.errors import Damaged, InputError, PickleOnly, Unsupported

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_HEADER_LIMIT = 100_000_000  # the safetensors format's own bound, in bytes
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of a folder, by number."""

    floats: int
    """Weights held as floating-point numbers, which take on the precision they are loaded in."""
    other_bytes: int
    """Bytes of everything else, such as packed integers, which stay as they are."""

    def loaded_bytes(self, bytes_per_weight: float) -> int:
        """Bytes of all weights once loaded."""
        return int(self.floats * bytes_per_weight) + self.other_bytes


def read_checkpoint(folder: Path) -> Checkpoint:
    """Check a folder's config and every safetensors header; count the weights.

    Raises InputError, Unsupported or Damaged, which name the file, where the folder cannot be loaded.
    """
    existing(folder)
    if (folder / "adapter_config.json").is_file():
        # Beside a whole model, transformers would put it on top unasked and unchecked.
        raise Unsupported(
            "There is an adapter in this folder, and a model comes without one.",
            "Choose the model that it was made for, and put the adapter on top from a folder of its own.",
        )
    config = read_json(folder / "config.json")
    if "auto_map" in config and "model_type" not in config:
        raise Unsupported(
            "This model runs its own Python code, which the studio does not execute.",
            "Choose a model of an architecture that transformers knows.",
        )
    floats = other = 0
    for file in weight_files(folder):
        for name, entry in read_header(file).items():
            if name == "__metadata__":
                continue
            count = prod(entry["shape"])
            begin, end = entry["data_offsets"]
            floats += count if entry["dtype"] in FLOATS else 0
            other += 0 if entry["dtype"] in FLOATS else end - begin
    return Checkpoint(floats, other)


def existing(folder: Path) -> Path:
    """The folder itself, or the GGUF file. Raises InputError where there is neither."""
    if not folder.is_dir() and not (folder.is_file() and folder.suffix == ".gguf"):
        raise InputError(f"There is no folder {folder}.", "Check the path, or choose a model of the Hub.")
    return folder


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: name → {dtype, shape, data_offsets}. Raises Damaged where it is not whole."""
    size, start = read_start(file)
    header = parse_header(file.name, size, start)
    if (expected := expected_size(header, start)) != size:
        raise _broken(file.name, f"it has {size:,} bytes of {expected:,}")
    return header


def read_start(file: Path) -> tuple[int, bytes]:
    """The size of a safetensors file, and its first bytes up to the end of its header, if it can have one."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = _header_length(start)
        return size, start + (stream.read(length) if length <= min(_HEADER_LIMIT, size - 8) else b"")


def parse_header(name: str, size: int, start: bytes) -> dict[str, Any]:
    """The header in the first bytes of a file of `size` bytes: name → {dtype, shape, data_offsets}.

    Format: 8 bytes with the length n of the header, little-endian, n bytes of JSON, then the tensors without gaps.
    Raises Damaged where there is no header; whether the tensors fit together and into the file is not looked at.
    """
    length = _header_length(start)
    if start.startswith(b"version "):
        raise Damaged(
            f"{name} is a Git LFS pointer, not the weights.",
            "Run `git lfs pull` in that folder, or download it.",
        )
    if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
        raise _broken(name, f"its {size:,} bytes do not begin with a safetensors header")
    try:
        header = json.loads(start[8 : 8 + length])
        for tensor, entry in header.items():
            if tensor != "__metadata__":
                _check_entry(entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(name, "its header cannot be read") from error
    return dict(header)


def expected_size(header: dict[str, Any], start: bytes) -> int:
    """Bytes that a file with this header has when it is whole."""
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + _header_length(start) + max(ends, default=0)


def _header_length(start: bytes) -> int:
    return int(struct.unpack("<Q", start[:8])[0]) if len(start) >= 8 else 0


def _check_entry(entry: dict[str, Any]) -> None:
    """Raise TypeError or ValueError for an entry that describes no tensor."""
    begin, end = entry["data_offsets"]
    if not all(isinstance(number, int) and 0 <= number < 1 << 63 for number in (begin, end, *entry["shape"])):
        raise ValueError("a size is no number")
    if begin > end:
        raise ValueError("a tensor ends before it begins")
    count = 1
    for number in entry["shape"]:
        count *= number
        if count >= 1 << 63:  # step by step: the product of a long list takes minutes and gigabytes
            raise ValueError("a shape is too large")
    if not isinstance(entry["dtype"], str):
        raise TypeError("a dtype is no text")


def read_json(file: Path) -> dict[str, Any]:
    """One JSON object from a small file of the folder. Raises Unsupported where it is missing, Damaged where broken."""
    if not file.is_file():
        tokenizer = file.name == "config.json" and file.with_name("tokenizer.json").is_file()
        if tokenizer and not any(file.parent.glob("*.safetensors")):
            raise Unsupported(
                "This folder holds a tokenizer and no model.",
                "The Tokenizer tab works with it as it is. To load a model, choose another folder, or one of the Hub.",
            )
        raise Unsupported(
            f"The folder has no {file.name}, so it is not a model of transformers.",
            "Choose the folder that holds config.json and the *.safetensors files.",
        )
    return parse_json(file.name, file.read_bytes())


def parse_json(name: str, content: bytes) -> dict[str, Any]:
    """One JSON object from the content of a small file. Raises Damaged where it is none."""
    try:
        said = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(name, f"it is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise _broken(name, "it holds no JSON object")
    return said


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would read, index checked."""
    index = folder / "model.safetensors.index.json"
    if (single := folder / "model.safetensors").is_file():
        return [single]
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise _broken(index.name, "it names no weights")
        if not all(isinstance(name, str) and Path(name).name == name for name in weight_map.values()):
            # transformers would follow ../ out of the folder.
            raise _broken(index.name, "it names something other than files of its own folder")
        files = [folder / name for name in sorted(set(weight_map.values()))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise Damaged(
                f"{len(missing)} of {len(files)} weight files are missing, the first is {missing[0]}.",
                "Download the model again; what is there already is kept.",
            )
        return files
    if any(file.suffix in _PICKLES for file in folder.iterdir()):
        raise PickleOnly(
            "This model has its weights only as pickle files, which can run code when they are opened.",
            "Convert it to safetensors on the Load tab, or look for a version that has them.",
        )
    raise Unsupported(
        "This model has a config but no weights.",
        "Choose a model with *.safetensors files; this one was never uploaded whole.",
    )


def _broken(name: str, why: str) -> Damaged:
    return Damaged(f"{name} is damaged: {why}.", "Download the model again; whole files are kept.")
