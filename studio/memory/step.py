"""The work that a dry run carries out, as plain values: one training step, or reading one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from studio.errors import Unsupported
from studio.memory.request import ALL_LINEAR, Question
from studio.models import Precision

WORKSPACE = 8_519_680
"""Bytes that cuBLAS takes from the allocator once (8.125 MiB; 32 MiB on Hopper)."""
Loss = Literal["freed", "kept", "copied", "upcast", "chunked", "liger"]
_KINDS = {
    "lora": "LORA", "dora": "LORA", "adalora": "ADALORA", "ia3": "IA3", "vera": "VERA",
    "loha": "LOHA", "lokr": "LOKR", "oft": "OFT", "boft": "BOFT",
}  # fmt: skip
_RANKS = {"ADALORA": "init_r", "OFT": "r", "BOFT": "", "IA3": ""}


@dataclass(frozen=True, slots=True)
class Step:
    """What is carried out, on which model. `config` is its config.json, `adapter` the fields of a PEFT config."""

    config: dict[str, Any]
    train: bool = True
    precision: Precision = Precision.BF16
    double_quant: bool = True
    attention: str = "sdpa"
    batch: int = 1
    tokens: int = 2048
    padded: bool = False
    """Rows are padded to the longest: a mask is passed, and with it keys and values are repeated for every head."""
    adapter: dict[str, Any] | None = None
    adapter_dtype: str = "fp32"
    """What PEFT's adapters are held in: fp32 beside a 16-bit model unless it is told otherwise."""
    kbit_preparation: bool = False
    recast: bool = False
    """After k-bit preparation, embedding and head go back to bf16, as TRL before 1.0 did for a run in bf16."""
    checkpointing: bool = False
    reentrant: bool = False
    optimizer: str = "adamw fused"
    """adamw fused, adamw foreach, adamw 8-bit, paged adamw, paged adamw 8-bit, adafactor, sgd."""
    loss: Loss = "freed"
    autocast: str = "none"
    accumulates: bool = False
    """Gradients of an earlier batch are there while the next one is computed."""
    workspace: int = WORKSPACE
    depth: Literal["as needed", "full"] = "as needed"
    """Whether a model of equal layers may be rehearsed with a few of them."""


def step_of(question: Question, config: dict[str, Any]) -> Step:
    """The step that a question is about. Raises Unsupported where a dry run has no answer."""
    if question.devices > 1:
        raise Unsupported(
            f"A dry run is of one device, and {question.devices} are asked about.", "The closed form divides it."
        )
    if question.task == "generate" and question.offload:
        raise Unsupported("A dry run has no main memory beside the device.", "The closed form sets layers aside.")
    software, quantized = question.software, question.precision.quantizes
    fused = question.loss in ("chunked", "liger")
    optimizer = question.optimizer
    if optimizer == "adamw":
        optimizer = "adamw foreach" if software.foreach else "adamw fused"
    dtype = question.adapter_dtype
    if dtype == "auto":
        dtype = "bf16" if software.bf16_adapters and quantized else "fp32"
    train = question.task == "train"
    return Step(
        config=config,
        train=train,
        precision=question.precision,
        double_quant=question.double_quant,
        attention=question.attention,
        batch=question.batch,
        tokens=question.context,
        padded=not question.packing,
        adapter=_adapter(question) if train else None,
        adapter_dtype=dtype,
        kbit_preparation=train and question.prepares_kbit,
        recast=software.kbit_preparation and quantized and question.autocast == "bf16",
        checkpointing=question.checkpointing,
        reentrant=software.reentrant,
        optimizer=optimizer,
        loss=question.loss if fused else software.loss,  # type: ignore[arg-type]
        autocast=question.autocast,
        accumulates=question.accumulation > 1,
    )


def _adapter(question: Question) -> dict[str, Any] | None:
    """The fields of the PEFT config that a question asks for; None for full fine-tuning."""
    if question.method == "full":
        return None
    kind = _KINDS[question.method]
    fields: dict[str, Any] = {"peft_type": kind, "task_type": "CAUSAL_LM"}
    fields["target_modules"] = ALL_LINEAR if question.targets == ALL_LINEAR else list(question.target_names)
    if rank := _RANKS.get(kind, "r"):
        fields[rank] = question.rank
    if kind in ("LORA", "ADALORA"):
        fields |= {"lora_dropout": question.dropout, "lora_alpha": question.rank}
    if kind == "OFT":
        fields["oft_block_size"] = 0  # one of the two has to be 0
    if question.method == "dora":
        fields["use_dora"] = True
    if kind == "ADALORA":
        fields |= {"target_r": max(1, question.rank // 2), "total_step": 1000}
    return fields
