"""What a run would take before it is begun: what a preset chooses, memory, modules, and what to know of all that."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass, replace

from studio import advice, compute, hub, memory, training
from studio.advice import Advice
from studio.errors import Unsupported
from studio.events import Finished, Phase, Progress
from studio.heartbeat import patiently
from studio.jobs.estimating import Answer, answer, known_of
from studio.jobs.training import precision_of, question_of
from studio.memory import THIS, Facts, Question
from studio.memory.blueprint import build
from studio.training import Amount, Preset, Targets, TrainingRun


@dataclass(frozen=True, slots=True)
class Ahead:
    """What a run would take."""

    run: TrainingRun
    """With what the preset chose."""
    preset: Preset | None
    """None where the settings are a person's own, or nothing is known of the rows."""
    question: Question
    answer: Answer
    targets: Targets | None
    """What can have an adapter; None where nothing but the headers of the weights is known."""
    advice: tuple[Advice, ...]

    @property
    def adapter_bytes(self) -> int:
        """Of the file of the adapter: it is held and saved in fp32."""
        return 4 * self.answer.estimate.trainable


def look_ahead(
    run: TrainingRun, *, amount: Amount | None = None, preset: str = "", token: hub.Token
) -> Generator[Progress | Finished[Ahead], None, None]:
    """Say what a run would take, as it is, or with what a preset chooses for so many rows.

    Downloads no weights. Ends with `Finished(Ahead)`. Raises what `estimate` raises.
    """
    known = yield from known_of(str(run.plan.model), token=token)
    yield from compute.imports()
    chosen = None
    if preset and amount:
        here = memory.device(THIS)
        chosen = training.presets(known.facts, precision_of(run), amount, here, os.cpu_count() or 1)[preset]
        made = replace(run.preparation, limit=chosen.preparation.limit, most_rows=chosen.preparation.most_rows)
        run = replace(run, settings=chosen.settings, preparation=made)
    question = replace(
        question_of(run, known.facts, longest=dict(amount.percentiles)[100] if amount else 0), device=THIS
    )
    found = answer(known, question)
    if run.settings.checkpointing == "auto" and found.fits[0].verdict not in ("fits", "tight"):
        question = replace(question, checkpointing=True)
        found = answer(known, question)
    targets = yield from patiently(lambda _stop: _targets(known.facts), Progress(Phase.RESOLVE))
    rules: list[Advice] = []
    if targets:
        wish = advice.Wish(run.settings, targets, question.precision, compute.machine(), amount)
        rules = advice.on_training(wish)
    yield Finished(Ahead(run, chosen, question, found, targets, tuple(rules)))


def _targets(facts: Facts) -> Targets | None:
    """The modules that can have an adapter; None where nothing but the headers of the weights is known."""
    try:
        return training.targets_of(build(facts))
    except Unsupported:
        return None
