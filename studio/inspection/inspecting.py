"""From what was read to an inspection. The same for a folder and for the Hub, and pure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from studio.checkpoint import read_json
from studio.inspection import checking
from studio.inspection.architecture import compare
from studio.inspection.grouping import dtype_totals, group, read_architecture
from studio.inspection.quantization import read_quantization
from studio.inspection.report import Comparison, Finding, Inspection, Tokenizer
from studio.inspection.source import Source, from_folder, from_peek
from studio.inspection.weights import read_weights

if TYPE_CHECKING:
    from studio.hub import Peek

_GRAVITY = ("error", "warning", "note")
_NOT_ASKED = Comparison(False, "it was not asked for")


def inspect_folder(folder: Path, *, against_architecture: bool = False, device: str | None = None) -> Inspection:
    """What a folder holds. `against_architecture` imports transformers to compare the tensors with the config.

    `device` is where the model is to run, such as "cpu" or "cuda", if that is to be judged as well. Raises InputError
    for what is no folder, Unsupported for one without a model, and Damaged where no weights can be read.
    """
    source = from_folder(folder)
    if not _is_model(source):
        read_json(folder / "config.json")  # which says that there is none
    return _inspect(source, against_architecture, device)


def inspect_peek(peek: Peek, *, against_architecture: bool = False, device: str | None = None) -> Inspection:
    """What a model on the Hub holds. As `inspect_folder`; nothing is raised for a repository without a model."""
    source = from_peek(peek) if peek.folder is None else from_folder(peek.folder)
    named = replace(source, model=peek.ref.name, commit=peek.ref.revision)
    return _inspect(named, against_architecture, device)


def _is_model(source: Source) -> bool:
    kinds = {file.kind for file in source.files(set())}
    return "config.json" in source.sizes or bool(kinds & {"weights", "pickle", "gguf"})


def _inspect(source: Source, against_architecture: bool, device: str | None) -> Inspection:
    findings: list[Finding] = []
    config = source.json("config.json", findings)
    how = read_quantization(config)
    weights = read_weights(source, how)
    tensors, files = weights.tensors, source.files(set(weights.read))
    architecture, tokenizer = read_architecture(config), _tokenizer(source, findings)
    adapter = "adapter_config.json" in source.sizes
    comparison = compare(config, tensors) if against_architecture and not adapter else _NOT_ASKED
    if "config.json" not in source.sizes and not adapter:
        message = "There is no config.json, so nothing tells what the tensors are for."
        findings.append(Finding("no-config", "error", message, "Download it from where the weights came from."))
    findings += [
        *weights.findings,
        *checking.format_findings(files),
        *checking.config_findings(architecture, tensors, quantized=how is not None, adapter=adapter),
        *checking.quantization_findings(how, device),
        *checking.comparison_findings(comparison),
        *checking.tokenizer_findings(tokenizer),
    ]
    return Inspection(
        model=source.model,
        commit=source.commit,
        files=files,
        tensors=tensors,
        groups=group(tensors),
        dtypes=dtype_totals(tensors),
        parameters=sum(tensor.weights for tensor in tensors),
        bytes=sum(tensor.bytes for tensor in tensors),
        architecture=architecture,
        tokenizer=tokenizer,
        unsafe=tuple(file.name for file in files if file.kind == "pickle" or file.name.endswith(".py")),
        quantization=how,
        comparison=comparison,
        findings=_by_gravity(findings),
    )


def _tokenizer(source: Source, findings: list[Finding]) -> Tokenizer:
    names = set(source.sizes)
    vocabularies = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json"}
    present = bool(vocabularies & names) or any(
        name.endswith(".tiktoken") or name.startswith("sentencepiece") for name in names
    )
    config = source.json("tokenizer_config.json", findings)
    told = "tokenizer_config.json" if config.get("chat_template") else None
    templates = ("chat_template.jinja", "chat_template.json")
    return Tokenizer(present, "tokenizer.json" in names, next((name for name in templates if name in names), told))


def _by_gravity(findings: list[Finding]) -> tuple[Finding, ...]:
    """The gravest first. That the config is of another model may be seen in two ways, and is said once."""
    told = {(one.id, "" if one.id == "other-architecture" else one.message): one for one in findings}
    return tuple(sorted(told.values(), key=lambda one: _GRAVITY.index(one.severity)))
