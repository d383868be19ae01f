"""Which model to hold, and how: the whole of what decides what a model in memory is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from studio import fields
from studio.errors import InputError
from studio.models import ModelRef, Precision

AUTO = "auto"


_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Quantization:
    """How bitsandbytes quantizes, where the precision asks for it."""

    double_quant: bool = field(
        default=True, metadata={"help": "4 bit: quantize the constants of the blocks too, 0.05 bytes a weight less"}
    )
    compute: str = field(
        default=AUTO,
        metadata={
            "help": "4 bit: what it is computed in; auto is what suits this machine",
            "choices": (AUTO, "bf16", "fp16", "fp32"),
        },
    )
    storage: str = field(
        default="uint8",
        metadata={
            "help": "4 bit: what the packed bytes are called; FSDP wants the model's own format",
            "choices": ("uint8", "bf16", "fp16", "fp32"),
        },
    )
    threshold: float = field(
        default=6.0,
        metadata={
            "help": "int8: inputs beyond this are computed in 16 bit; 0 never",
            "min": 0.0,
            "max": 20.0,
            "step": 0.5,
        },
    )  # fmt: skip
    keep: str = field(
        default="", metadata={"help": "Modules left alone beside the usual ones, by name: q_proj, model.layers.0"}
    )
    cpu_offload: bool = field(
        default=False, metadata={"help": "What finds no room on the GPU lies on the CPU, in 32 bit"}
    )

    def __post_init__(self) -> None:
        fields.check(self)
        if strange := [name for name in self.kept if not _NAME.fullmatch(name)]:
            # transformers takes each for a pattern.
            raise InputError(
                f"{strange[0]!r} is not the name of a module.", "Write for example q_proj, model.layers.0."
            )

    @property
    def kept(self) -> tuple[str, ...]:
        """The names in `keep`."""
        return tuple(name.strip() for name in self.keep.split(",") if name.strip())


_LIMIT = re.compile(
    r"(cpu|mps|(?:cuda:?)?\d{1,3})\s*[=:]\s*(\d{1,12}(?:\.\d*)?|\.\d+)\s*([kMGT])(i?)B?", re.IGNORECASE | re.ASCII
)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of the model lies on which device."""

    strategy: str = field(
        default=AUTO,
        metadata={
            "help": "auto fills the GPUs evenly, then the CPU",
            "choices": (AUTO, "balanced", "balanced_low_0", "sequential", "one device", "cpu"),
        },
    )
    limits: str = field(
        default="", metadata={"help": "Most that a device may hold, for example cuda:0=20 GB, cpu=8 GB"}
    )
    disk: bool = field(default=False, metadata={"help": "What finds no room is read from the disk at every use; slow"})

    def __post_init__(self) -> None:
        fields.check(self)
        self.limit_of  # noqa: B018  # refuses what it cannot read

    @property
    def limit_of(self) -> dict[str, int]:
        """Device → bytes that it may hold. Raises InputError where `limits` cannot be read."""
        found = {}
        for part in filter(None, (part.strip() for part in self.limits.split(","))):
            if not (match := _LIMIT.fullmatch(part)):
                raise InputError(
                    f"{part!r} is not the limit of a device.", "Write for example cuda:0=20 GB, cpu=8 GB, or nothing."
                )
            device = match[1].lower()
            name = device if device in ("cpu", "mps") else f"cuda:{device.removeprefix('cuda').removeprefix(':')}"
            found[name] = round(float(match[2]) * (1024 if match[4] else 1000) ** _POWERS[match[3].upper()])
        return found


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Which model to hold and how. Two equal plans are the same model in memory."""

    model: ModelRef
    precision: Precision | None = None
    """None is what suits the checkpoint and this machine; `settled` decides."""
    adapter: Path | None = None
    """Folder of a PEFT adapter to put on top."""
    quantization: Quantization = Quantization()
    attention: str = AUTO
    placement: Placement = Placement()

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise InputError(f"{self.attention!r} is no attention.", f"Choose one of {', '.join(ATTENTION)}.")


ATTENTION = (AUTO, "sdpa", "eager", "flash_attention_2")
