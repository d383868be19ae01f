"""What loading would take and where everything would go, before a weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from studio import compute, gguf, memory
from studio.checkpoint import Checkpoint, read_checkpoint, read_json
from studio.compute import Room
from studio.errors import DoesNotFit, Unsupported
from studio.loading.placing import DISK, Block, blocks_of, place
from studio.loading.plan import LoadPlan
from studio.loading.skeleton import Skeleton, build_skeleton
from studio.memory import ModuleWeights
from studio.models import Precision

RESERVE = 300_000_000
"""Bytes that must stay free beside the weights: the buffers of a short prompt and what the allocator keeps."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What loading would do, before it does it."""

    plan: LoadPlan
    """Settled: the precision is decided."""
    why: str
    """The reason for the precision where it was not chosen."""
    parameters: int
    modules: tuple[ModuleWeights, ...]
    blocks: tuple[Block, ...]
    """The parts of the model with the devices that they go to; without devices where they do not fit."""
    rooms: tuple[Room, ...]
    """The devices with what is free on each, a reserve taken off, the one that computes first."""
    alternatives: tuple[tuple[Precision, int], ...] = ()
    """What the weights would take in each precision, where that was asked for."""
    misfit: DoesNotFit | None = None

    @property
    def weights(self) -> int:
        """Bytes of all weights and buffers once loaded."""
        return memory.total(self.modules)


def best_precision(machine: compute.Machine) -> tuple[Precision, str]:
    """The precision that suits a machine, and the reason."""
    if machine.has_bf16:
        return Precision.BF16, f"this {machine.device.upper()} computes in bf16"
    if machine.device == "cuda":
        return Precision.FP16, "this GPU is older than bf16"
    return Precision.FP32, "this CPU has no bf16 of its own, and fp16 is slow on a CPU"


def settled(plan: LoadPlan, folder: Path) -> LoadPlan:
    """The plan with its precision decided. Raises Unsupported where the checkpoint does not leave the choice."""
    return _settled(plan, _stored_method(folder))[0]


def outlook(plan: LoadPlan, folder: Path, checkpoint: Checkpoint | None = None, *, compare: bool = False) -> Outlook:
    """What loading the folder would take, and where it would go, without reading a weight.

    A folder without weights will do where `checkpoint` tells what they are. `compare` adds what the other precisions
    would take. Raises what `load` raises before it reads, but for DoesNotFit, which the outlook carries.
    """
    if packed := gguf.found(folder):
        checkpoint = _unpacked(packed, plan)
    checkpoint = checkpoint or read_checkpoint(folder)
    decided, why = _settled(plan, _stored_method(folder))
    skeleton = _skeleton(folder, decided, checkpoint)
    rooms = tuple(replace(room, free=max(0, room.free - RESERVE)) for room in compute.rooms())
    ahead = Outlook(
        plan=decided,
        why=why,
        parameters=sum(module.parameters for module in skeleton.modules),
        modules=skeleton.modules,
        blocks=tuple(blocks_of(skeleton.model, skeleton.modules)),
        rooms=rooms,
        alternatives=tuple((each, skeleton.bytes) for each, skeleton in _others(folder, decided)) if compare else (),
    )
    try:
        return replace(ahead, blocks=tuple(_placed(ahead)))
    except DoesNotFit as error:
        smaller = [(each, other) for each, other in _others(folder, decided) if other.bytes < ahead.weights]
        fitting = next(((each, other.bytes) for each, other in smaller if _fits(ahead, each, other)), None)
        hint = f"Load it in {fitting[0]}: {fitting[1] / 1e9:.2f} GB." if fitting else error.hint
        return replace(ahead, misfit=DoesNotFit(error.message, hint))


def _others(folder: Path, plan: LoadPlan) -> Iterator[tuple[Precision, Skeleton]]:
    """Every precision that the checkpoint leaves open, the most exact first."""
    if plan.precision is Precision.STORED:
        return
    config = read_config(folder)
    for each in (Precision.FP32, Precision.BF16, Precision.FP16, Precision.INT8, Precision.NF4, Precision.FP4):
        yield each, build_skeleton(config, replace(plan, precision=each))


def _fits(ahead: Outlook, precision: Precision, skeleton: Skeleton) -> bool:
    """Whether the model would find its place in another precision, by the very rules of the plan."""
    plan, blocks = replace(ahead.plan, precision=precision), tuple(blocks_of(skeleton.model, skeleton.modules))
    try:
        _placed(replace(ahead, plan=plan, blocks=blocks))
    except DoesNotFit:
        return False
    return True


def _stored_method(folder: Path) -> str:
    """The method that the checkpoint in a folder was quantized with; empty where it was not."""
    if gguf.found(folder):
        return ""  # unpacked while it is read
    how = read_json(folder / "config.json").get("quantization_config")
    if not isinstance(how, dict) or not how:
        return ""
    if how.get("load_in_4bit") or how.get("load_in_8bit"):
        return "bitsandbytes"
    return str(how.get("quant_method", "unknown"))


def _unpacked(file: Path, plan: LoadPlan) -> Checkpoint:
    """What a GGUF file becomes in memory. Raises Unsupported where transformers cannot open it, with the reason."""
    facts = gguf.read_gguf(file)
    if not facts.supported:
        raise Unsupported(
            f"{file.name} cannot be opened: {facts.why_not}.",
            "Choose the model that it was made from, as safetensors; its page on the Hub links to it.",
        )
    if plan.precision is not None and plan.precision.quantizes:
        raise Unsupported(
            f"A GGUF file is unpacked when it is opened, and cannot be held in {plan.precision} then.",
            "Choose auto, or the model that it was made from.",
        )
    return Checkpoint(facts.parameters, 0)


def _settled(plan: LoadPlan, method: str) -> tuple[LoadPlan, str]:
    if not method:
        if plan.precision is Precision.STORED:
            plan = replace(plan, precision=None)
        if plan.precision is None:
            precision, why = best_precision(compute.machine())
            return replace(plan, precision=precision), why
        return plan, ""
    if plan.precision not in (None, Precision.STORED):
        # transformers would ignore the wish without a word.
        raise Unsupported(
            f"This checkpoint was quantized already ({method}), so it cannot be loaded in {plan.precision}.",
            "Choose the precision auto, or the original model that it was made from; its page on the Hub names it.",
        )
    return replace(plan, precision=Precision.STORED), f"the checkpoint was quantized already ({method})"


def _skeleton(folder: Path, plan: LoadPlan, checkpoint: Checkpoint) -> Skeleton:
    """The model without its weights; for a method that only its own package knows, with the bytes of its files."""
    config, method = read_config(folder), _stored_method(folder)
    if method and method not in _methods():
        raise Unsupported(
            f"The studio does not know the quantization {method!r}, and transformers would ignore it.",
            "Choose the original model that it was made from; its page on the Hub names it.",
        )
    try:
        skeleton = build_skeleton(config, plan)
    except ImportError as error:
        raise Unsupported(f"This model needs more than is installed: {error}", "Install what it names.") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise unbuildable(error) from error
    unpacked = method in ("fp8", "mxfp4") and compute.machine().device != "cuda"  # while it is read, into 16 bit
    if method and method != "bitsandbytes" and not unpacked:
        whole = ModuleWeights("", type(skeleton.model).__name__, method, checkpoint.floats, checkpoint.loaded_bytes(2))
        skeleton = replace(skeleton, modules=(whole,))
    return skeleton


@cache
def _methods() -> frozenset[str]:
    """The methods that transformers carries out, some with a package of their own, which it then asks for."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    return frozenset({"bitsandbytes", *AUTO_QUANTIZER_MAPPING})


def _placed(ahead: Outlook) -> list[Block]:
    plan = ahead.plan
    placed = place(ahead.blocks, ahead.rooms, plan.placement)
    stored = plan.precision is Precision.STORED
    devices = {block.device for block in placed}
    elsewhere = devices & {DISK} if devices <= {"cpu", DISK} else devices & {"cpu", DISK}
    if not elsewhere or not (stored or (plan.precision and plan.precision.quantizes)):
        return placed
    if stored or DISK in elsewhere or not plan.quantization.cpu_offload:
        raise DoesNotFit(
            f"{'Quantized' if stored else plan.precision} weights that find no room on the device that computes"
            f" cannot lie on the {' or the '.join(sorted(elsewhere))}.",
            _INSTEAD["stored" if stored else min(elsewhere)],
        )
    return placed


_INSTEAD = {
    "stored": "Close other programs, raise the limits, or choose a smaller model.",
    "cpu": "Turn on CPU offload, which leaves that part unquantized on the CPU, or choose bf16.",
    DISK: "Close other programs, raise the limits, or choose bf16, which can be read from the disk.",
}
"""What to do instead: `cpu` comes first where both are needed."""


def opened(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where from_pretrained looks, and what else it is told, for a folder or a GGUF file."""
    packed = gguf.found(folder)
    return (packed.parent, gguf.load_options(packed)) if packed else (folder, {})


def read_config(folder: Path) -> Any:
    """The config of a causal language model. Raises Unsupported for any other, and for one that builds no model."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        place, options = opened(folder)
        config = AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False, **options)
    except ValueError as error:
        raise Unsupported(
            f"transformers does not know this architecture: {str(error).splitlines()[0]}",
            "Choose another model, or update transformers if it is new. The studio runs no code of a model.",
        ) from error
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise unbuildable(error) from error
    except BaseException as error:
        # The class belongs to huggingface_hub, which only studio/hub may import.
        if "StrictDataclassError" not in [base.__name__ for base in type(error).__mro__]:
            raise
        raise unbuildable(error) from error
    # transformers would read a model that fills in blanks as one that goes on, and it would talk nonsense.
    fills_blanks = any(str(name).endswith(("ForMaskedLM", "ForPreTraining")) for name in config.architectures or ())
    if fills_blanks or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise Unsupported(
            f"A {config.model_type} model does not generate text.",
            "Choose a causal language model, for example Qwen/Qwen3-0.6B.",
        )
    # How to compute is this machine's choice: a config may name a kernel that is not here, or one of the Hub.
    config._attn_implementation = None
    return config


def unbuildable(error: BaseException) -> Unsupported:
    """What transformers raises for a value in a config that it cannot build a model of."""
    words = " ".join(str(error).split())[:200]
    return Unsupported(
        f"transformers cannot build a model of this config: {type(error).__name__}: {words}",
        "Download the model again, or choose another one: its config.json has a value that makes no sense.",
    )
