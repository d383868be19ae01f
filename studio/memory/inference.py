"""What generating takes: weights, what the layers remember of the text, and what reading and writing it need on top."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from studio.errors import Unsupported
from studio.memory.analytic import WORKSPACE
from studio.memory.architecture import Facts, Layer
from studio.memory.hardware import Device
from studio.memory.offloading import Aside, offload_notes, set_aside
from studio.memory.request import PARTS, Estimate, Moment, Note, Part, Question
from studio.memory.standing import held_precision, held_weights, weight_notes
from studio.models import Precision

_SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
_BITS = {"int8": 8, "int4": 4}
_GROUP, _RESIDUAL = 64, 128
"""QuantizedCache of transformers: a scale and a zero for 64 numbers; the last 128 tokens stay as they are."""


def generating_peak(facts: Facts, question: Question, device: Device | None = None) -> Estimate:
    """What one device holds at the fullest moment of generating, by part.

    Raises Unsupported for a cache that transformers does not have for these layers, and for layers that cannot be set
    aside.
    """
    aside = set_aside(facts, question, device)
    moments = [(name, _shared(parts, question)) for name, parts in _moments(facts, question, device, aside)]
    moments.sort(key=lambda moment: -sum(moment[1].values()))
    fullest = moments[0][1]
    return Estimate(
        question,
        "closed form" if facts.tensors else "headers",
        tuple(Part(name, fullest[name]) for name in PARTS if fullest.get(name)),
        tuple(Moment(name, sum(parts.values())) for name, parts in moments),
        facts.parameters,
        0,
        (
            *facts.notes,
            *weight_notes(facts, question, device),
            *offload_notes(aside, question, device),
            *_notes(facts, question),
        ),
        aside.bytes,
    )


def cache_bytes(facts: Facts, question: Question, tokens: int) -> int:
    """Bytes that all layers remember after so many tokens of each sequence."""
    return question.batch * sum(_layer(layer, question, tokens) * layer.count for layer in facts.layers)


def _layer(layer: Layer, question: Question, tokens: int) -> int:
    """Bytes that one layer remembers of one sequence."""
    wide = question.precision is Precision.FP32
    state = layer.state * (4 if wide else 2) + layer.state_bytes
    if bits := _BITS.get(question.cache_dtype):
        if layer.kind not in ("full", "shared"):
            raise Unsupported(
                f"transformers quantizes the cache of full attention alone, and there are {layer.kind} layers.",
                "Choose the cache dtype auto.",
            )
        constants = 2 * 2 * 8 / _GROUP  # bits a number: a scale and a zero of 16 bit for each group
        quantized = layer.per_token * tokens * (bits + constants) / 8
        return int(quantized) + layer.per_token * min(tokens, _RESIDUAL - 1) * 2
    return layer.per_token * _remembered(layer, question, tokens) * _itemsize(question) + state


def _remembered(layer: Layer, question: Question, tokens: int) -> int:
    """How many tokens a layer holds: a window keeps one less than it is wide, a static cache its whole length."""
    if question.cache == "static":
        return min(question.context, layer.window or question.context)
    return min(tokens, layer.window - 1) if layer.window else tokens


def _itemsize(question: Question) -> int:
    auto = "fp32" if question.precision is Precision.FP32 else "bf16"
    return _SIZES[auto if question.cache_dtype == "auto" else question.cache_dtype]


def _moments(
    facts: Facts, question: Question, device: Device | None, aside: Aside
) -> Iterator[tuple[str, dict[str, int]]]:
    always = {
        "weights": held_weights(facts, question, device) - aside.bytes,
        "workspace": (device.workspace if device else WORKSPACE) if facts.tensors else 0,
    }
    logits = question.batch * facts.vocabulary * 8  # those of the last token, and again in fp32 to choose from
    held = cache_bytes(facts, question, question.context)
    yield "after the last token", {**always, "cache": held}
    if not facts.hidden:
        return
    yield (
        "prefill",
        {
            **always,
            "cache": cache_bytes(facts, question, question.prompt),
            "activations": _reading(facts, question),
            "logits and loss": logits,
            "temporaries": _unpacked(facts, question) + _uncut(facts, question) + aside.visiting,
        },
    )
    growing = 0 if question.cache == "static" else _growing(facts, question)
    yield "decode", {**always, "cache": held, "logits and loss": logits, "temporaries": max(growing, aside.visiting)}


def _reading(facts: Facts, question: Question) -> int:
    """What the widest moment of a layer takes while the prompt is read: gate, up, their product and what goes on."""
    size = 4 if question.precision is Precision.FP32 else 2
    tokens = question.prompt * question.batch
    gated = size * (4 * facts.intermediate + facts.hidden)
    scores = question.prompt * facts.heads * (size + 4) if question.attention == "eager" else 0
    return tokens * max(gated, scores + size * facts.hidden)


def _unpacked(facts: Facts, question: Question) -> int:
    """The largest quantized matrix in 16 bit: so it is multiplied with a prompt, one after the other."""
    precision = held_precision(facts, question)
    if not (precision.quantizes or precision is Precision.STORED):
        return 0
    return 2 * max((prod(tensor.shape) for tensor in facts.tensors if tensor.quantizes), default=0)


def _uncut(facts: Facts, question: Question) -> int:
    """What windows hold of the prompt beyond what they remember: a view is cut, and the whole stays until it grows."""
    if question.cache == "static" or question.cache_dtype in _BITS:
        return 0
    beyond = sum(
        layer.count * layer.per_token * max(0, question.prompt - layer.window + 1)
        for layer in facts.layers
        if layer.window
    )
    return question.batch * beyond * _itemsize(question)


def _growing(facts: Facts, question: Question) -> int:
    """A dynamic cache grows by copying: of one layer the keys, or the values, are there twice for a moment."""
    largest = max(
        (layer.per_token * _remembered(layer, question, question.context) for layer in facts.layers), default=0
    )
    parts = 1 if question.cache_dtype in _BITS else 2  # a quantized one unpacks both
    return question.batch * largest * _itemsize_of_work(question) // parts


def _itemsize_of_work(question: Question) -> int:
    return 2 if question.cache_dtype in _BITS else _itemsize(question)


def _shared(parts: dict[str, int], question: Question) -> dict[str, int]:
    """What one of several devices holds. Under ddp each holds all of it, for its own sequences."""
    if question.devices == 1 or question.strategy == "ddp":
        return parts
    cut = ("weights",) if question.strategy == "fsdp" else ("weights", "cache", "activations")
    return {name: size // question.devices if name in cut else size for name, size in parts.items()}


def _notes(facts: Facts, question: Question) -> Iterator[Note]:
    if facts.context and question.context > facts.context:
        yield Note(
            "beyond-context",
            "note",
            f"The model was made for {facts.context:,} tokens and may read {question.context:,} badly.",
        )
    kinds = {layer.kind: layer.count for layer in facts.layers}
    if len(kinds) > 1 or not kinds.keys() <= {"full"}:
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        if counted:
            yield Note("layer-kinds", "note", f"Of its layers, {counted}: each remembers in its own way.")
    if question.cache_dtype in _BITS:
        yield Note("cache-quantized", "note", "Assumed from the code of transformers; it was not measured.")
    if question.devices > 1:
        yield Note("devices-assumed", "note", "What several devices hold is divided evenly; it was not measured.")
    if facts.tensors and (facts.experts or facts.covers != "decoder"):
        yield Note("prefill-rough", "note", "What reading the prompt takes is rough for such a model.")
