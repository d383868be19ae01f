"""What an adapter that was trained on a quantized base loses on each of its ways into one model, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

from studio import compute, fields, quality
from studio.errors import InputError
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat
from studio.loading import LoadPlan, Quantization, load
from studio.loading.reading import with_adapter
from studio.loading.skeleton import weights_dtype
from studio.merging.proof import PROMPTS
from studio.merging.proving_replies import Distance, Heard, Say, apart, hear_reference, read_scores, round_weights
from studio.models import ModelRef, Precision
from studio.training.proving import dequantized

if TYPE_CHECKING:
    import torch

Way = Literal["original", "dequantized", "quantized"]
WAYS: dict[Way, str] = {
    "original": "into the base as it was before it was quantized, in 16 bit",
    "dequantized": "into the quantized base brought back to 16 bit: the very weights that the adapter was trained on",
    "quantized": "back into the quantized base, which rounds the sum to so few bits again",
}


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """An adapter, its base in 16 bit, and how that was quantized when the adapter was trained."""

    base: Path
    adapter: Path
    precision: Precision = Precision.NF4
    quantization: Quantization = field(default_factory=Quantization)
    into: Precision = Precision.BF16
    """What a merge that is not quantized is rounded to."""
    prompts: tuple[str, ...] = ()
    """What is asked beside `PROMPTS`."""
    reply_tokens: int = field(
        default=24, metadata={"help": "Tokens of each reply that are measured on", "min": 1, "max": 512}
    )

    def __post_init__(self) -> None:
        fields.check(self)
        if not self.precision.quantizes:
            raise InputError(f"{self.precision} is not quantized: there is nothing to choose.", "Merge it as it is.")
        if self.into not in (Precision.FP32, Precision.BF16, Precision.FP16):
            raise InputError(f"A merge into {self.into} is the third way already.", "Choose bf16, fp16 or fp32.")


@dataclass(frozen=True, slots=True)
class Choice:
    """One way, and how far what it makes is from the adapter on its own quantized base."""

    way: Way
    distance: Distance


@dataclass(frozen=True, slots=True)
class Choices:
    """All ways, measured on the same tokens."""

    precision: Precision
    into: Precision
    choices: tuple[Choice, ...]
    adapter: Distance
    """What the adapter itself does, to hold the others against."""
    tokens: int
    seconds: float

    @property
    def nearest(self) -> Way:
        """The way that changes least of what was trained."""
        return min(self.choices, key=lambda choice: choice.distance.kl).way


def measure_choices(question: ChoiceQuestion) -> Generator[Progress | Finished[Choices], None, None]:
    """Merge in memory on each way, and read the same tokens with all. Ends with `Finished(Choices)`.

    All is computed in fp32, as when it was trained, so that rounding of weights is all that is measured; int8 alone
    rounds what goes into its layers as well. It takes the memory of the base in fp32. Closing ends it between two
    layers. Raises what `load` raises.
    """
    started = time.monotonic()
    yield from compute.imports()
    reference, adapter, quantized = yield from _on_its_own_base(question)
    compute.release()
    found = [Choice("quantized", quantized)]
    for way, plan in (("dequantized", _plan(question, adapter=None)), ("original", _original(question))):
        loaded = yield from load(plan, question.base)
        work = _merge(question, loaded.model, reference)
        del loaded
        found.insert(0, Choice("original" if way == "original" else "dequantized", (yield from _told(work))))
        del work
        compute.release()
    tokens = sum(len(scores) for scores in reference.scores)
    seconds = time.monotonic() - started
    yield Finished(Choices(question.precision, question.into, tuple(found), adapter, tokens, seconds))


def _plan(question: ChoiceQuestion, adapter: Path | None) -> LoadPlan:
    how = replace(question.quantization, compute="fp32")
    return LoadPlan(ModelRef("folder", str(question.base)), question.precision, adapter, how)


def _original(question: ChoiceQuestion) -> LoadPlan:
    return LoadPlan(ModelRef("folder", str(question.base)), Precision.FP32)


def _told(work: Callable[[Say, Event], Any]) -> Generator[Progress, None, Any]:
    latest = Progress(Phase.MEASURE)

    def tell(said: list[Progress]) -> list[Progress]:
        nonlocal latest
        latest = said[-1] if said else latest
        return [latest]

    yield latest
    return (yield from heartbeat(work, tell, every=0.1))


def _on_its_own_base(question: ChoiceQuestion) -> Generator[Progress, None, tuple[Heard, Distance, Distance]]:
    """What is measured against, how much the adapter changes, and what PEFT's merge into few bits does to it."""
    loaded = yield from load(_plan(question, question.adapter), question.base)
    model: Any = loaded.model
    _in_fp32(model)
    prompts = (*PROMPTS, *question.prompts)
    reference = yield from _told(hear_reference(model, loaded.tokenizer, prompts, (), question.reply_tokens))

    def work(say: Say, stop: Event) -> tuple[Distance, Distance]:
        with quality.ended_by(stop, model):
            with model.disable_adapter():
                adapter = _distance(question, model, reference, say)
            return adapter, _distance(question, model.merge_and_unload(), reference, say)

    adapter, quantized = yield from _told(work)
    return reference, adapter, quantized


def _merge(question: ChoiceQuestion, base: Any, reference: Heard) -> Callable[[Say, Event], Distance]:
    """Work to be done on a thread: merge into 16 bit, and measure."""

    def work(say: Say, stop: Event) -> Distance:
        adapted: Any = with_adapter(_plain(base), question.adapter)
        merged = adapted.merge_and_unload()
        round_weights(merged, weights_dtype(question.into))
        with quality.ended_by(stop, merged):
            return _distance(question, merged, reference, say)

    return work


def _distance(question: ChoiceQuestion, model: Any, reference: Heard, say: Say) -> Distance:
    scores = read_scores(model, reference.prompts, reference.replies, question.reply_tokens, say)
    return apart(reference.scores, scores)


def _plain(model: Any) -> Any:
    """The model with what is quantized as the numbers that it stands for, all of it in fp32."""
    for name, layer in list(model.named_modules()):
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt"):
            model.set_submodule(name, _linear(layer))
    _in_fp32(model)
    return model


def _in_fp32(model: Any) -> None:
    """All that is not packed. Not by float(), which a model that was quantized refuses."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and type(tensor).__name__ not in ("Params4bit", "Int8Params"):
            tensor.data = tensor.data.float()


def _linear(layer: Any) -> torch.nn.Linear:
    import torch

    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = torch.nn.Parameter(dequantized(layer), requires_grad=False)
    if layer.bias is not None:
        plain.bias = torch.nn.Parameter(layer.bias.detach().float(), requires_grad=False)
    return plain
