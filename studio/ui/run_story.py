"""What the events of a run come to: where it is, its curves, its samples. Pure functions of what it said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from studio.events import Finished, Phase, Progress, Waiting
from studio.runs import Started, Told
from studio.runs.summing import seconds_left
from studio.training import Began, Evaluated, Learnt, Sampled, Saved, Stepped, Warned

POINTS = 240
"""Of a curve, at most: more are not to be told apart on a screen, and cost the browser time."""

RECENT = 300
"""Events that tell how long the rest takes."""


@dataclass(slots=True)
class Stage:
    """A phase that the run went through, and for how long."""

    phase: Phase
    began: float
    ended: float
    done: int = 0
    total: int | None = None

    @property
    def seconds(self) -> float:
        """So far, or in all."""
        return self.ended - self.began


@dataclass(slots=True)
class Story:
    """All that was said, sorted. What was learnt again after a stop counts once."""

    began: Began | None = None
    steps: list[Stepped] = field(default_factory=list)
    looks: list[Evaluated] = field(default_factory=list)
    samples: list[Sampled] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    """Before the first step, since the run was begun, or went on, last."""
    doing: Progress | Waiting | None = None
    """The last word, where that is how far something is."""
    learnt: Learnt | None = None
    is_learning: bool = False
    first_at: float = 0.0
    last_at: float = 0.0
    seconds_left: float | None = None
    """None before the second step."""

    @property
    def step(self) -> int:
        """The last one that is done."""
        return self.steps[-1].step if self.steps else self.began.step if self.began else 0

    @property
    def total(self) -> int:
        """Steps of the whole run; 0 while that is not known."""
        return self.began.total if self.began else 0

    @property
    def sampled_at(self) -> list[int]:
        """The steps at which the model was asked, in their order."""
        return sorted({sample.step for sample in self.samples})

    def samples_at(self, step: int) -> list[Sampled]:
        """What it said at the last time it was asked, up to a step."""
        at = max((asked for asked in self.sampled_at if asked <= step), default=None)
        return [sample for sample in self.samples if sample.step == at]


def story(told: Sequence[Told]) -> Story:
    """Sort what a run said."""
    found = Story()
    for each in told:
        found.first_at = found.first_at or each.at
        found.last_at = each.at
        _take(found, each)
    begun = max((place for place, each in enumerate(told) if isinstance(each.event, Started)), default=0)
    found.seconds_left = seconds_left(list(told[max(begun, len(told) - RECENT) :]))
    return found


def _take(found: Story, each: Told) -> None:
    event = each.event
    found.doing = event if isinstance(event, Waiting | Progress) else None
    match event:
        case Started():
            found.stages.clear()
            found.is_learning = False
        case Progress() if not found.is_learning and event.phase is not Phase.TRAIN:
            _go_through(found.stages, event, each.at)
        case Began():
            _go_on(found, event)
            found.began = event
            found.is_learning = True
            if found.stages:
                found.stages[-1].ended = each.at
        case Stepped():
            found.steps.append(event)
        case Evaluated() | Sampled() | Saved():
            lists: dict[type, list[Any]] = {Evaluated: found.looks, Sampled: found.samples, Saved: found.saved}
            lists[type(event)].append(event)
        case Warned() if event not in found.warnings:
            found.warnings.append(event)
        case Finished(Learnt() as learnt):
            found.learnt = learnt


def _go_on(found: Story, began: Began) -> None:
    """What comes behind a checkpoint is done again."""
    found.steps = [each for each in found.steps if each.step <= began.step]
    found.looks = [each for each in found.looks if each.step <= began.step]
    found.samples = [each for each in found.samples if each.step <= began.step]
    found.learnt = None


def _go_through(stages: list[Stage], event: Progress, at: float) -> None:
    if stages and stages[-1].phase is event.phase:
        stages[-1].ended, stages[-1].done, stages[-1].total = at, event.done, event.total
        return
    if stages:
        stages[-1].ended = at
    stages.append(Stage(event.phase, at, at, event.done, event.total))


# Curves


def thinned(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS of them: the mean of each stretch, at its last place."""
    width = -(-len(pairs) // POINTS) or 1
    stretches = [pairs[first : first + width] for first in range(0, len(pairs), width)]
    return [(stretch[-1][0], sum(value for _, value in stretch) / len(stretch)) for stretch in stretches]


def losses(found: Story) -> list[tuple[float, float, str]]:
    """(step, loss, of which rows) of the rows that are learnt and of those that are held out."""
    learnt = thinned([(step.step, step.loss) for step in found.steps])
    return [
        *((step, loss, "learnt") for step, loss in learnt),
        *((look.step, look.loss, "held out") for look in found.looks),
    ]


def speed(found: Story) -> list[tuple[float, float]]:
    """(step, tokens a second)."""
    return thinned([(step.step, step.tokens / step.seconds) for step in found.steps if step.seconds])
