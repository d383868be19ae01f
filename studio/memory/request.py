"""What a person asks about memory, as one value that a link carries, and the answer that every engine gives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal
from urllib.parse import urlencode

from studio.errors import InputError
from studio.fields import check, from_query
from studio.models import Precision

ALL_LINEAR = "all-linear"
_TARGETS = re.compile(r"[\w.]+(\s*,\s*[\w.]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Profile:
    """A generation of the training software, where it decides what is in memory."""

    name: str
    software: str
    loss: Literal["freed", "kept", "copied", "upcast"]
    """What holds the logits at the loss: `freed` before the backward pass by the trainer; `kept` by a hand-written
    loop; `copied`, an fp32 and a shifted contiguous copy (transformers 4.46–4.48); `upcast`, reassigned to fp32."""
    reentrant: bool
    """Which variant of checkpointing: the re-entrant one holds one hidden state more."""
    foreach: bool
    """AdamW allocates one more copy of everything trainable during its step; the fused one does not."""
    kbit_preparation: bool
    """The trainer calls prepare_model_for_kbit_training for a quantized model: what is not quantized becomes fp32."""
    bf16_adapters: bool
    """The trainer casts the adapters of a quantized model to bf16."""


INSTALLED = "installed"
PROFILES = {
    profile.name: profile
    for profile in (
        # transformers 5.23: use_reentrant False in modeling_utils.py, adamw_torch_fused in training_args.py
        Profile(INSTALLED, "the Trainer of transformers 5.23, peft 0.21", "freed", False, False, False, False),
        # trl/trainer/sft_trainer.py casts the adapters of a quantized model
        Profile("trl 1.16", "the SFTTrainer of trl 1.16, transformers 5.23", "freed", False, False, False, True),
        Profile("plain loop", "transformers 5, torch.optim.AdamW in a loop", "kept", False, True, False, False),
        # transformers/loss/loss_utils.py at v4.48: logits.float(), then shift_logits.contiguous()
        Profile("transformers 4.48", "transformers 4.46–4.48, peft 0.13, trl 0.13", "copied", True, True, True, False),
        Profile("transformers 4.45", "transformers up to 4.45", "upcast", True, True, True, False),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """One question about memory. The form, the command line and a link read these fields."""

    model: str = field(
        default="starter",
        metadata={"help": "A name of the Hub, a folder, starter, or numbers: 8B, 32 layers, hidden 4096"},
    )
    task: str = field(default="train", metadata={"help": "What the model is to do", "choices": ("train", "generate")})
    precision: Precision = field(
        default=Precision.BF16, metadata={"help": "How the weights are held", "choices": tuple(Precision)}
    )
    double_quant: bool = field(default=True, metadata={"help": "4 bit: quantize the constants of the blocks too"})
    context: int = field(
        default=2048,
        metadata={"help": "Tokens of one sequence, prompt and reply together", "min": 1, "max": 16_777_216},
    )
    batch: int = field(default=1, metadata={"help": "Sequences at once on a device", "min": 1, "max": 65_536})
    reply: int = field(
        default=512,
        metadata={"help": "Generating: how many of the tokens are written one by one", "min": 1, "max": 1_048_576},
    )
    cache_dtype: str = field(
        default="auto",
        metadata={
            "help": "Generating: what keys and values are held in; auto is what the model computes in",
            "choices": ("auto", "fp32", "bf16", "fp16", "int8", "int4"),
        },
    )
    cache: str = field(
        default="dynamic",
        metadata={
            "help": "Generating: dynamic grows with the text, static takes its full length at once",
            "choices": ("dynamic", "static"),
        },
    )
    offload: int = field(
        default=0,
        metadata={
            "help": "Generating: layers that lie in main memory and come to the device for each token",
            "min": 0,
            "max": 256,
        },
    )
    method: str = field(
        default="lora",
        metadata={
            "help": "What is trained; QLoRA is lora on nf4 weights",
            "choices": ("full", "lora", "dora", "adalora", "ia3", "vera", "loha", "lokr", "oft", "boft"),
        },
    )
    rank: int = field(default=16, metadata={"help": "Size of the adapter", "min": 1, "max": 4096})
    targets: str = field(
        default=ALL_LINEAR, metadata={"help": "Modules that get an adapter: all-linear, or q_proj, v_proj"}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "Dropout of the adapter", "min": 0.0, "max": 0.9, "step": 0.05}
    )
    adapter_dtype: str = field(
        default="auto",
        metadata={
            "help": "What the adapter is held in; auto is what the trainer does",
            "choices": ("auto", "fp32", "bf16", "fp16"),
        },
    )
    kbit_preparation: str = field(
        default="auto",
        metadata={
            "help": "Cast what is not quantized to fp32; auto is what the trainer does",
            "choices": ("auto", "on", "off"),
        },
    )
    optimizer: str = field(
        default="adamw",
        metadata={
            "help": "8 bit holds a quarter of the state; paged may spill into main memory",
            "choices": ("adamw", "adamw 8-bit", "paged adamw", "paged adamw 8-bit", "adafactor", "sgd"),
        },
    )
    checkpointing: bool = field(
        default=True, metadata={"help": "Keep one input a layer and compute the rest again: slower, far smaller"}
    )
    attention: str = field(
        default="sdpa",
        metadata={
            "help": "eager holds every score, so it grows with the square of the context",
            "choices": ("sdpa", "eager", "flash_attention_2"),
        },
    )
    loss: str = field(
        default="plain",
        metadata={
            "help": "plain holds the logits of every token; chunked and liger never hold them all",
            "choices": ("plain", "chunked", "liger"),
        },
    )
    packing: bool = field(
        default=True, metadata={"help": "Rows are full or of one length; else padded to the longest, with a mask"}
    )
    accumulation: int = field(
        default=1, metadata={"help": "Batches added up before the optimizer steps", "min": 1, "max": 65_536}
    )
    autocast: str = field(
        default="none",
        metadata={"help": "Compute in 16 bit, whatever the weights are", "choices": ("none", "bf16", "fp16")},
    )
    devices: int = field(default=1, metadata={"help": "How many devices share the work", "min": 1, "max": 1024})
    strategy: str = field(
        default="none",
        metadata={
            "help": "ddp copies the model to each, fsdp cuts everything into shards, tensor cuts each matrix",
            "choices": ("none", "ddp", "fsdp", "tensor"),
        },
    )
    profile: str = field(
        default=INSTALLED, metadata={"help": "The generation of the training software", "choices": tuple(PROFILES)}
    )
    device: str = field(default="", metadata={"help": "The device it is for; empty is none in particular"})

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "precision", Precision(self.precision))  # a form and a link know its text only
        if self.targets != ALL_LINEAR and not _TARGETS.fullmatch(self.targets):
            raise InputError(f"{self.targets!r} names no modules.", "Write all-linear, or names: q_proj, v_proj.")
        if len(self.model) > 300 or not self.model.strip():
            raise InputError("No model is named.", "Write owner/name, a folder, starter, or numbers: 8B, 32 layers.")
        if self.devices > 1 and self.strategy == "none":
            raise InputError(f"{self.devices} devices need a strategy.", "Choose ddp, fsdp or tensor, or one device.")
        if self.task == "train":
            self._check_training()
        elif self.offload and self.precision.quantizes:
            raise InputError(
                f"Layers in {self.precision} are not brought in from main memory.",
                "Set no layer aside, or choose the precision bf16.",
            )

    def _check_training(self) -> None:
        if self.method == "full" and self.precision.quantizes:
            raise InputError(
                f"Weights in {self.precision} cannot be trained, only an adapter on top of them.",
                "Choose the method lora, which makes it QLoRA, or the precision bf16.",
            )
        if self.attention == "flash_attention_2" and self.precision is Precision.FP32 and self.autocast == "none":
            raise InputError("FlashAttention computes in 16 bit, and the model is in fp32.", "Choose bf16, or sdpa.")

    @property
    def prompt(self) -> int:
        """Tokens that are read at once before the first one is written."""
        return max(1, self.context - self.reply)

    @property
    def tokens(self) -> int:
        """Tokens of one batch on one device."""
        return self.context * self.batch

    @property
    def target_names(self) -> tuple[str, ...]:
        """The modules named in `targets`; empty for all linear ones."""
        return () if self.targets == ALL_LINEAR else tuple(name.strip() for name in self.targets.split(","))

    @property
    def software(self) -> Profile:
        """The generation of the training software that is asked about."""
        return PROFILES[self.profile]

    @property
    def prepares_kbit(self) -> bool:
        """Whether what is not quantized is cast to fp32 before training."""
        wished = self.software.kbit_preparation if self.kbit_preparation == "auto" else self.kbit_preparation == "on"
        return wished and self.precision.quantizes

    @property
    def query(self) -> str:
        """The question as the query of a link, without what is as usual; `from_query` reads it back."""
        return urlencode(
            {f.name: _written(value) for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        )

    @classmethod
    def from_query(cls, text: str) -> Question:
        """Read a link's query, with or without the question mark. Raises InputError for what is no question."""
        return from_query(cls, text)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


Engine = Literal["dry run", "closed form", "headers"]
PARTS = (
    "weights",
    "adapters",
    "gradients",
    "optimizer",
    "cache",
    "activations",
    "logits and loss",
    "temporaries",
    "workspace",
)
"""What memory is taken by, in the order in which a bar shows it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one thing takes at the peak."""

    name: str
    """One of PARTS."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What all things together take at one moment of the work."""

    name: str
    """For example "loss", "backward", "optimizer step", "prefill"."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something to know about an estimate: a trap, a limit of it, something that was assumed."""

    id: str
    severity: Literal["note", "warning"]
    message: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer: what one device holds at its fullest moment, as the allocator of PyTorch counts it."""

    question: Question
    engine: Engine
    parts: tuple[Part, ...]
    """At the peak. Their sum is the peak."""
    moments: tuple[Moment, ...]
    """The fullest first: it is the peak."""
    parameters: int
    """Of the model, without adapters; tied ones once."""
    trainable: int
    notes: tuple[Note, ...] = ()
    offloaded: int = 0
    """Bytes of weights that lie in main memory instead and come to the device for every token."""

    @property
    def peak(self) -> int:
        """Bytes at the fullest moment: what torch.cuda.max_memory_allocated would say."""
        return sum(part.bytes for part in self.parts)

    @property
    def moment(self) -> str:
        """When that is."""
        return self.moments[0].name

    def of(self, name: str) -> int:
        """Bytes of a part at the peak; 0 where there is none of it."""
        return sum(part.bytes for part in self.parts if part.name == name)
