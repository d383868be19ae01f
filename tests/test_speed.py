"""What a precision costs in speed, measured for real, without touching the model in memory."""

from __future__ import annotations

from studio import jobs, speed
from studio.events import Finished
from studio.loading import LoadPlan
from studio.models import STARTER, Precision


def finished(generator):
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            return stop.value


def test_every_precision_has_both_speeds():
    found = finished(speed.measure((Precision.BF16, Precision.NF4)))
    assert [each.precision for each in found] == [Precision.BF16, Precision.NF4]
    assert all(each.writing > 0 and each.reading > each.writing for each in found)


def test_the_model_in_memory_stays_where_it_is(monkeypatch):
    monkeypatch.setattr(speed.measure, "__defaults__", ((Precision.FP32,),))
    list(jobs.load(LoadPlan(STARTER, Precision.FP32), token=False))
    held = jobs.SESSION.status().resident
    *_, last = jobs.measure_speed()
    assert isinstance(last, Finished)
    assert len(last.result) == 1
    assert jobs.SESSION.status().resident is held
    assert jobs.SESSION.status().busy_with is None
    list(jobs.unload())
