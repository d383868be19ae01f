"""Which safetensors files are the model, what their headers say, and whether they and the index agree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from math import prod
from typing import Any

from studio.checkpoint import expected_size, parse_header
from studio.errors import Damaged
from studio.inspection.quantization import Quantization, stands_for
from studio.inspection.report import Finding, TensorEntry
from studio.inspection.source import Source

INDEX = "model.safetensors.index.json"
_AGAIN = "Download the model again; what is whole is kept."
_FLOATS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "C64": 64,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
_INTEGERS = {"I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8}
_BITS = _FLOATS | _INTEGERS
_PART = re.compile(r"^(.+)-(\d{5})-of-(\d{5})\.safetensors$")


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of the files that are the model."""

    read: tuple[str, ...]
    tensors: tuple[TensorEntry, ...]
    findings: tuple[Finding, ...]


def read_weights(source: Source, how: Quantization | None) -> Weights:
    """Understand the headers and hold them against the index.

    Raises Damaged where files are there and none can be read; one of several is a finding.
    """
    findings: list[Finding] = []
    named = _named_by_index(source, findings)
    chosen = _chosen(source, named, findings)
    tensors: list[TensorEntry] = []
    broken: list[Damaged] = []
    for file in chosen:
        size, start = source.sizes[file], source.starts[file]
        try:
            header = parse_header(file, size, start)
        except Damaged as error:
            broken.append(error)
            continue
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors += [_entry(name, entry, file, how) for name, entry in entries.items()]
        findings += _file_findings(file, size, expected_size(header, start), entries)
    if broken and len(broken) == len(chosen):
        raise broken[0]
    findings += [Finding("file-unreadable", "error", error.message, error.hint) for error in broken]
    if named:
        unreadable = len(broken) > 0
        findings += _index_findings(named, tensors, _total_size(source), unreadable)
    return Weights(tuple(chosen), tuple(tensors), tuple(findings))


def _named_by_index(source: Source, findings: list[Finding]) -> dict[str, str]:
    """Tensor → file as the index has it, if it is the one that is read."""
    if INDEX not in source.contents:
        return {}
    if "model.safetensors" in source.sizes:
        message = f"There are both model.safetensors and {INDEX}: transformers reads the one file."
        findings.append(Finding("index-unused", "note", message, "The shards are not needed beside it."))
        return {}
    before = len(findings)
    said = source.json(INDEX, findings).get("weight_map")
    if len(findings) > before:
        return {}
    if not isinstance(said, dict) or not said or not all(isinstance(file, str) for file in said.values()):
        findings.append(Finding("index-broken", "error", f"{INDEX} names no weights.", _AGAIN))
        return {}
    outside = sorted({file for file in said.values() if "/" in file or "\\" in file or file in ("", ".", "..")})
    if outside:
        message = f"{INDEX} names something other than files of its own folder: {outside[0]!r}."
        findings.append(
            Finding("index-outside", "error", message, "Do not use this model; such an index is no mishap.")
        )
    return {name: file for name, file in said.items() if file not in outside}


def _chosen(source: Source, named: dict[str, str], findings: list[Finding]) -> list[str]:
    """The files that transformers reads."""
    there = sorted(source.starts)
    if "model.safetensors" in there:
        return ["model.safetensors"]
    parts = [file for file in there if fnmatch(file, "model-*-of-*.safetensors")]
    if missing := _missing(source, named, parts):
        message = f"{len(missing)} of the weight files are missing, the first is {missing[0]}."
        findings.append(Finding("shard-missing", "error", message, _AGAIN))
    if named:
        return sorted({*(file for file in named.values() if file in there), *parts})
    if parts:
        message = f"There is no {INDEX} that could be used, and without it transformers does not read the shards."
        findings.append(Finding("index-missing", "error", message, "Download the index, a small file, as well."))
        return parts
    if "adapter_model.safetensors" in there:
        return ["adapter_model.safetensors"]
    plain = [file for file in there if not file.startswith("consolidated")]
    return plain or there


def _missing(source: Source, named: dict[str, str], parts: list[str]) -> list[str]:
    """Files that the index names, or that the names of the others call for."""
    wanted = set(named.values())
    for part in parts:
        if (match := _PART.match(part)) and int(match[3]) <= 10_000:
            wanted |= {f"{match[1]}-{number:05}-of-{match[3]}.safetensors" for number in range(1, int(match[3]) + 1)}
    return sorted(wanted - set(source.sizes))


def _entry(name: str, entry: dict[str, Any], file: str, how: Quantization | None) -> TensorEntry:
    begin, end = entry["data_offsets"]
    dtype, count = entry["dtype"], prod(entry["shape"])
    weights = stands_for(name, count, _INTEGERS.get(dtype, 0), how)
    return TensorEntry(name, dtype, tuple(entry["shape"]), end - begin, file, weights)


def _file_findings(file: str, size: int, expected: int, entries: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """What is wrong within one file."""
    if size != expected:
        message = f"{file} is not whole: it has {size:,} bytes of {expected:,}."
        yield Finding("file-cut", "error", message, _AGAIN)
    unknown = [name for name, entry in entries.items() if entry["dtype"] not in _BITS]
    if unknown:
        message = f"{some(unknown)} in {file} has the dtype {entries[unknown[0]]['dtype']!r}, which is none."
        yield Finding("dtype-unknown", "error", message, "Update safetensors if it is new, or download the file again.")
    wrong = [name for name, entry in entries.items() if _wrong_bytes(entry)]
    if wrong:
        entry = entries[wrong[0]]
        begin, end = entry["data_offsets"]
        message = (
            f"{some(wrong)} in {file} has {end - begin:,} bytes, which {entry['dtype']} of {entry['shape']} does not."
        )
        yield Finding("dtype-bytes", "error", message, _AGAIN)
    yield from _layout_findings(file, entries)


def _wrong_bytes(entry: dict[str, Any]) -> bool:
    begin, end = entry["data_offsets"]
    bits = _BITS.get(entry["dtype"])
    return bits is not None and prod(entry["shape"]) * bits != 8 * (end - begin)


def _layout_findings(file: str, entries: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Tensors lie one after the other, without overlap or hole; safetensors opens nothing else."""
    overlaps: list[str] = []
    holes: list[str] = []
    reached = 0
    for begin, end, name in sorted((*entry["data_offsets"], name) for name, entry in entries.items()):
        if begin != reached:
            (overlaps if begin < reached else holes).append(name)
        reached = max(reached, end)
    if overlaps:
        message = f"{some(overlaps)} in {file} lies on top of the tensor before."
        yield Finding("offsets-overlap", "error", message, _AGAIN)
    if holes:
        message = f"Before {some(holes)} in {file} is a hole."
        yield Finding("offsets-hole", "error", message, _AGAIN)


def _index_findings(
    named: dict[str, str], tensors: list[TensorEntry], total: Any, unreadable: bool
) -> Iterator[Finding]:
    """Where the index and the files disagree. Files that cannot be read or are missing are told already."""
    found = {tensor.name: tensor.file for tensor in tensors}
    present = set(found.values())
    absent = [name for name, file in named.items() if name not in found and file in present]
    if absent:
        message = f"The index names {some(absent)}, which no file has."
        hint = "Download the index and the files again; they are not of the same model."
        yield Finding("index-absent-tensor", "error", message, hint)
    elsewhere = [name for name, file in named.items() if found.get(name, file) != file]
    if elsewhere:
        message = f"The index has {some(elsewhere)} in another file than the one it is in."
        yield Finding("index-wrong-file", "warning", message, "Save the model again to have the index written anew.")
    if unnamed := [name for name in found if name not in named]:
        message = f"The files have {some(unnamed)}, which the index does not name."
        yield Finding("index-unnamed-tensor", "warning", message, "Download the index again; it may be an older one.")
    there = sum(tensor.bytes for tensor in tensors)
    if isinstance(total, int) and total != there and not unreadable and set(named.values()) <= present:
        message = f"The index says {total:,} bytes in all, and the tensors have {there:,}."
        hint = "It does no harm: the number is not used. Some tools count tied weights twice."
        yield Finding("index-total-size", "note", message, hint)


def _total_size(source: Source) -> Any:
    metadata = source.json(INDEX, []).get("metadata")
    return metadata.get("total_size") if isinstance(metadata, dict) else None


def some(names: Sequence[str]) -> str:
    """The first name and how many there are besides."""
    first = names[0] if names[0].isprintable() else ascii(names[0])
    return f"{first} (and {len(names) - 1:,} more)" if len(names) > 1 else first
