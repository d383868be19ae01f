"""Rules that fire where they matter: pure functions of facts, each a sentence with its number and where it is from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from studio.compute import Machine
from studio.inspection import Inspection
from studio.loading import Outlook
from studio.memory import Device, Estimate, Fitting, fit
from studio.models import Precision
from studio.tokenizer import EndOfTurn, Form, Masked

Severity = Literal["note", "warning"]


@dataclass(frozen=True, slots=True)
class Advice:
    """One piece of advice. `precision` is what one click would choose, where that is the answer."""

    id: str
    severity: Severity
    why: str
    source: str
    precision: Precision | None = None


def on_loading(ahead: Outlook, machine: Machine) -> list[Advice]:
    """What to know about a plan before it is carried out, or instead of it."""
    rules = (_quantization_selection, _fused_experts, _device_map, _kbit_preparation)
    return [*_mixed_precision(ahead, machine), *(advice for rule in rules for advice in rule(ahead))]


def on_checkpoint(inside: Inspection) -> list[Advice]:
    """What to know about the files of a model."""
    return [advice for rule in (_safetensors, _fast_tokenizer) for advice in rule(inside)]


def on_memory(answer: Estimate, device: Device | None = None, fitting: Fitting | None = None) -> list[Advice]:
    """What to know about a piece of work by what it takes; `fitting` is what would make it fit the device."""
    found = [advice for rule in (_checkpointing, _whole_logits, _wide_training) for advice in rule(answer)]
    if device:
        found += [*_room_for_more(answer, device), *_needless_quantization(answer, device)]
    return [*found, *(_offloaded(fitting, device) if device and fitting else [])]


def on_conversation(masked: Masked | None, end: EndOfTurn | None, ways: tuple[Form, ...]) -> list[Advice]:
    """What to know about how conversations are read and trained on, by one of them; None for what cannot be told."""
    ends = _eos_not_trained(masked, end) if masked and end else ()
    return [*ends, *_template_mismatch(ways)]


_SIXTEEN = (Precision.BF16, Precision.FP16)


def _quantization_selection(ahead: Outlook) -> Iterator[Advice]:
    free = sum(room.free for room in ahead.rooms[:1])
    held, sizes = ahead.plan.precision, dict(ahead.alternatives)
    sixteen = next((precision for precision in _SIXTEEN if precision in sizes), None)
    if held is None or sixteen is None:
        return
    if held.quantizes and sizes[sixteen] <= 0.6 * free:
        yield Advice(
            "quantization-selection",
            "note",
            f"In {sixteen} it takes {_gb(sizes[sixteen])} of {_gb(free)}, so nothing has to be lost to quantization.",
            "QLoRA, Dettmers et al. 2023, section 4: 4 bit costs quality that 16 bit keeps",
            precision=sixteen,
        )
    elif held.bits in (16, 32) and ahead.weights > free:
        for smaller, why in ((Precision.INT8, "which costs least quality"), (Precision.NF4, "which takes least room")):
            if sizes.get(smaller, free + 1) <= free:
                yield Advice(
                    "quantization-selection",
                    "warning",
                    f"It does not fit on {ahead.rooms[0].device} in {held}, and does in {smaller}"
                    f" ({_gb(sizes[smaller])}), {why}.",
                    "computed for this model, module by module",
                    precision=smaller,
                )
                return


def _mixed_precision(ahead: Outlook, machine: Machine) -> Iterator[Advice]:
    held = ahead.plan.precision
    if held is Precision.FP16 and machine.device == "cpu":
        yield Advice(
            "mixed-precision",
            "warning",
            "A CPU computes fp16 by way of fp32: reading a prompt takes about four times as long as in fp32.",
            "measured on an AVX512 CPU with torch 2.13",
            precision=Precision.BF16 if machine.has_bf16 else Precision.FP32,
        )
    elif held is Precision.FP16 and machine.has_bf16:
        yield Advice(
            "mixed-precision",
            "note",
            "This device has bf16, which has the range of fp32 and takes the same room as fp16.",
            "bf16 since Ampere, and since AVX512-BF16 on CPUs",
            precision=Precision.BF16,
        )
    elif held is Precision.BF16 and not machine.has_bf16:
        yield Advice(
            "mixed-precision",
            "warning",
            f"This {machine.device.upper()} has no bf16 of its own and computes it by way of fp32.",
            "asked of the device",
            precision=Precision.FP16 if machine.device == "cuda" else Precision.FP32,
        )


def _device_map(ahead: Outlook) -> Iterator[Advice]:
    main = ahead.rooms[0].device
    away = [block for block in ahead.blocks if block.device in ("cpu", "disk") and block.device != main]
    if away:
        places = " and ".join(sorted({block.device for block in away}))
        yield Advice(
            "device-map",
            "warning",
            f"{_gb(sum(block.bytes for block in away))} lie on {places} and are brought to {main} for every token:"
            " for trying out, not for training.",
            "accelerate, big model inference",
        )


def _fused_experts(ahead: Outlook) -> Iterator[Advice]:
    held = ahead.plan.precision
    left = [module for module in ahead.modules if module.note.startswith("fused experts")]
    share = sum(module.bytes for module in left) / max(1, ahead.weights)
    if held is not None and held.quantizes and share > 0.2:
        yield Advice(
            "quantization-selection",
            "warning",
            f"{share:.0%} of what it takes are fused experts, which bitsandbytes leaves in 16 bit: {held} shrinks this"
            f" model to {_gb(ahead.weights)} only.",
            "computed for this model; transformers 5 holds experts as three-dimensional weights",
        )


def _kbit_preparation(ahead: Outlook) -> Iterator[Advice]:
    held = ahead.plan.precision
    if held is None or not held.quantizes:
        return
    kept = sum(module.parameters for module in ahead.modules if module.dtype in ("bfloat16", "float16"))
    yield Advice(
        "kbit-preparation",
        "note",
        "Fine-tuning it often begins with prepare_model_for_kbit_training, which turns what is not quantized"
        f" (norms, head, embedding) into fp32: {_gb(2 * kept)} more.",
        "peft 0.21, measured",
    )


def _safetensors(inside: Inspection) -> Iterator[Advice]:
    weights = [file for file in inside.files if file.kind == "weights"]
    if inside.unsafe and weights:
        yield Advice(
            "safetensors",
            "note",
            f"{len(inside.unsafe)} pickle files lie beside the safetensors ones and are never opened.",
            "a pickle can run code when it is opened",
        )
    elif inside.unsafe:
        yield Advice(
            "safetensors",
            "warning",
            "It has pickle files only. Convert it: the studio does that in a process of its own, reads tensors and"
            " nothing else, and compares every byte. Loading is 1.3 to 5.8 times as fast afterwards.",
            "measured against torch.load with and without mmap",
        )


def _fast_tokenizer(inside: Inspection) -> Iterator[Advice]:
    if inside.tokenizer.present and not inside.tokenizer.fast:
        yield Advice(
            "fast-tokenizer",
            "warning",
            "There is no tokenizer.json: where transformers cannot make one, the tokenizer runs in Python, about three"
            " times as slow on one thread, and knows no offsets.",
            "measured with BERT's tokenizer in both, same vocabulary, same ids: 2.5 to 3.2 times on sentences, 3.4 to"
            " 4.1 times on a long text; transformers 5.23, tokenizers 0.23",
        )


def _checkpointing(answer: Estimate) -> Iterator[Advice]:
    asked, kept = answer.question, answer.of("activations")
    if asked.task == "train" and not asked.checkpointing and kept > 0.3 * answer.peak:
        yield Advice(
            "gradient-checkpointing",
            "warning",
            f"{_gb(kept)} of {_gb(answer.peak)} are activations. Checkpointing keeps one input a layer and computes the"
            " rest again: about 20 % more time a step.",
            "transformers documentation, GPU training; computed for this model",
        )


def _whole_logits(answer: Estimate) -> Iterator[Advice]:
    asked, logits = answer.question, answer.of("logits and loss")
    if asked.task == "train" and asked.loss == "plain" and logits > 0.3 * answer.peak:
        yield Advice(
            "liger-kernel",
            "warning",
            f"{_gb(logits)} of {_gb(answer.peak)} are the logits of {asked.tokens:,} tokens. A chunked loss, or the one"
            " of Liger, never holds them all and costs no time.",
            "trl/trainer/utils.py, the fused head; computed for this model",
        )


def _wide_training(answer: Estimate) -> Iterator[Advice]:
    asked = answer.question
    if asked.task == "train" and asked.precision is Precision.FP32:
        frozen = "Frozen weights need no more." if asked.method != "full" else "Small steps may be rounded away in it."
        yield Advice(
            "mixed-precision",
            "note",
            f"The weights take {_gb(answer.of('weights'))} in fp32 and half of it in bf16. {frozen}",
            "NVIDIA, guide to mixed precision; computed for this model",
            precision=Precision.BF16 if asked.method != "full" else None,
        )


def _room_for_more(answer: Estimate, device: Device) -> Iterator[Advice]:
    asked, left = answer.question, 1 - (answer.peak + device.context) / device.usable
    if asked.task == "train" and asked.accumulation > 1 and left > 0.5:
        yield Advice(
            "batch-size",
            "note",
            f"{left:.0%} of {device.name} stay free: a batch larger than {asked.batch} with fewer than"
            f" {asked.accumulation} parts to add up learns the same in less time.",
            "transformers documentation, gradient accumulation; computed for this model",
        )


def _needless_quantization(answer: Estimate, device: Device) -> Iterator[Advice]:
    sixteen = answer.peak - answer.of("weights") + 2 * answer.parameters
    if answer.question.precision.quantizes and fit(sixteen, device) == "fits":
        yield Advice(
            "quantization-selection",
            "note",
            f"In 16 bit it takes about {_gb(sixteen)} and fits {device.name}, so nothing has to be lost to"
            " quantization.",
            "QLoRA, Dettmers et al. 2023, section 4: 4 bit costs quality that 16 bit keeps",
            precision=Precision.BF16 if device.bf16 else Precision.FP16,
        )


def _offloaded(fitting: Fitting, device: Device) -> Iterator[Advice]:
    if fitting.offloaded:
        yield Advice(
            "device-map",
            "warning",
            f"{_gb(fitting.offloaded)} of weights would have to lie in main memory and be brought to {device.name} for"
            " every token: for trying out, not for work.",
            "accelerate, big model inference",
        )


def _eos_not_trained(masked: Masked, end: EndOfTurn) -> Iterator[Advice]:
    if masked.ends_trained is False:
        what = f"The end of a turn, {end.token} ({end.id})," if end.token else "No token that ends a turn"
        yield Advice(
            "eos-not-trained",
            "warning",
            f"{what} is {'not ' if end.token else ''}among what is trained, so the tuned model never learns to stop."
            " Train by a template that has it within what the assistant says.",
            f"read off the mask of {len(masked.ids):,} tokens",
        )
    elif masked.ends_trained and not end.stops:
        yield Advice("eos-not-trained", "warning", end.consequence, "the template, and eos_token_id of the model")


def _template_mismatch(ways: tuple[Form, ...]) -> Iterator[Advice]:
    for other in ways[1:]:
        if other.ids != ways[0].ids:
            ours, theirs = _apart(ways[0].text, other.text)
            yield Advice(
                "template-mismatch",
                "warning",
                f"The model reads {ours} in {ways[0].way} and {theirs} in {other.way}.",
                f"one conversation both ways, {len(ways[0].ids):,} and {len(other.ids):,} tokens",
            )


def _apart(one: str, other: str) -> tuple[str, str]:
    """Two texts around the place where they part, quoted."""
    pairs = zip(one, other, strict=False)
    at = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    start = max(0, at - 30)
    before = "…" if start else ""
    first, second = (f"“{before}{text[start : at + 50]}{'…' if text[at + 50 :] else ''}”" for text in (one, other))
    return first, second


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
