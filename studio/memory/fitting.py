"""Make it fit: the fewest changes to a question that fit a device, each with what it saves and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from studio.errors import InputError, StudioError
from studio.memory.architecture import Facts
from studio.memory.estimating import estimate
from studio.memory.hardware import Device, Verdict, fit, room
from studio.memory.offloading import finds_room
from studio.memory.request import Estimate, Question
from studio.models import Precision

_OFFLOAD_STEPS = 16
_MOST_CHANGES = 4
"""Nobody follows advice of five things at once, and the search stays short."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change to a question. `saved` is what it takes off the peak after the changes before it."""

    id: str
    values: tuple[tuple[str, Any], ...]
    """Fields of the question, and what they become."""
    price: str
    source: str
    cost: int
    """How dear it is beside others: 1 for time alone, more where quality or the task itself suffers."""
    saved: int = 0


@dataclass(frozen=True, slots=True)
class Fitting:
    """A question that fits, and the way there."""

    device: str
    verdict: Verdict
    changes: tuple[Change, ...]
    """None where it fits as it is, or where nothing helps."""
    question: Question
    estimate: Estimate


def make_fit(facts: Facts, question: Question, device: Device) -> Fitting:
    """The smallest set of changes that fits by the closed form, the cheapest of those that are as small.

    Where none does, the verdict is of the question as it was. Raises Unsupported where the closed form has no answer.
    """
    now = estimate(facts, question, device)
    if _finds_room(now, device):
        return Fitting(device.key, fit(now.peak, device), (), question, now)
    knobs = list(_knobs(facts, question, device))
    for count in range(1, min(_MOST_CHANGES, len(knobs)) + 1):
        if fitting := _cheapest(facts, question, device, list(combinations(knobs, count))):
            return fitting
    return Fitting(device.key, fit(now.peak, device), (), question, now)


def _cheapest(facts: Facts, question: Question, device: Device, sets: list[tuple[list[Change], ...]]) -> Fitting | None:
    """The cheapest choice out of sets of knobs that fits; None where no choice does."""
    best: tuple[int, int, tuple[Change, ...]] | None = None
    for knobs in sets:
        strongest = _together(question, tuple(options[-1] for options in knobs))
        if strongest and _peak(facts, strongest, device) > room(device):
            continue
        for changes in product(*knobs):
            cost = sum(change.cost for change in changes)
            if best is not None and cost > best[0]:
                continue
            if (changed := _together(question, changes)) is None:
                continue
            answer = estimate(facts, changed, device)
            # Among those of one price the one that leaves most of the device in use has changed least.
            if _finds_room(answer, device) and (best is None or (cost, -answer.peak) < best[:2]):
                best = (cost, -answer.peak, changes)
    return _told(facts, question, device, best[2]) if best else None


def _told(facts: Facts, question: Question, device: Device, changes: tuple[Change, ...]) -> Fitting:
    """The fitting with what each change saves, in the order in which they are made."""
    told = []
    before = _peak(facts, question, device)
    for number, change in enumerate(changes, 1):
        after = _peak(facts, _changed(question, changes[:number]), device)
        told.append(replace(change, saved=before - after))
        before = after
    new = _changed(question, changes)
    answer = estimate(facts, new, device)
    return Fitting(device.key, fit(answer.peak, device), tuple(told), new, answer)


def _changed(question: Question, changes: tuple[Change, ...]) -> Question:
    return replace(question, **{name: value for change in changes for name, value in change.values})


def _together(question: Question, changes: tuple[Change, ...]) -> Question | None:
    """The question after the changes; None where one excludes the other: layers in nf4 do not lie in main memory."""
    try:
        return _changed(question, changes)
    except InputError:
        return None


def _finds_room(answer: Estimate, device: Device) -> bool:
    return answer.peak <= room(device) and finds_room(answer.offloaded, device)


def _peak(facts: Facts, question: Question, device: Device) -> int:
    return estimate(facts, question, device).peak


def _knobs(facts: Facts, question: Question, device: Device) -> Iterator[list[Change]]:
    """What can be changed, each with its choices from the weakest to the strongest, as far as the formula answers."""
    every = _training_knobs(question) if question.task == "train" else _generating_knobs(facts, question)
    for options in every:
        possible = [change for change in options if _is_possible(facts, question, change, device)]
        if possible:
            yield possible


def _is_possible(facts: Facts, question: Question, change: Change, device: Device) -> bool:
    try:
        estimate(facts, _changed(question, (change,)), device)
    except StudioError:
        return False
    return True


_TRADE = "transformers documentation, GPU training: checkpointing is about 20 % slower"
_QLORA = "Dettmers et al. 2023, QLoRA, table 3 and section 4"
_LLM_INT8 = "Dettmers et al. 2022, LLM.int8()"
_ADAM8 = "Dettmers et al. 2022, 8-bit optimizers via block-wise quantization"
_LORA = "Hu et al. 2021, LoRA, tables 2 and 4"
_OFFLOAD = "accelerate, benchmarks/big_model_inference: OPT-30B, 14.1 GB in main memory, 2.37 s a token"
_LEARNS_LESS = "Biderman et al. 2024, LoRA learns less and forgets less"


def _training_knobs(question: Question) -> Iterator[list[Change]]:
    if not question.checkpointing:
        yield [Change("checkpointing", (("checkpointing", True),), "About 20 % more time a step.", _TRADE, 3)]
    if question.loss == "plain":
        price = "No time; the logits are not kept, so they cannot be looked at."
        source = "studio/training/loss.py, the loss of a run here"
        yield [Change("chunked-loss", (("loss", "chunked"),), price, source, 1)]
    yield list(_batches(question))
    if question.optimizer in ("adamw", "paged adamw"):
        price = "The states are rounded to 8 bit; the loss was the same in the authors' runs."
        yield [Change("8-bit-optimizer", (("optimizer", "adamw 8-bit"),), price, _ADAM8, 4)]
    if question.method == "full":
        yield list(_adapters())
    else:
        yield list(_precisions(question))
        yield list(_ranks(question))
    yield list(_contexts(question, "Longer texts are cut, and what is cut is not learned."))


def _batches(question: Question) -> Iterator[Change]:
    """Smaller batches with as many more of them added up, so that what is learned stays the same."""
    batch, cost = question.batch, 2
    while batch > 1:
        parts = next(n for n in range(2, batch + 1) if batch % n == 0)
        batch //= parts
        accumulation = question.accumulation * (question.batch // batch)
        values = (("batch", batch), ("accumulation", accumulation))
        price = f"The same effective batch in {accumulation} parts; a step takes somewhat longer."
        yield Change("smaller-batch", values, price, "transformers documentation, gradient accumulation", cost)
        cost += 1


def _adapters() -> Iterator[Change]:
    values: tuple[tuple[str, Any], ...] = (("method", "lora"), ("rank", 16), ("targets", "all-linear"))
    price = "An adapter is trained and not the model: enough for most tasks, less for much new knowledge."
    yield Change("lora", values, price, _LEARNS_LESS, 6)
    for change in _precisions(Question()):
        yield replace(change, id=f"lora-{change.id}", values=values + change.values, cost=6 + change.cost)


def _precisions(question: Question) -> Iterator[Change]:
    bits = question.precision.bits or 0
    if bits == 32:
        yield Change("bf16", (("precision", Precision.BF16),), "Weights are rounded to 16 bit.", "NVIDIA, AMP guide", 2)
    if bits > 8:
        price = "Hardly any quality; a step is slower."
        yield Change("int8", (("precision", Precision.INT8),), price, _LLM_INT8, 4)
    if bits > 4:
        price = "A little quality, which training on top wins back; a step is slower."
        yield Change("nf4", (("precision", Precision.NF4), ("double_quant", True)), price, _QLORA, 5)


def _ranks(question: Question) -> Iterator[Change]:
    if question.method in ("lora", "dora") and question.rank > 8:
        price = "A smaller update; 8 was as good as 64 in the authors' runs."
        yield Change("lower-rank", (("rank", 8),), price, _LORA, 3)


def _contexts(question: Question, price: str) -> Iterator[Change]:
    for cost, part in ((8, 2), (9, 4), (10, 8)):
        if (context := question.context // part) >= 128:
            yield Change("shorter-context", (("context", context),), price, "design of the task", cost)


def _layers_aside(facts: Facts, question: Question) -> Iterator[Change]:
    """More and more layers in main memory, in at most sixteen steps."""
    step = max(1, -(facts.depth // -_OFFLOAD_STEPS))
    for layers in range(question.offload + step, facts.depth + step, step):
        count = min(layers, facts.depth)
        price = (
            f"No quality, but {count} of {facts.depth} layers come from main memory for every token, at about 6 GB/s."
        )
        yield Change("offload", (("offload", count),), price, _OFFLOAD, 11)


def _generating_knobs(facts: Facts, question: Question) -> Iterator[list[Change]]:
    yield list(_precisions(question))
    if question.batch > 1:
        price = "Fewer replies at once, one after the other."
        halves = (question.batch // part for part in (2, 4, 8) if question.batch // part)
        yield [Change("smaller-batch", (("batch", n),), price, "design of the task", 2) for n in halves]
    if question.attention == "eager":
        yield [Change("sdpa", (("attention", "sdpa"),), "None.", "PyTorch, scaled_dot_product_attention", 1)]
    if question.cache_dtype not in ("int8", "int4"):
        price = "Older tokens are remembered less exactly, and each token takes longer."
        source = "transformers documentation, quantized cache"
        yield [Change("int4-cache", (("cache_dtype", "int4"),), price, source, 6)]
    yield list(_contexts(question, "Older parts of a conversation are forgotten sooner."))
    yield list(_layers_aside(facts, question))
