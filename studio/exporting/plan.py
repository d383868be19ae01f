"""What a GGUF file is to be, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from studio import fields
from studio.errors import InputError

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""What the matrices can be held as: 32, 16, 16, 8.5, 6, 5.5, 5 and 4.5 bits a weight."""
SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """A model folder into one GGUF file."""

    folder: Path
    target: Path
    """The file to be; it must not be there yet."""
    kind: str = field(
        default="Q8_0",
        metadata={"help": "How the weights are held; F16 and BF16 for the most quality", "choices": KINDS},
    )

    def __post_init__(self) -> None:
        fields.check(self)
        if self.target.suffix != SUFFIX:
            raise InputError(f"{self.target.name!r} is not the name of a GGUF file.", "Let it end in .gguf.")


@dataclass(frozen=True, slots=True)
class Likeness:
    """The file, opened by transformers, beside the folder that it was made from: both in fp32, on one prompt."""

    tokens: int
    """That the folder's model wrote, greedily."""
    same: int
    """How many of them, from the first on, the file's model wrote too."""
    agreement: float
    """Share of these places where both hold the same token for the most likely, given the same text before it."""
    logit_error: float
    """Norm of the difference of all their scores, relative to those of the folder's model."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A GGUF file that was read back and compared before it got its name."""

    file: Path
    bytes: int
    kind: str
    architecture: str
    """As llama.cpp calls it."""
    tensors: int
    weight_error: float
    """Norm of what the format changed of all weights, relative to theirs; 0 where it changed nothing."""
    pre_tokenizer: str
    """The way of splitting text, of those that llama.cpp knows, by which it makes the folder's tokens of every text."""
    texts: int
    """How many texts were made into tokens by what the file holds, each into the folder's own."""
    likeness: Likeness | None
    not_compared: str
    """Why transformers did not open the file beside the folder; empty where it did."""
    caveats: tuple[str, ...]
    """What programs will do otherwise than the folder does."""
    seconds: float
