"""The words of an inspection. Frozen, picklable, and plain once `dataclasses.asdict` has been at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from studio.inspection.quantization import Quantization

FileKind = Literal["weights", "pickle", "gguf", "config", "tokenizer", "other"]
Severity = Literal["note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the folder."""

    name: str
    """Its path in the folder. Not called so: Gradio's client takes whatever has a `path` for a file to fetch."""
    bytes: int
    kind: FileKind
    read: bool = False
    """Whether its tensors are those of the model. Copies in other layouts are not read, here or by transformers."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor as its header has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    file: str
    weights: int
    """How many weights it stands for: packed ones count one by one, scales and other aids not at all."""


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that belong together. Of layers that are alike: the numbers of all, and the sizes of each."""

    name: str
    """For example "embedding", "layers 0–31" or "norm"."""
    kind: Literal["embedding", "layers", "norm", "head", "other"]
    layers: tuple[int, ...]
    """Empty for what is no layer."""
    tensors: int
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DtypeTotal:
    """Everything of one dtype."""

    dtype: str
    tensors: int
    weights: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """What config.json says. None is what it does not say."""

    class_name: str | None
    model_type: str | None
    layers: int | None
    hidden: int | None
    heads: int | None
    kv_heads: int | None
    vocabulary: int | None
    context: int | None
    tied: bool | None
    """Whether the output head is the embedding."""
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What there is to make tokens with."""

    present: bool
    fast: bool
    """Whether tokenizer.json is there, which needs no conversion."""
    chat_template: str | None
    """The file that has it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The tensors beside those that transformers would build from the config, by name."""

    checked: bool
    reason: str
    """Why it was not checked; empty where it was."""
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    """Those of another shape."""
    expected: int = 0
    """How many tensors the architecture has."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know. An error stops loading, a warning may spoil what comes out."""

    id: str
    severity: Severity
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that can be told of a checkpoint without loading it."""

    model: str
    commit: str | None
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]
    groups: tuple[Group, ...]
    dtypes: tuple[DtypeTotal, ...]
    parameters: int
    bytes: int
    """Of all tensors."""
    architecture: Architecture
    tokenizer: Tokenizer
    unsafe: tuple[str, ...]
    """Files that can run code when they are opened."""
    quantization: Quantization | None
    comparison: Comparison
    findings: tuple[Finding, ...]
    """The gravest first."""
