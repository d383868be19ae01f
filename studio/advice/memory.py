"""Rules on what work takes in memory, by an estimate of it."""

from __future__ import annotations

from collections.abc import Iterator

from studio.advice.rule import Advice, size
from studio.memory import BYTES_PER_SECOND, Device, Estimate, Fitting, fit
from studio.models import Precision


def on_memory(answer: Estimate, device: Device | None = None, fitting: Fitting | None = None) -> list[Advice]:
    """What to know about a piece of work by what it takes; `fitting` is what would make it fit the device."""
    found = [advice for rule in (_checkpointing, _whole_logits, _wide_training) for advice in rule(answer)]
    if device:
        found += [*_room_for_more(answer, device), *_needless_quantization(answer, device)]
    return [*found, *_offloaded(answer, device, fitting)]


def _checkpointing(answer: Estimate) -> Iterator[Advice]:
    asked, kept = answer.question, answer.of("activations")
    if asked.task == "train" and not asked.checkpointing and kept > 0.3 * answer.peak:
        yield Advice(
            "gradient-checkpointing",
            "warning",
            f"{size(kept)} of {size(answer.peak)} are activations. Checkpointing keeps one input a layer and computes"
            " the rest again: about 20 % more time a step.",
            "transformers documentation, GPU training; computed for this model",
        )


def _whole_logits(answer: Estimate) -> Iterator[Advice]:
    asked, logits = answer.question, answer.of("logits and loss")
    if asked.task == "train" and asked.loss == "plain" and logits > 0.3 * answer.peak:
        yield Advice(
            "liger-kernel",
            "warning",
            f"{size(logits)} of {size(answer.peak)} are the logits of {asked.tokens:,} tokens. A chunked loss, or the"
            " one of Liger, never holds them all and costs no time.",
            "studio/training/loss.py, the loss of a run here; computed for this model",
        )


def _wide_training(answer: Estimate) -> Iterator[Advice]:
    asked = answer.question
    if asked.task == "train" and asked.precision is Precision.FP32:
        frozen = "Frozen weights need no more." if asked.method != "full" else "Small steps may be rounded away in it."
        yield Advice(
            "mixed-precision",
            "note",
            f"The weights take {size(answer.of('weights'))} in fp32 and half of it in bf16. {frozen}",
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
            f"In 16 bit it takes about {size(sixteen)} and fits {device.name}, so nothing has to be lost to"
            " quantization.",
            "QLoRA, Dettmers et al. 2023, section 4: 4 bit costs quality that 16 bit keeps",
            precision=Precision.BF16 if device.bf16 else Precision.FP16,
        )


def _offloaded(answer: Estimate, device: Device | None, fitting: Fitting | None) -> Iterator[Advice]:
    split = answer if answer.offloaded or not fitting else fitting.estimate
    if aside := split.offloaded:
        lie = "lie" if answer.offloaded else "would lie"
        yield Advice(
            "device-map",
            "warning",
            f'With device_map="auto" the device holds {size(split.peak)}; {size(aside)} of weights {lie} in main memory'
            f" and come to it for every token, about {aside / BYTES_PER_SECOND:.1f} s each: for trying out, not for"
            " work.",
            "accelerate, benchmarks/big_model_inference: OPT-30B, 14.1 GB in main memory, 2.37 s a token",
        )
    elif device and fitting and answer.question.task == "train" and fitting.verdict in ("probably not", "no"):
        yield Advice(
            "device-map",
            "note",
            f"Layers in main memory do not make it fit {device.name}: accelerate brings them in to generate, and"
            " gradients have no way back to them. More devices with fsdp, or a smaller model, do.",
            'accelerate, big model inference: device_map="auto" is for inference',
        )
