"""Tensors by the part of the model that they belong to, and layers that are alike told once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from studio.inspection.report import Architecture, DtypeTotal, Group, TensorEntry

_NUMBERED = re.compile(r"^(.*?)\.?(\d+)\.(.+)$")  # the first number: those of experts come after it
_EMBEDDING = re.compile(r"(?:^|\.)(?:\w*embed\w*|wte|wpe)\.")
_OF_TOKENS = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.")
_NORM = re.compile(r"(?:^|\.)(?:\w*norm\w*|ln_f|ln)\.")
_INNER = ("text_config", "llm_config")  # of models that read more than text
_ORDER = ("embedding", "layers", "other", "norm", "head")
Kind = Literal["embedding", "layers", "norm", "head", "other"]


def stacks(tensors: Iterable[TensorEntry]) -> dict[str, dict[int, list[TensorEntry]]]:
    """Tensors of numbered layers, by the name of the stack and the number. The largest stack comes first."""
    found: dict[str, dict[int, list[TensorEntry]]] = {}
    for tensor in tensors:
        if (match := _NUMBERED.match(tensor.name)) and len(match[2]) < 6:
            found.setdefault(match[1], {}).setdefault(int(match[2]), []).append(tensor)
    return dict(sorted(found.items(), key=lambda item: -sum(t.bytes for layer in item[1].values() for t in layer)))


def head_of(tensors: Iterable[TensorEntry]) -> TensorEntry | None:
    """The matrix that turns what the last layer says into tokens, if it is stored."""
    return next((tensor for tensor in tensors if kind_of(tensor.name) == "head" and len(tensor.shape) == 2), None)


def embedding_of(tensors: Iterable[TensorEntry]) -> TensorEntry | None:
    """The matrix that turns tokens into what the first layer reads. Positions and layers may have theirs besides."""
    return next((tensor for tensor in tensors if _OF_TOKENS.search(tensor.name) and len(tensor.shape) == 2), None)


def kind_of(name: str) -> Kind:
    """The part that a tensor belongs to."""
    if _NUMBERED.match(name):
        return "layers"
    for kind, pattern in (("head", _HEAD), ("embedding", _EMBEDDING), ("norm", _NORM)):
        if pattern.search(name):
            return cast(Kind, kind)
    return "other"


def group(tensors: Sequence[TensorEntry]) -> tuple[Group, ...]:
    """All tensors in groups, in the order in which a model uses them."""
    groups: list[Group] = []
    for number, (stack, layers) in enumerate(stacks(tensors).items()):
        alike: dict[tuple[Any, ...], list[int]] = {}
        for index, members in sorted(layers.items()):
            alike.setdefault(_signature(stack, index, members), []).append(index)
        for numbers in alike.values():
            called = f"layers {_ranges(numbers)}" if len(numbers) > 1 else f"layer {numbers[0]}"
            groups.append(_group(called if number == 0 else f"{stack} {_ranges(numbers)}", "layers", numbers, layers))
    rest: dict[Kind, list[TensorEntry]] = {}
    for tensor in tensors:
        rest.setdefault(kind_of(tensor.name), []).append(tensor)
    rest.pop("layers", None)
    groups += [_group(kind, kind, [], {0: members}) for kind, members in rest.items()]
    return tuple(sorted(groups, key=lambda one: _ORDER.index(one.kind)))


def dtype_totals(tensors: Iterable[TensorEntry]) -> tuple[DtypeTotal, ...]:
    """What there is of each dtype, most bytes first."""
    found: dict[str, list[TensorEntry]] = {}
    for tensor in tensors:
        found.setdefault(tensor.dtype, []).append(tensor)
    totals = [
        DtypeTotal(dtype, len(of), sum(tensor.weights for tensor in of), sum(tensor.bytes for tensor in of))
        for dtype, of in found.items()
    ]
    return tuple(sorted(totals, key=lambda total: -total.bytes))


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The facts of a config, under the names that architectures have for them."""
    inner: dict[str, Any] = next((part for key in _INNER if isinstance(part := config.get(key), dict)), {})
    both = {**config, **{key: value for key, value in inner.items() if value is not None}}
    classes = config.get("architectures")
    tied = config.get("tie_word_embeddings", inner.get("tie_word_embeddings"))
    return Architecture(
        class_name=classes[0] if isinstance(classes, list) and classes and isinstance(classes[0], str) else None,
        model_type=_text(config, "model_type"),
        layers=_number(both, "num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        hidden=_number(both, "hidden_size", "n_embd", "d_model"),
        heads=_number(both, "num_attention_heads", "n_head", "num_heads", "n_heads"),
        kv_heads=_number(both, "num_key_value_heads", "num_kv_heads", "n_head_kv"),
        vocabulary=_number(both, "vocab_size"),
        context=_number(both, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
        tied=tied if isinstance(tied, bool) else None,
        dtype=_text(both, "dtype", "torch_dtype"),
    )


def _group(name: str, kind: Kind, numbers: list[int], layers: Mapping[int, list[TensorEntry]]) -> Group:
    members = layers[numbers[0] if numbers else 0]
    dtypes = tuple(sorted({tensor.dtype for tensor in members}))
    weights, size = sum(tensor.weights for tensor in members), sum(tensor.bytes for tensor in members)
    return Group(name, kind, tuple(numbers), len(members), weights, size, dtypes)


def _signature(stack: str, index: int, members: Iterable[TensorEntry]) -> tuple[Any, ...]:
    start = len(f"{stack}.{index}." if stack else f"{index}.")
    return tuple(sorted((tensor.name[start:], tensor.dtype, tensor.shape) for tensor in members))


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 as "1–3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("–".join(map(str, run)) for run in runs)


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)


def _text(config: Mapping[str, Any], *names: str) -> str | None:
    return next((value for name in names if isinstance(value := config.get(name), str)), None)
