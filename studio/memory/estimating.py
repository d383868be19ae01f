"""One question, one answer: which formula is asked, and how the answer runs over context and batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal

from studio.memory.analytic import training_peak
from studio.memory.architecture import Facts
from studio.memory.hardware import Device, room
from studio.memory.inference import generating_peak
from studio.memory.request import Estimate, Part, Question

Axis = Literal["context", "batch"]


@dataclass(frozen=True, slots=True)
class Point:
    """What is held at the peak for one value of an axis."""

    value: int
    peak: int
    parts: tuple[Part, ...]


def estimate(facts: Facts, question: Question, device: Device | None = None) -> Estimate:
    """The answer in closed form, in a millisecond. Raises Unsupported where it has none."""
    ask = training_peak if question.task == "train" else generating_peak
    return ask(facts, question, device)


def curve(
    facts: Facts, question: Question, axis: Axis, values: Iterable[int], device: Device | None = None
) -> tuple[Point, ...]:
    """The peak over an axis, for a plot."""
    answers = [(value, estimate(facts, _at(question, axis, value), device)) for value in values]
    return tuple(Point(value, answer.peak, answer.parts) for value, answer in answers)


def largest(facts: Facts, question: Question, device: Device, axis: Axis) -> int:
    """The largest context or batch that fits, all else as it is; 0 where not even 1 does."""
    most = next(field.metadata["max"] for field in fields(Question) if field.name == axis)

    def fits(value: int) -> bool:
        return estimate(facts, _at(question, axis, value), device).peak <= room(device)

    if not fits(1):
        return 0
    least = 1
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least


def _at(question: Question, axis: Axis, value: int) -> Question:
    return replace(question, context=value) if axis == "context" else replace(question, batch=value)
