"""Which files of a folder go to the Hub: what loads and tells, and nothing that could harm or give away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from studio.checkpoint import read_header, read_json
from studio.errors import InputError
from studio.hub import Outgoing
from studio.publishing import secrets
from studio.publishing.thing import ADAPTER_CONFIG, Kind, Thing

CARD = "README.md"
_TAKEN = (
    *("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.gguf"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
_OF_A_RUN = ("run.yaml", "events.jsonl", "meter.json", "estimate.json", "train.py")
_RECORDS = (*_OF_A_RUN, "proof.json", "kept.json")
"""What the studio wrote, and may name places of this machine."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib", "*.npy", "*.npz", "*.h5")
_OURS = {"merge.json": "names places of this machine; the card has what it says", CARD: "the card takes its place"}


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a thing that are published, without its card, and those that are not."""

    files: tuple[Outgoing, ...]
    left_out: tuple[tuple[str, str], ...]
    """(file, why it stays here)."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


def contents(thing: Thing, base: str, places: tuple[tuple[str, str], ...]) -> Contents:
    """Choose and check the files of a thing. `base` is the Hub's name of its base, or what else to call it.

    `places` are folders of this machine with what to write for them: texts that name one are sent without it. Raises
    InputError where a file holds a secret, is a pickle or a link to elsewhere, and Damaged for broken weights.
    """
    files, left_out = [], []
    for file, path in _found(thing.folder):
        why = _left_out(thing, file, path)
        if why:
            left_out.append((path, why))
            continue
        if any(fnmatch(path, pattern) for pattern in _PICKLES):
            raise InputError(
                f"{path} is a pickle, or may hold one, and those can run code when somebody opens them.",
                "Take it out of the folder: safetensors hold the same without the risk.",
            )
        if file.suffix == ".safetensors":
            read_header(file)
        secrets.check_file(path, file)
        files.append(_outgoing(file, path, base, places))
    if not files:
        raise InputError(f"{thing.folder.name!r} holds nothing that can be published.", "Choose another folder.")
    return Contents(tuple(files), tuple(left_out))


def _found(folder: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(folder.rglob("*")):
        if file.is_symlink() and not file.resolve().is_relative_to(folder):
            raise InputError(f"{file.name} is a link to a place outside of this folder.", "Put the file itself there.")
        if file.is_file():
            yield file, file.relative_to(folder).as_posix()


def _left_out(thing: Thing, file: Path, path: str) -> str:
    """Why a file stays here; empty where it goes."""
    if path in _OURS:
        return _OURS[path]
    if thing.kind is Kind.RUN:
        return "" if path in _OF_A_RUN else "no part of the record"
    if secrets.NAMES.search(path) or any(fnmatch(path, pattern) for pattern in _PICKLES):
        return ""  # it is refused aloud
    if any(part.startswith(".") for part in path.split("/")):
        return "hidden"
    if any(fnmatch(file.name, pattern) for pattern in _TAKEN):
        return ""
    return "code, which nobody should run unseen" if file.suffix == ".py" else "not needed to use it"


def _outgoing(file: Path, path: str, base: str, places: tuple[tuple[str, str], ...]) -> Outgoing:
    size = file.stat().st_size
    if path not in (*_RECORDS, ADAPTER_CONFIG):
        return Outgoing(path, size, file)
    text = file.read_text(encoding="utf-8")
    clean = _with_base(file, base) if path == ADAPTER_CONFIG else text
    for place, name in places:
        clean = clean.replace(json.dumps(place)[1:-1], name)
    return Outgoing(path, size, file) if clean == text else Outgoing(path, len(clean.encode()), text=clean)


def _with_base(file: Path, base: str) -> str:
    """The config of an adapter that finds its base by its name on the Hub."""
    said, text = read_json(file), file.read_text(encoding="utf-8")
    if not base or said.get("base_model_name_or_path") == base:
        return text
    return json.dumps(said | {"base_model_name_or_path": base}, indent=2, sort_keys=True)
