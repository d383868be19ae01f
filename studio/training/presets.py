"""Three ways to begin, computed from the model, the data and the machine: quick, balanced and thorough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Literal

from studio import memory
from studio.dataset import Lengths, Preparation, Prepared
from studio.errors import Unsupported
from studio.memory import Device, Facts, Question
from studio.models import Precision
from studio.training.plan import TrainingSettings

Name = Literal["quick", "balanced", "thorough"]
NAMES: tuple[Name, ...] = ("quick", "balanced", "thorough")

_TINY = 20_000_000
_RATES = ((_TINY, 3e-3), (200_000_000, 1e-3), (1_000_000_000, 5e-4), (13_000_000_000, 2e-4), (inf, 1e-4))
"""Parameters up to which a learning rate suits a LoRA adapter. The first is measured with the starter model; 2e-4 and
1e-4 are those of QLoRA (Dettmers et al. 2023, table 9) for 7–13B and for more."""
_STEP_TOKENS = ((_TINY, 1024), (1_000_000_000, 4096), (inf, 8192))
"""Tokens of one optimizer step. 1,024 is measured with the starter; 16 conversations of 500 tokens are 8,192."""
_FEWEST_STEPS = 60
_TINY_VISITS = 9_600
"""Rows that the starter reads until it knows a task in other words too: 14 times 700, of assets/datasets."""
_TINY_DROPOUT = 0.05
"""By so many passes the starter learns the rows by heart: of new sentences it read 80 % without, and 92 % with this."""
_CPU_FLOPS = 38e9
"""Of one core: the starter read 60,338 tokens 8 times in 148 seconds on two, at 6 operations a parameter."""
_UNPACKING = 1.9
"""How many times as long a step on 4-bit weights took the starter on a CPU, which unpacks them for every product."""
_QUICK_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Amount:
    """How much there is to learn from."""

    rows: int
    tokens: int
    percentiles: tuple[tuple[int, int], ...]
    """(95, 812): 95 % of the rows have at most 812 tokens. 100 is the longest."""

    def percentile(self, share: int) -> int:
        """The tokens that this share of the rows has at most, or the next share that is known."""
        return next((tokens for known, tokens in self.percentiles if known >= share), self.percentiles[-1][1])


@dataclass(frozen=True, slots=True)
class Preset:
    """One way to begin."""

    settings: TrainingSettings
    preparation: Preparation
    seconds: float | None
    """That it takes, about; None where nothing like it was measured."""
    why: tuple[str, ...]
    """A sentence for each choice, with its number."""


def amount_of(measured: Lengths | Prepared) -> Amount:
    """How much there is in rows that were measured, or made into examples."""
    tokens = measured.learn.tokens if isinstance(measured, Prepared) else measured.tokens
    rows = measured.learn.count if isinstance(measured, Prepared) else measured.rows - measured.failed
    return Amount(rows, tokens, measured.percentiles)


def presets(
    facts: Facts,
    precision: Precision,
    amount: Amount,
    device: Device,
    cores: int,
    speed: float | None = None,
) -> dict[str, Preset]:
    """The three by name. `speed` is tokens a second, where a rehearsal or a run has measured it on this machine."""
    here = _Situation(facts, precision, amount, device, cores, speed)
    return {name: _preset(name, here) for name in NAMES}


@dataclass(frozen=True, slots=True)
class _Situation:
    facts: Facts
    precision: Precision
    amount: Amount
    device: Device
    cores: int
    speed: float | None


def _preset(name: Name, here: _Situation) -> Preset:
    size, amount = here.facts.parameters, here.amount
    rows = min(amount.rows, _QUICK_ROWS) if name == "quick" else amount.rows
    epochs, why_epochs = _epochs(name, size, amount.rows, rows)
    limit, why_limit = _limit(name, amount, here.facts.context)
    tokens = epochs * min(amount.tokens * rows / max(1, amount.rows), rows * limit)
    rank = {"quick": 8, "balanced": 16, "thorough": 32}[name]
    batch = _batch(here, rank, limit, _step(size, tokens, limit))
    rate = _upto(_RATES, size) / (2 if name == "thorough" else 1)
    settings = TrainingSettings(
        rank=rank,
        alpha=2 * rank,
        dropout=_TINY_DROPOUT if size <= _TINY and not here.facts.experts else 0.0,  # PEFT has none for experts
        epochs=float(epochs),
        learning_rate=rate,
        batch_tokens=batch.tokens,
        accumulation=batch.parts,
        checkpointing=batch.checkpointing,
    )
    why = (
        f"Learning rate {rate:g} and rank {rank} on all linear layers suit {_count(size)} parameters.",
        why_epochs,
        why_limit,
        batch.why,
    )
    preparation = Preparation(limit=limit, most_rows=rows if rows < amount.rows else 0)
    return Preset(settings, preparation, _seconds(here, tokens, batch.checkpointing), why)


def _epochs(name: Name, size: int, there: int, rows: int) -> tuple[int, str]:
    """Passes over `rows` of those that are `there`: of a part no more than of all, or quick would see it more often."""
    if size <= _TINY:
        balanced = min(20, max(1, round(_TINY_VISITS / max(1, there))))
        why = f"so small a model has to see about {_TINY_VISITS:,} rows, as measured with the starter"
    else:
        balanced = 3 if there < 5_000 else 2 if there < 20_000 else 1
        why = "a pretrained model of this size learns a task in one to three passes, and repeats more by heart"
    epochs = {"quick": ceil(balanced / 3), "balanced": balanced, "thorough": min(2 * balanced, balanced + 12)}[name]
    return epochs, f"{epochs} {'pass' if epochs == 1 else 'passes'} over {rows:,} rows: {why}."


def _limit(name: Name, amount: Amount, context: int) -> tuple[int, str]:
    share = {"quick": 95, "balanced": 99, "thorough": 100}[name]
    wanted = amount.percentile(share)
    if share == 100 and wanted > 4 * amount.percentile(99):
        share, wanted = 99, amount.percentile(99)  # a few rows would make every batch of theirs as long
    limit = max(64, 32 * ceil(wanted / 32))
    if context and limit > context:
        return context, f"Rows are cut at {context:,} tokens, the longest that the model reads."
    whole = "all rows are" if share == 100 else f"{share} % of the rows are"
    return limit, f"Rows are cut at {limit:,} tokens: {whole} no longer than {wanted:,}."


def _step(size: int, total: float, limit: int) -> int:
    """Tokens of one optimizer step: what suits the model, less where there would be too few steps."""
    return max(limit, int(min(_upto(_STEP_TOKENS, size), total / _FEWEST_STEPS)))


@dataclass(frozen=True, slots=True)
class _Batch:
    tokens: int
    parts: int
    """Batches that are added up for a step."""
    checkpointing: Literal["auto", "on", "off"]
    why: str


def _batch(here: _Situation, rank: int, limit: int, step: int) -> _Batch:
    """What fits at once by the formula of Memory, and whether that needs checkpointing."""
    precision, name = here.precision, here.device.name
    asked = Question(
        precision=precision if precision is not Precision.STORED else Precision.BF16,
        rank=rank,
        context=limit,
        loss="chunked",
        checkpointing=False,
        kbit_preparation="on" if precision.quantizes else "off",
        autocast="bf16" if here.device.kind == "cuda" and here.device.bf16 else "none",
    )
    try:
        plain, kept = (
            limit * memory.largest(here.facts, replace(asked, checkpointing=on), here.device, "batch")
            for on in (False, True)
        )
    except Unsupported:
        batch = max(limit, min(step, 2048))
        why = f"Batches of {batch:,} tokens; what this architecture takes in memory is not known."
        return _Batch(batch, ceil(step / batch), "auto", why)
    if plain >= step:
        return _Batch(step, 1, "off", f"{step:,} tokens a step fit {name} at once, without checkpointing.")
    if not kept:
        why = f"Even one row of {limit:,} tokens does not fit {name} in {precision}: choose fewer bits, or cut rows."
        return _Batch(limit, ceil(step / limit), "on", why)
    batch = min(step, kept)
    parts = ceil(step / batch)
    added = f" {parts} of them are added up for a step." if parts > 1 else ""
    why = (
        f"{batch:,} tokens at once fit {name} with checkpointing, {plain:,} without; it takes a third more time.{added}"
    )
    return _Batch(batch, parts, "on", why)


def _seconds(here: _Situation, tokens: float, checkpointing: str) -> float | None:
    if here.speed:
        return tokens / here.speed
    if here.device.kind != "cpu":
        return None
    again = 1.3 if checkpointing == "on" else 1.0
    if here.precision.quantizes:
        again *= _UNPACKING
    return again * 6 * here.facts.parameters * tokens / (_CPU_FLOPS * here.cores)


def _upto(table: tuple[tuple[float, float], ...], size: int) -> float:
    return next(value for most, value in table if size <= most)


def _count(size: int) -> str:
    return f"{size / 1e9:.1f} billion" if size >= 1e9 else f"{size / 1e6:.1f} million"
