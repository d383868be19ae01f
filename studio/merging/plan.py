"""What a merge is to do, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from studio import fields
from studio.errors import InputError
from studio.loading import Quantization
from studio.models import Precision

AS_BASE = "as the base"
DTYPES = ("bf16", "fp16", "fp32", AS_BASE)
ORIGINAL, DEQUANTIZED, QUANTIZED = "original", "dequantized", "quantized"
ONTO = (ORIGINAL, DEQUANTIZED, QUANTIZED)
_PRECISIONS = (Precision.NF4, Precision.FP4, Precision.INT8)


@dataclass(frozen=True, slots=True)
class MergePlan:
    """A base, an adapter, and the folder that is to hold both as one model."""

    base: Path
    adapter: Path
    output: Path
    """It may be there if it is empty."""
    dtype: str = field(
        default="bf16",
        metadata={"help": "What the merged weights are held in; as the base keeps each as it is", "choices": DTYPES},
    )
    shard_size: float = field(
        default=5.0, metadata={"help": "GB that one file holds at most", "min": 1e-6, "max": 50.0}
    )
    onto: str = field(
        default=ORIGINAL,
        metadata={
            "help": "What the adapter is added to: the base as it is in its folder, or the quantized weights that it"
            " was trained on, brought back to 16 bit or quantized again",
            "choices": ONTO,
        },
    )
    precision: Precision | None = field(
        default=None,
        metadata={"help": "How the base was quantized while the adapter learnt", "choices": _PRECISIONS},
    )
    """None where the base was not, or where its folder holds it quantized already, which says how."""
    quantization: Quantization = field(default_factory=Quantization)
    """The rest of how it was quantized; looked at with a `precision` alone."""

    def __post_init__(self) -> None:
        fields.check(self)
        places = [path.absolute() for path in (self.base, self.adapter, self.output)]
        if len(set(places)) < len(places):
            raise InputError("Base, adapter and merged model are to be in one folder.", "Choose three folders.")
        if self.precision and self.onto == ORIGINAL:
            raise InputError(
                f"A merge onto the original base has no use for {self.precision}.",
                "Leave the precision out, or choose the dequantized or the quantized base.",
            )


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did, as it is kept in merge.json of the folder that it made."""

    way: Literal["streamed", "in memory"]
    """Tensor by tensor past the memory, or by PEFT with the whole model in it."""
    why: str
    """Why it was not streamed; empty where it was."""
    onto: str
    """original, dequantized or quantized: a base that is there quantized alone is never the original."""
    dtype: str
    """As in the plan."""
    base: str
    """As the adapter names it."""
    revision: str
    base_fingerprint: str
    adapter_fingerprint: str
    tensors: int
    changed: tuple[str, ...]
    """The tensors that are not what they were in the base, by the names of the new files."""
    expected: tuple[str, ...]
    """Those that the adapter was to change, by the same names. In memory PEFT does not say: those that changed."""
    untied: bool
    """Whether embedding and head have become two weights, which the config says then."""
    vocabulary: int
    """Rows of the embedding."""
    files: int
    bytes: int
    """Of the weights."""
    seconds: float
    peak: int
    """The most memory that the process was seen to hold meanwhile, in bytes, PyTorch and Transformers included."""
