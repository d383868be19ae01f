"""The ways to merge an adapter that was trained on a quantized base, measured on this machine."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

from studio import compute, hub, merging
from studio.errors import InputError
from studio.events import Finished, Progress, Waiting
from studio.jobs.fetching import fetch
from studio.jobs.matching import Matched
from studio.jobs.model import SESSION
from studio.loading import LoadPlan, Quantization
from studio.merging import ChoiceQuestion, Choices
from studio.models import Precision

WAYS_OF = (Precision.NF4, Precision.FP4, Precision.INT8)
"""How a base may have been held."""


def measure_ways(
    matched: Matched, precision: str, *, token: hub.Token
) -> Generator[Progress | Waiting | Finished[Choices], None, None]:
    """Merge in memory on each way, and hold each against the adapter on its own quantized base.

    The last event is `Finished(Choices)`. Raises InputError for an adapter without a base, or one that does not fit.
    """
    if matched.base is None or (matched.fit is not None and not matched.fits):
        raise InputError(
            matched.why or "There is no base to merge into.", matched.hint or "Write the base model beside the adapter."
        )
    base = yield from fetch(LoadPlan(matched.base), token=token)
    question = ChoiceQuestion(base, Path(matched.adapter.folder), *how_trained(matched, precision))
    yield from compute.run(_measure, question, seconds=300)


def how_trained(matched: Matched | None, precision: str) -> tuple[Precision, Quantization]:
    """How the base was quantized: as the run had it that made the adapter, or in the usual way of this precision."""
    trained = matched.trained if matched else None
    same = trained is not None and trained.precision == precision
    return Precision(precision), trained.quantization if trained and same else Quantization()


def _measure(question: ChoiceQuestion) -> Iterator[Progress | Waiting | Finished[Choices]]:
    with SESSION.alone(purpose="measuring merges") as turn:
        yield from turn
        yield from merging.measure_choices(question)
