"""How many parameters an adapter has: by its formula where that is exact, and by PEFT without weights elsewhere."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

from studio.errors import Unsupported
from studio.memory.architecture import Facts, Tensor
from studio.memory.request import ALL_LINEAR, Question

_INWARD = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "wo", "w2")
Shapes = tuple[tuple[tuple[int, ...], int], ...]
"""Shapes of tensors, and how many there are of each."""
_RANKS = {"adalora": "init_r", "boft": ""}
"""How a method calls its rank, where it is not r; empty where it has none."""


def adapter_shapes(facts: Facts, question: Question) -> Shapes:
    """The tensors that an adapter adds and trains. Raises Unsupported for modules or a method that do not suit."""
    found = targeted(facts, question)
    if question.method not in ("lora", "dora") or (facts.experts and question.targets == ALL_LINEAR):
        return _counted(facts, question)
    shapes: Counter[tuple[int, ...]] = Counter()
    for tensor in found:
        outputs, inputs = tensor.shape
        shapes[(question.rank, inputs)] += tensor.count
        shapes[(outputs, question.rank)] += tensor.count
        if question.method == "dora":
            shapes[(outputs,)] += tensor.count
    return tuple(shapes.items())


def targeted(facts: Facts, question: Question) -> tuple[Tensor, ...]:
    """The matrices that get an adapter. Raises Unsupported where none does."""
    linear = [tensor for tensor in facts.tensors if _is_linear(tensor)]
    if question.targets == ALL_LINEAR:
        found = [tensor for tensor in linear if tensor.module in facts.adapted]
    else:
        names = question.target_names
        places = [(f".{tensor.name.removesuffix('.weight')}", tensor) for tensor in linear]
        found = [tensor for place, tensor in places if any(place.endswith(f".{name}") for name in names)]
        if stranger := [name for name in names if not any(place.endswith(f".{name}") for place, _ in places)]:
            raise Unsupported(f"No linear module is called {stranger[0]!r}.", f"It has {', '.join(facts.adapted)}.")
    if not found:
        raise Unsupported("Nothing in this model takes an adapter.", "Choose the method full, or another model.")
    return tuple(found)


def _is_linear(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and tensor.name.endswith(".weight") and tensor.kind in ("Linear", "Conv1D")


def _counted(facts: Facts, question: Question) -> Shapes:
    if question.method != "lora":
        return tuple(Counter(_by_peft(facts, question.method, question.targets, question.rank)).items())
    # Every size of a LoRA adapter grows evenly with its rank, so two of them tell all, and a slider need not wait.
    one, two = (_by_peft(facts, "lora", question.targets, rank) for rank in (1, 2))
    grown = (
        tuple(low + (high - low) * (question.rank - 1) for low, high in zip(*shapes, strict=True))
        for shapes in zip(one, two, strict=True)
    )
    return tuple(Counter(grown).items())


@lru_cache(maxsize=64)
def _by_peft(facts: Facts, method: str, targets: str, rank: int) -> tuple[tuple[int, ...], ...]:
    """The shapes that PEFT makes on the meta device. A second or two for a large model, at once when asked again."""
    import peft
    import torch

    from studio.memory.blueprint import build

    options: dict[str, Any] = {"target_modules": targets if targets == ALL_LINEAR else _names(targets)}
    if name := _RANKS.get(method, "r"):
        options[name] = rank
    if method == "dora":
        options["use_dora"] = True
    if method == "adalora":
        options |= {"target_r": max(1, rank // 2), "total_step": 1000}
    if method == "oft":
        options["oft_block_size"] = 0  # one of the two has to be 0
    if method == "ia3":
        # What scales its inputs rather than its outputs has to be named; PEFT knows the usual ones of an architecture.
        usual = {} if targets == ALL_LINEAR else {"feedforward_modules": [n for n in _names(targets) if n in _INWARD]}
        options = usual | ({} if targets == ALL_LINEAR else {"target_modules": _names(targets)})
    model = build(facts)
    before = {id(parameter) for parameter in model.parameters()}
    try:
        with torch.device("meta"):
            peft_type = "LORA" if method == "dora" else method.upper()
            adapted = peft.get_peft_model(model, peft.get_peft_config({"peft_type": peft_type, **options}))
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        words = " ".join(str(error).split())[:200]
        raise Unsupported(
            f"PEFT cannot put {method} on this model: {words}", "Choose lora, or name modules."
        ) from error
    return tuple(tuple(p.shape) for p in adapted.parameters() if p.requires_grad and id(p) not in before)


def _names(targets: str) -> list[str]:
    return [name.strip() for name in targets.split(",")]
