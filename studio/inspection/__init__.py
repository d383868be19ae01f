"""What a checkpoint holds and what is wrong with it, from its small files and the headers of its weights alone."""

from __future__ import annotations

from studio.inspection.architecture import compare
from studio.inspection.inspecting import inspect_folder, inspect_peek
from studio.inspection.quantization import Package, Quantization
from studio.inspection.report import (
    Architecture,
    Comparison,
    DtypeTotal,
    FileEntry,
    FileKind,
    Finding,
    Group,
    Inspection,
    Severity,
    TensorEntry,
    Tokenizer,
)

__all__ = [
    "Architecture",
    "Comparison",
    "DtypeTotal",
    "FileEntry",
    "FileKind",
    "Finding",
    "Group",
    "Inspection",
    "Package",
    "Quantization",
    "Severity",
    "TensorEntry",
    "Tokenizer",
    "compare",
    "inspect_folder",
    "inspect_peek",
]
