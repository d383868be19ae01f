"""What a fine-tuning run is to do, as one value: the model, the data, and how it is trained."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from studio import fields
from studio.dataset import ColumnMapping, Preparation
from studio.errors import InputError
from studio.loading import LoadPlan
from studio.models import Precision

ALL_LINEAR = "all-linear"
METHODS = ("lora", "dora", "full")
_NAMES = re.compile(r"[\w.*]+(\s*,\s*[\w.*]+)*", re.ASCII)


class Stop(StrEnum):
    """How a run is asked to end before its time."""

    CHECKPOINT = "checkpoint"
    """After the step at hand, with a checkpoint that goes on as if nothing had been."""
    NOW = "now"
    """At once; the last checkpoint stays."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a model is trained. The form, the command line and the saved file read these fields."""

    method: str = field(
        default="lora",
        metadata={"help": "What is trained; QLoRA is lora on nf4 or int8 weights", "choices": METHODS},
    )
    rank: int = field(default=16, metadata={"help": "Size of the adapter; more learns more", "min": 1, "max": 4096})
    alpha: int = field(default=32, metadata={"help": "How strongly the adapter counts", "min": 1, "max": 8192})
    rslora: bool = field(default=False, metadata={"help": "Scale by the root of the rank: for ranks from 32 up"})
    dropout: float = field(
        default=0.0, metadata={"help": "Dropout of the adapter; takes memory", "min": 0.0, "max": 0.9, "step": 0.05}
    )
    targets: str = field(
        default=ALL_LINEAR, metadata={"help": "Modules that get an adapter: all-linear, or q_proj, v_proj"}
    )
    start: str = field(
        default="default",
        metadata={
            "help": "How the adapter begins; default changes nothing at first",
            "choices": ("default", "gaussian", "pissa", "olora", "eva", "loftq"),
        },
    )
    whole_modules: str = field(default="", metadata={"help": "Modules that are trained whole and kept in the adapter"})
    new_tokens: str = field(default="", metadata={"help": "Tokens to add and to train, with spaces between them"})
    adapter: str = field(default="", metadata={"help": "Folder of an adapter to go on from; empty begins a new one"})
    lora_plus: float = field(
        default=1.0,
        metadata={
            "help": "LoRA+: how many times faster the B matrices learn; 1 is plain LoRA",
            "min": 1.0,
            "max": 64.0,
        },
    )
    epochs: float = field(default=3.0, metadata={"help": "How often each row is seen", "min": 0.01, "max": 1000.0})
    most_steps: int = field(
        default=0, metadata={"help": "Stop after so many optimizer steps; 0 is all", "min": 0, "max": 10_000_000}
    )
    batch_tokens: int = field(
        default=2048,
        metadata={"help": "Tokens of one batch, padding included: rows of like length", "min": 1, "max": 1_048_576},
    )
    accumulation: int = field(
        default=1, metadata={"help": "Batches added up before the optimizer steps", "min": 1, "max": 65_536}
    )
    packing: bool = field(
        default=False, metadata={"help": "Several rows in one sequence, where a test shows that they stay apart"}
    )
    learning_rate: float = field(default=2e-4, metadata={"help": "Size of a step", "min": 1e-9, "max": 1e9})
    schedule: str = field(
        default="cosine",
        metadata={
            "help": "How the learning rate falls",
            "choices": ("cosine", "linear", "constant", "cosine with a floor", "warm-up, stable, decay"),
        },
    )
    warmup: float = field(
        default=0.05, metadata={"help": "Share of the steps in which the learning rate rises", "min": 0.0, "max": 0.9}
    )
    optimizer: str = field(
        default="adamw",
        metadata={
            "help": "8 bit holds a quarter of the state; paged may spill into main memory",
            "choices": ("adamw", "adamw 8-bit", "paged adamw", "paged adamw 8-bit", "adafactor", "sgd"),
        },
    )
    weight_decay: float = field(default=0.0, metadata={"help": "Pull of the weights to zero", "min": 0.0, "max": 1.0})
    clip: float = field(
        default=1.0, metadata={"help": "Longest gradient; 0 leaves it as it is", "min": 0.0, "max": 1000.0}
    )
    neftune: float = field(
        default=0.0,
        metadata={"help": "NEFTune: noise on the embeddings; 5 is usual, 0 is none", "min": 0.0, "max": 100.0},
    )
    compute: str = field(
        default="auto",
        metadata={
            "help": "What is computed in; auto is bf16 where this machine is faster in it",
            "choices": ("auto", "fp32", "bf16", "fp16"),
        },
    )
    checkpointing: str = field(
        default="auto",
        metadata={
            "help": "Keep one input a layer and compute the rest again: slower, far smaller",
            "choices": ("auto", "on", "off"),
        },
    )
    liger: bool = field(default=False, metadata={"help": "Liger kernels, on CUDA where they are installed"})
    evaluate_every: int = field(
        default=0,
        metadata={
            "help": "Steps between two looks at the held-out rows; 0 is ten in a run",
            "min": 0,
            "max": 1_000_000,
        },
    )
    save_every: int = field(
        default=0, metadata={"help": "Steps between two checkpoints; 0 is one a minute", "min": 0, "max": 1_000_000}
    )
    checkpoints: int = field(default=2, metadata={"help": "How many checkpoints are kept", "min": 1, "max": 100})
    keep_best: bool = field(default=True, metadata={"help": "End with the adapter that did best on the held-out rows"})
    patience: int = field(
        default=0, metadata={"help": "Stop after so many looks without getting better; 0 never", "min": 0, "max": 1000}
    )
    seed: int = field(default=0, metadata={"help": "The same seed gives the same run", "min": 0, "max": 2**31 - 1})
    report_to: str = field(
        default="nowhere",
        metadata={
            "help": "Report to a tracker that is installed",
            "choices": ("nowhere", "trackio", "tensorboard", "wandb"),
        },
    )

    def __post_init__(self) -> None:
        fields.check(self)
        for label, value in (("Targets", self.targets), ("Whole modules", self.whole_modules)):
            if value and value != ALL_LINEAR and not _NAMES.fullmatch(value):
                raise InputError(f"{label} is {value!r}.", "Write names with commas between them: q_proj, v_proj.")
        if self.method == "full" and (self.adapter or self.lora_plus != 1.0):
            raise InputError("A full fine-tuning has no adapter.", "Choose the method lora, or leave those alone.")

    @property
    def target_names(self) -> tuple[str, ...]:
        """The modules named in `targets`; empty for all linear ones."""
        return () if self.targets == ALL_LINEAR else _split(self.targets)

    @property
    def whole_names(self) -> tuple[str, ...]:
        """The modules named in `whole_modules`."""
        return _split(self.whole_modules)


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


@dataclass(frozen=True, slots=True)
class DataSource:
    """Rows to learn from, by name, so that a saved run can find them again."""

    name: str
    """What `DatasetRef.parse` reads, or the name of a file in the run's own folder `data`."""
    mapping: ColumnMapping | None = None
    """None is what the rows look like."""
    weight: float = 1.0
    """How often its rows occur beside those of other sources: 2 is twice."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """Everything that is needed to do a run, and to do it again."""

    plan: LoadPlan
    data: tuple[DataSource, ...]
    held_out: DataSource | None = None
    """Rows to measure with; None splits them off the others."""
    preparation: Preparation = field(default_factory=Preparation)
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    prompts: tuple[str, ...] = ()
    """What the model is asked before, at every look at the held-out rows, and after."""

    def __post_init__(self) -> None:
        if not self.data:
            raise InputError("There is nothing to learn from.", "Choose a dataset, or upload a file.")
        if self.settings.method == "full" and self.plan.precision and self.plan.precision.quantizes:
            raise InputError(
                f"Weights in {self.plan.precision} cannot be trained, only an adapter on top of them.",
                "Choose the method lora, which makes it QLoRA, or the precision bf16.",
            )
        if self.settings.method == "full" and self.plan.precision is Precision.STORED:
            raise InputError("A quantized checkpoint cannot be trained whole.", "Choose the method lora.")


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a run made: an adapter in PEFT's own format, or a model."""

    folder: Path
    steps: int
    loss: float
    """Of the last step, per trained token."""
    held_out_loss: float | None
    """The one of what is in the folder; None where nothing was held out."""
    trainable: int
    """Parameters that were trained."""
    tokens: int
    """That were read, padding left out."""
    seconds: float
    peak: int
    """Bytes, the most that the process (CPU) or the allocator (GPU) held."""
