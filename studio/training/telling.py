"""What a run says of itself while it learns. Each is appended to the run's file of events as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Began:
    """The first word of a run, and of one that goes on: from which step, of how many."""

    step: int
    total: int
    rows: int
    held_out: int
    trainable: int
    """Parameters that are trained."""
    compute: str
    """fp32, bf16 or fp16."""
    device: str
    processes: int = 1
    """That learn together."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """One optimizer step."""

    step: int
    total: int
    epoch: float
    loss: float
    """Mean over the trained tokens of the step."""
    learning_rate: float
    gradient: float
    """Norm before clipping."""
    tokens: int
    """Read in this step, padding left out."""
    seconds: float
    """That this step took."""
    memory: int
    """Bytes: the most so far."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A look at the held-out rows. Step 0 is before anything was learnt."""

    step: int
    loss: float
    """Mean over their trained tokens."""
    best: bool
    """The lowest so far, step 0 left out."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the model answers at a step."""

    step: int
    prompt: str
    reply: str


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is complete."""

    step: int
    folder: str
    """Its name among the checkpoints."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that a person should know of, before it costs anything where that is possible."""

    id: str
    severity: Literal["note", "warning"]
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The last word of a run that was asked to stop."""

    step: int
    """Optimizer steps that were done."""
    checkpoint: str | None
    """The one that it goes on from; None where it begins anew."""
