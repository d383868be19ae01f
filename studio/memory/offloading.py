"""Layers whose weights lie in main memory and are brought to the device for each token: what stays, and what it costs.

As accelerate does it for `device_map="auto"`: whole layers are set aside, and of them one module at a time is on the
device while it computes (accelerate/hooks.py, AlignDevicesHook). The cache of every layer stays on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from studio.errors import Unsupported
from studio.memory.architecture import Facts, Tensor
from studio.memory.hardware import Device
from studio.memory.request import Note, Question
from studio.memory.standing import held_bytes, held_precision
from studio.models import Precision

BYTES_PER_SECOND = 6_000_000_000
"""How fast layers come from main memory: OPT-30B with 14.1 GB there took 2.37 s a token
(accelerate, benchmarks/big_model_inference; PCIe 3)."""


@dataclass(frozen=True, slots=True)
class Aside:
    """What is set aside."""

    layers: int
    depth: int
    bytes: int
    """In main memory."""
    visiting: int
    """Of its largest module, which is on the device while it computes."""


NOTHING = Aside(0, 0, 0, 0)


def set_aside(facts: Facts, question: Question, device: Device | None) -> Aside:
    """What a question leaves in main memory; nothing on a device that computes in main memory itself.

    Raises Unsupported for weights that cannot lie apart from the device, and where the layers are not known.
    """
    if not question.offload or (device is not None and device.kind != "cuda"):
        return NOTHING
    if question.devices > 1:
        raise Unsupported("Layers are set aside for one device alone.", "Choose one device, or set no layer aside.")
    precision = held_precision(facts, question, device)
    if precision.quantizes or precision is Precision.STORED:
        raise Unsupported(
            f"Weights that were quantized ({facts.quantization}) are not brought in layer by layer.",
            "Set no layer aside, or choose the original model that it was made from.",
        )
    layers = _of_layers(facts)
    if not layers or not facts.depth:
        raise Unsupported(f"The layers of a {facts.model_type} are not known one by one.", "Set no layer aside.")
    modules: dict[str, int] = {}
    for tensor in layers:
        place = tensor.name.rpartition(".")[0]
        modules[place] = modules.get(place, 0) + _each(tensor, precision, question)
    count = min(question.offload, facts.depth)
    whole = sum(_each(tensor, precision, question) * tensor.count for tensor in layers)
    return Aside(count, facts.depth, whole * count // facts.depth, max(modules.values()))


def _of_layers(facts: Facts) -> list[Tensor]:
    """The weights that every layer of the text model has; where there are several stacks, it is the largest."""
    stacks: dict[str, list[Tensor]] = {}
    for tensor in facts.tensors:
        before, star, _ = tensor.name.partition(".*.")
        if star and not tensor.fixed:  # buffers stay on the device
            stacks.setdefault(before, []).append(tensor)
    return max(stacks.values(), key=lambda stack: sum(tensor.numbers for tensor in stack), default=[])


def _each(tensor: Tensor, precision: Precision, question: Question) -> int:
    return held_bytes(tensor, precision, question, kbit=False)


def offload_notes(aside: Aside, question: Question, device: Device | None) -> Iterator[Note]:
    """What it costs, and whether main memory has room for it."""
    if question.offload and not aside.layers and device is not None:
        yield Note("offload-idle", "note", f"{device.name} computes in main memory: nothing can be set aside.")
    if not aside.layers:
        return
    seconds = aside.bytes / BYTES_PER_SECOND
    yield Note(
        "offload",
        "warning",
        f"{aside.layers} of {aside.depth} layers, {aside.bytes / 1e9:.2f} GB, lie in main memory and come to the device"
        f" for every token: about {seconds:.2f} s each at 6 GB/s, which accelerate reached with OPT-30B.",
    )
    if device is not None and not finds_room(aside.bytes, device):
        yield Note(
            "offload-too-much",
            "warning",
            f"{device.name} is rented with {device.memory_beside / 1e9:.0f} GB of main memory, which is too little.",
        )


def finds_room(count: int, device: Device) -> bool:
    """Whether main memory holds so many bytes beside the process itself; yes where its size is not known."""
    return not count or not device.memory_beside or count <= 0.9 * device.memory_beside
