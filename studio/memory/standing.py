"""What stands in memory all the time: weights, adapters, and what training them holds beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from studio.errors import Unsupported
from studio.memory.adapters import adapter_shapes
from studio.memory.architecture import Facts, Tensor
from studio.memory.hardware import Device
from studio.memory.optimizers import Trained, gradient_bytes, pageable_bytes, state_bytes
from studio.memory.request import Note, Question
from studio.memory.weights import four_bit_bytes, int8_bytes
from studio.models import Precision

_SIZES = {Precision.FP32: 4, Precision.BF16: 2, Precision.FP16: 2}
_UNPACKS = ("fp8", "mxfp8", "mxfp4", "metal")
"""Methods that transformers turns into 16 bit where the device cannot compute in them (its quantizers, 5.23)."""
_BITSANDBYTES = ("bitsandbytes 4bit", "bitsandbytes 8bit")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is there before, during and after a step."""

    weights: int
    trained: tuple[Trained, ...]
    adapters: int
    gradients: int
    optimizer: int
    trainable: int
    notes: tuple[Note, ...]

    @property
    def total(self) -> int:
        """Without the gradients, which come and go."""
        return self.weights + self.adapters + self.optimizer


def stand(facts: Facts, question: Question, device: Device | None = None) -> Standing:
    """Weights, adapters, gradients and states. Raises Unsupported where nothing can be trained."""
    if question.method == "full" and held_precision(facts, question, device) not in _SIZES:
        raise Unsupported(
            f"Weights that were quantized ({facts.quantization}) cannot be trained, only an adapter on top of them.",
            "Choose the method lora, or the original model that it was made from.",
        )
    notes = list(weight_notes(facts, question, device))
    trained = tuple(_trained(facts, question, notes))
    adapters = 0 if question.method == "full" else sum(tensor.bytes for tensor in trained)
    optimizer = state_bytes(question.optimizer, trained)
    if spill := pageable_bytes(question.optimizer, trained):
        notes.append(
            Note("paged", "note", f"{spill / 1e9:.2f} GB of the states can move to main memory when it is full.")
        )
    return Standing(
        held_weights(facts, question, device),
        trained,
        adapters,
        gradient_bytes(trained),
        optimizer,
        sum(tensor.numbers for tensor in trained),
        tuple(notes),
    )


def held_weights(facts: Facts, question: Question, device: Device | None = None) -> int:
    """Bytes of all weights and buffers, before anything is put on top."""
    precision = held_precision(facts, question, device)
    if precision is Precision.STORED:
        return _as_stored(facts)
    if not facts.tensors:
        size = _SIZES.get(precision, 2)
        return facts.parameters * size if facts.stored is None else facts.stored.loaded * size // 2
    training = question.task == "train" and question.prepares_kbit
    return sum(held_bytes(tensor, precision, question, kbit=training) * tensor.count for tensor in facts.tensors)


def held_precision(facts: Facts, question: Question, device: Device | None = None) -> Precision:
    """What the weights are really held in: a checkpoint that was quantized before is that, or unpacked."""
    if question.precision is not Precision.STORED and not facts.quantization:
        return question.precision
    if not facts.quantization:
        dtype = str(facts.config.get("dtype") or facts.config.get("torch_dtype") or "float32")
        return {"float16": Precision.FP16, "bfloat16": Precision.BF16}.get(dtype, Precision.FP32)
    if facts.quantization in _BITSANDBYTES:
        return Precision.NF4 if facts.quantization_bits == 4 else Precision.INT8
    return Precision.BF16 if unpacked(facts, device) else Precision.STORED


def unpacked(facts: Facts, device: Device | None) -> bool:
    """Whether transformers turns the checkpoint into 16 bit, because the device cannot compute in its format."""
    if device is None or facts.quantization not in _UNPACKS:
        return False
    return not {"fp8": device.fp8, "mxfp8": device.fp8, "mxfp4": device.mxfp4}.get(
        facts.quantization, device.kind == "mps"
    )


def weight_notes(facts: Facts, question: Question, device: Device | None = None) -> Iterator[Note]:
    """The traps of a precision, each with its bytes."""
    precision = held_precision(facts, question, device)
    if facts.quantization and question.precision is not Precision.STORED:
        how = f"It was quantized already ({facts.quantization}), and is held so whatever precision is chosen."
        yield Note("quantized-already", "note", how)
    if unpacked(facts, device) and device is not None:
        size = held_weights(facts, question, device)
        yield Note(
            "dequantizes",
            "warning",
            f"{device.name} does not compute in {facts.quantization}: transformers unpacks it to 16 bit,"
            f" {size / 1e9:.1f} GB.",
        )
    elif facts.quantization in _UNPACKS and device is None:
        yield Note("dequantizes", "note", f"Devices that do not compute in {facts.quantization} unpack it to 16 bit.")
    if device is not None and not device.bf16 and question.precision is Precision.BF16:
        yield Note("no-bf16", "warning", f"{device.name} does not compute in bf16; choose fp16, which takes as much.")
    if precision.quantizes and facts.tensors:
        yield from _unquantized(facts, question, precision)
        if question.task == "train" and question.prepares_kbit:
            extra = sum(2 * t.parameters for t in facts.tensors if not t.quantizes and not t.fp32)
            yield Note(
                "kbit-fp32",
                "warning",
                f"Preparing it for k-bit training casts what is not quantized: {extra / 1e9:.2f} GB more.",
            )


def _unquantized(facts: Facts, question: Question, precision: Precision) -> Iterator[Note]:
    experts = [tensor for tensor in facts.tensors if len(tensor.shape) == 3 and not tensor.quantizes]
    left = sum(tensor.parameters for tensor in experts)
    if left < 0.1 * facts.parameters:
        return
    share = sum(tensor.parameters for tensor in facts.tensors if tensor.quantizes) / facts.parameters
    real = held_weights(facts, question)
    hoped = real - sum(2 * tensor.parameters for tensor in experts) + round(left * (precision.bits or 16) / 8)
    yield Note(
        "fused-experts",
        "warning",
        f"Only {share:.1%} of its weights are quantized: its experts are fused, and bitsandbytes leaves them alone."
        f" It takes {real / 1e9:.1f} GB, not {hoped / 1e9:.1f}.",
    )


def held_bytes(tensor: Tensor, precision: Precision, question: Question, *, kbit: bool) -> int:
    """Bytes of one tensor of those that are alike; `kbit` where what is not quantized is cast to fp32."""
    count = prod(tensor.shape)
    if tensor.fixed:
        follows = tensor.fixed == 2 and precision is Precision.FP32  # a scale that is made in the model's own dtype
        return count * (4 if follows else tensor.fixed)
    if precision.quantizes and tensor.quantizes:
        if precision is Precision.INT8:
            return int8_bytes(*tensor.shape)
        return four_bit_bytes(count, double_quant=question.double_quant)
    size = _SIZES.get(precision, 2)
    if kbit or tensor.fp32 == "always" or (tensor.fp32 == "fp16" and precision is Precision.FP16):
        size = 4
    return count * size


def _as_stored(facts: Facts) -> int:
    """Bytes of a checkpoint that another tool quantized: those of its headers, else by the formula of its method."""
    if facts.stored:
        return facts.stored.loaded
    return sum(_packed(tensor, facts) * tensor.count for tensor in facts.tensors)


def _packed(tensor: Tensor, facts: Facts) -> int:
    count = prod(tensor.shape)
    if tensor.fixed:
        return count * tensor.fixed
    if not tensor.quantizes:
        return count * 2
    bits, group = facts.quantization_bits or 4, facts.quantization_group
    if facts.quantization == "fp8":
        return count + 4 * -(count // -16384)  # one fp32 scale for a block of 128 × 128
    constants = (2 + bits / 8) / group if group else 0.0  # a scale in fp16 and a zero, packed, for each group
    order = 4 * tensor.shape[1] if facts.quantization == "gptq" else 0
    return int(count * (bits / 8 + constants)) + order


def _trained(facts: Facts, question: Question, notes: list[Note]) -> Iterator[Trained]:
    if question.method == "full":
        size = _SIZES.get(held_precision(facts, question), 2)
        for tensor in facts.tensors:
            if not tensor.fixed:
                held = 4 if tensor.fp32 == "always" else size
                yield Trained(tensor.shape, tensor.count, held, embeds=tensor.kind.endswith("Embedding"))
        if question.optimizer.endswith("8-bit"):
            notes.append(Note("embedding-32-bit", "note", "The Trainer keeps the states of embeddings in 32 bit."))
        return
    size = adapter_itemsize(facts, question)
    for shape, count in adapter_shapes(facts, question):
        yield Trained(shape, count, size)


def adapter_itemsize(facts: Facts, question: Question) -> int:
    """Bytes of a number of an adapter: PEFT casts it to fp32 beside a 16-bit model."""
    if question.adapter_dtype != "auto":
        return 4 if question.adapter_dtype == "fp32" else 2
    quantized = question.precision.quantizes or bool(facts.quantization)
    return 2 if quantized and question.software.bf16_adapters else 4
