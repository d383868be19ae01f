"""What a person should know of a checkpoint before loading it, one rule after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch

from studio.inspection.grouping import embedding_of, head_of, stacks
from studio.inspection.quantization import Quantization
from studio.inspection.report import Architecture, Comparison, FileEntry, Finding, TensorEntry, Tokenizer
from studio.inspection.source import holds_weights
from studio.inspection.weights import some

_TIED_BY_DEFAULT = ("gpt2", "gpt_neo", "gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "cohere2", "opt", "bloom")
_FAMILIES = {  # what the attention of a family is called within its layers
    ".self_attn.q_proj.": (
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "gemma",
        "gemma2",
    ),
    ".attn.c_attn.": ("gpt2", "gpt_bigcode"),
    ".attention.query_key_value.": ("gpt_neox",),
    ".self_attn.qkv_proj.": ("phi3",),
}
_OTHER_CONFIG = "The config belongs to another model, or the files do. Download both again from the same place."


def format_findings(files: Sequence[FileEntry]) -> Iterator[Finding]:
    """What the kinds of files say."""
    weights = [file.name for file in files if file.kind == "weights" and "/" not in file.name]
    pickles = [file.name for file in files if holds_weights(file.name) and "/" not in file.name]
    ggufs = [file.name for file in files if file.kind == "gguf"]
    if pickles and not weights:
        message = f"The weights are there only as pickle files such as {pickles[0]}, which can run code when opened."
        yield Finding(
            "pickle-only", "error", message, "Convert them to safetensors, or look for a version that has it."
        )
    elif pickles:
        message = f"Beside the safetensors are pickle files such as {pickles[0]}. They are never opened here."
        yield Finding(
            "pickle-beside", "note", message, "They can be deleted from the folder; a download leaves them out."
        )
    if ggufs and not weights and not pickles:
        message = f"The weights are there only as GGUF ({len(ggufs)}, such as {ggufs[0]})."
        yield Finding("gguf-only", "error", message, "Choose the model that it was made from, for tuning at least.")
    if not (weights or pickles or ggufs):
        message = "There are no weights."
        yield Finding("no-weights", "error", message, "Choose a model with *.safetensors; this one was never whole.")
    if copies := [file for file in files if file.kind in ("weights", "pickle") and _is_copy(file, files)]:
        size = sum(file.bytes for file in copies)
        message = f"{len(copies)} files such as {copies[0].name} hold weights in another layout, {size / 1e9:.2f} GB."
        yield Finding("duplicate-layout", "note", message, "They are not read, and a download leaves them out.")
    if any(file.name == "adapter_config.json" for file in files):
        message = "There is an adapter here, not a whole model."
        hint = "Choose the model that it was made for, and put the adapter on top."
        yield Finding("adapter", "warning", message, hint)


def tokenizer_findings(tokenizer: Tokenizer) -> Iterator[Finding]:
    """What is missing for turning text into tokens and chats into text."""
    if not tokenizer.present:
        hint = "Take it from the model that this one was made from."
        yield Finding("no-tokenizer", "warning", "There is no tokenizer.", hint)
        return
    if not tokenizer.fast:
        message = "There is no tokenizer.json, so the tokenizer is converted, or runs slowly in Python."
        yield Finding("slow-tokenizer", "note", message, "Save the tokenizer once with transformers to have the file.")
    if tokenizer.chat_template is None:
        message = "There is no chat template: this is a model that goes on with a text, or it was forgotten."
        yield Finding("no-chat-template", "note", message, "Prompt it with plain text, or choose its instruct version.")


def config_findings(
    architecture: Architecture, tensors: Sequence[TensorEntry], *, quantized: bool, adapter: bool
) -> Iterator[Finding]:
    """Where the config and the tensors do not fit together."""
    if not tensors or adapter:
        return
    yield from _family(architecture, tensors)
    yield from _layers(architecture, tensors)
    yield from _head(architecture, tensors)
    embedding = embedding_of(tensors)
    wanted = (architecture.vocabulary, architecture.hidden)
    if embedding and not quantized and None not in wanted and embedding.shape != wanted:
        message = f"{embedding.name} is {list(embedding.shape)}, and the config calls for {list(wanted)}."
        # Some models embed into fewer dimensions than their layers have, and then project.
        grave = embedding.shape[0] != wanted[0]
        yield Finding("embedding-shape", "error" if grave else "warning", message, _OTHER_CONFIG)


def quantization_findings(how: Quantization | None, device: str | None) -> Iterator[Finding]:
    """What a quantized checkpoint needs and does not have here."""
    if how is None:
        return
    if not how.known:
        message = f"It is quantized with {how.method!r}, which transformers does not know and would silently ignore."
        yield Finding("quantization-unknown", "error", message, "Choose the original model, or another version of it.")
        return
    if how.missing:
        message = f"It is quantized with {how.method}, which needs {' and '.join(how.missing)}; that is not installed."
        yield Finding("quantization-package", "error", message, f"pip install {' '.join(how.missing)}")
    if how.devices and device is not None and device not in how.devices:
        message = f"It is quantized with {how.method}, which runs on {' and '.join(how.devices)} only, not on {device}."
        yield Finding("quantization-device", "error", message, "Choose the original model, or another machine.")
    message = f"It is quantized already, with {how.method}" + (f" at {how.bits} bit." if how.bits else ".")
    hint = f"It loads as it is; another precision cannot be asked for. {how.note}".rstrip()
    yield Finding("quantized", "note", message, hint)


def comparison_findings(comparison: Comparison) -> Iterator[Finding]:
    """Where the tensors are not those of the architecture."""
    if not comparison.checked:
        return
    if comparison.missing and len(comparison.missing) > comparison.expected // 2:
        message = f"{len(comparison.missing):,} of {comparison.expected:,} tensors of the architecture are not there."
        yield Finding("other-architecture", "error", message, _OTHER_CONFIG)
    elif comparison.missing:
        message = f"{some(comparison.missing)} is missing; transformers would fill in random numbers."
        yield Finding("tensors-missing", "error", message, "Download the model again, or choose another one.")
    if comparison.unknown:
        message = f"The architecture has no place for {some(comparison.unknown)}."
        yield Finding("tensors-unknown", "warning", message, "They are not loaded. " + _OTHER_CONFIG)
    if comparison.mismatched:
        message = f"{some(comparison.mismatched)} has another shape than the config calls for."
        yield Finding("tensors-mismatched", "error", message, _OTHER_CONFIG)


def _is_copy(file: FileEntry, files: Sequence[FileEntry]) -> bool:
    """A second set of the same weights, for other tools: consolidated*, original/, or one more variant."""
    if file.kind == "pickle":
        return "/" in file.name and holds_weights(file.name)
    plain = fnmatch(file.name, "adapter_model*.safetensors")
    return not file.read and not plain and any(other.read for other in files)


def _family(architecture: Architecture, tensors: Sequence[TensorEntry]) -> Iterator[Finding]:
    """A config beside the tensors of another family."""
    own = next((mark for mark, types in _FAMILIES.items() if architecture.model_type in types), None)
    found = {mark for mark in _FAMILIES if any(mark in tensor.name for tensor in tensors)}
    if own and found and own not in found:
        kin = _FAMILIES[min(found)][0]
        message = f"The config is of {architecture.model_type}, and the tensors are named like those of {kin}."
        yield Finding("other-architecture", "error", message, _OTHER_CONFIG)


def _layers(architecture: Architecture, tensors: Sequence[TensorEntry]) -> Iterator[Finding]:
    """Layers that the config has and the files do not, or the other way round."""
    counts = stacks(tensors)
    if not counts or not architecture.layers:
        return
    there = set(next(iter(counts.values())))
    if any(len(other) == architecture.layers == max(other) + 1 for other in counts.values()):
        return
    short = architecture.layers - len({number for number in there if number < architecture.layers})
    if short:
        message = f"The config says {architecture.layers} layers, and {short:,} of them are not in the files."
        hint = "transformers would fill them with random numbers. " + _OTHER_CONFIG
        yield Finding("layers-missing", "error", message, hint)
    elif more := [number for number in there if number >= architecture.layers]:
        message = f"The config says {architecture.layers} layers, and the files have {len(more):,} more."
        yield Finding("layers-extra", "warning", message, "They are not loaded. Some models keep a layer for guessing.")


def _head(architecture: Architecture, tensors: Sequence[TensorEntry]) -> Iterator[Finding]:
    """Whether the output head is stored, and whether it should be."""
    if not (architecture.class_name or "ForCausalLM").endswith(("ForCausalLM", "LMHeadModel")):
        return
    head = head_of(tensors)
    tied = architecture.tied
    if tied is None and architecture.model_type in _TIED_BY_DEFAULT:
        tied = True
    if head and tied:
        message = f"The head is tied to the embedding, and {head.name} is stored as well: {head.bytes / 1e6:,.1f} MB."
        yield Finding("head-stored", "note", message, "It does no harm; saved anew, the file is smaller.")
    elif not head and tied:
        message = "The head is tied to the embedding and stored once."
        yield Finding("head-tied", "note", message, "This is as it should be.")
    elif not head and tied is False:
        message = "The config says that the head is not tied to the embedding, and the files have none."
        hint = "transformers would fill it with random numbers. Set tie_word_embeddings if it should be tied."
        yield Finding("head-missing", "error", message, hint)
    elif not head and tied is None:
        message = "The files have no output head, and the config does not say whether it is tied to the embedding."
        yield Finding("head-unsaid", "note", message, "Compare it with the architecture to find out.")
