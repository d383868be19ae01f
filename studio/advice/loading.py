"""Rules on loading a model, and on the files that it is in."""

from __future__ import annotations

from collections.abc import Iterator

from studio.advice.rule import Advice, size
from studio.compute import Machine
from studio.inspection import Inspection
from studio.loading import Outlook
from studio.models import Precision


def on_loading(ahead: Outlook, machine: Machine) -> list[Advice]:
    """What to know about a plan before it is carried out, or instead of it."""
    rules = (_quantization_selection, _fused_experts, _device_map, _kbit_preparation)
    return [*_mixed_precision(ahead, machine), *(advice for rule in rules for advice in rule(ahead))]


def on_checkpoint(inside: Inspection) -> list[Advice]:
    """What to know about the files of a model."""
    return [advice for rule in (_safetensors, _fast_tokenizer) for advice in rule(inside)]


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
            f"In {sixteen} it takes {size(sizes[sixteen])} of {size(free)}, so nothing has to be lost to quantization.",
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
                    f" ({size(sizes[smaller])}), {why}.",
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
            f"{size(sum(block.bytes for block in away))} lie on {places} and are brought to {main} for every token:"
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
            f" model to {size(ahead.weights)} only.",
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
        f" (norms, head, embedding) into fp32: {size(2 * kept)} more.",
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
