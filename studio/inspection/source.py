"""Where an inspection begins: the sizes of all files, the small ones, and the first bytes of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checkpoint import existing, parse_json, read_start
from studio.errors import Damaged, InputError
from studio.inspection.report import FileEntry, FileKind, Finding

if TYPE_CHECKING:
    from studio.hub import Peek

_SMALL = ("*.json", "chat_template*")
_SMALL_BYTES = 100_000_000
_UNREAD = ("tokenizer.json", "vocab.json")  # of many megabytes, and only their being there counts
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
_TOKENIZERS = (
    *("tokenizer*", "vocab.*", "merges.txt", "spiece.model", "sentencepiece*", "tekken.json", "*.tiktoken"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*", "additional_chat_templates/*"),
)
_CONFIGS = ("*.json", "*.yaml", "*.yml")


@dataclass(frozen=True, slots=True)
class Source:
    """What was read of a model, from a folder or from the Hub, and not yet understood."""

    model: str
    commit: str | None
    sizes: dict[str, int]
    contents: dict[str, bytes]
    starts: dict[str, bytes]
    """The first bytes of each safetensors file of the main folder, up to the end of its header."""

    def json(self, name: str, findings: list[Finding]) -> dict[str, Any]:
        """A small file as an object; empty where there is none, or where it is broken, which is noted."""
        if name not in self.contents:
            return {}
        try:
            return parse_json(name, self.contents[name])
        except Damaged as error:
            findings.append(Finding("file-broken", "error", error.message, error.hint))
            return {}

    def files(self, read: set[str]) -> tuple[FileEntry, ...]:
        """All files by path."""
        return tuple(FileEntry(path, size, kind_of(path), path in read) for path, size in sorted(self.sizes.items()))


def from_folder(folder: Path) -> Source:
    """Read what an inspection needs of a folder. Raises InputError where it cannot be."""
    existing(folder)
    try:
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}
        contents = {name: (folder / name).read_bytes() for name, size in sizes.items() if _is_small(name, size)}
        starts = {name: read_start(folder / name)[1] for name in sizes if _is_main(name, "*.safetensors")}
    except OSError as error:
        raise InputError(f"The folder cannot be read: {error}", "Check who may read it.") from error
    return Source(str(folder), None, sizes, contents, starts)


def from_peek(peek: Peek) -> Source:
    """The same of a model on the Hub."""
    sizes = {file.path: file.size for file in peek.files}
    return Source(peek.ref.name, peek.ref.revision, sizes, dict(peek.contents), dict(peek.starts))


def kind_of(path: str) -> FileKind:
    """What a file is for, by its name."""
    name = path.rpartition("/")[2]
    if name.endswith(".safetensors"):
        return "weights"
    if name.endswith(_PICKLES):
        return "pickle"
    if name.endswith(".gguf"):
        return "gguf"
    if any(fnmatch(path, pattern) for pattern in _TOKENIZERS):
        return "tokenizer"
    return "config" if any(fnmatch(name, pattern) for pattern in _CONFIGS) else "other"


def holds_weights(path: str) -> bool:
    """Whether a pickle is one of weights, and not what a trainer leaves behind."""
    return kind_of(path) == "pickle" and not path.rpartition("/")[2].startswith(_NOT_WEIGHTS)


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those right below it: copies in other layouts lie there, and no model deeper."""
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            yield from (file for file in path.iterdir() if file.is_file())
        elif path.is_file():
            yield path


def _is_main(name: str, pattern: str) -> bool:
    return "/" not in name and fnmatch(name, pattern)


def _is_small(name: str, size: int) -> bool:
    wanted = any(_is_main(name, pattern) for pattern in _SMALL)
    return wanted and name not in _UNREAD and size <= _SMALL_BYTES
