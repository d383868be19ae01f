"""What is known of a thing that is published: every figure of its card, each read from a record on the disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.merging import Proof


@dataclass(frozen=True, slots=True)
class Lineage:
    """The model that something was made of."""

    repo: str = ""
    """Its name on the Hub; empty where nobody knows one."""
    revision: str = ""
    called: str = ""
    """What it is called here."""
    license: str | None = None
    """None where it says none."""
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows that something learnt from."""

    name: str
    on_hub: bool
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured, before and after."""

    name: str
    metric: str
    """As the Hub knows it: exact_match, accuracy, loss, perplexity."""
    before: float | None
    after: float
    on: str
    """What it was measured on."""
    of: int | None = None
    """Replies that it is a share of; None for what is no share."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model answers, before and after."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Record:
    """All that a card is drawn from."""

    name: str
    base: Lineage = field(default_factory=Lineage)
    datasets: tuple[Dataset, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    took: tuple[tuple[str, str], ...] = ()
    """(what, how much) of hardware, time and memory."""
    figures: tuple[Figure, ...] = ()
    measured: bool = True
    """Whether the figures are of this very thing; those of an adapter say little of a merge that is not the same."""
    samples: tuple[Sample, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    """(step, loss) that was learnt."""
    held_out: tuple[tuple[int, float], ...] = ()
    proof: Proof | None = None
    sign: str = ""
    """What whoever uses it has to know, in a sentence."""
    has_tokenizer: bool = True
    has_template: bool = False
