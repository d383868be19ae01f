"""From Start to a finished adapter with the starter and what is shipped with it, offline, and what was learnt by it.

    python tests/benchmarks/demonstration.py [persona] [orders]

A run is begun as the page begins one, with the settings of a preset, in a worker process. Then one look at the model
without its adapter and one with it say what it learnt and what it forgot. Exits with 1 where a goal is missed. Wall
seconds say little on a machine that is busy: the seconds of the CPU stand beside them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil

from studio import evaluation, jobs, loading, memory, quality, runs, training
from studio.evaluation import Exam, Meter
from studio.events import Finished
from studio.loading import LoadPlan
from studio.models import STARTER, DatasetRef, Precision
from studio.settings import ASSETS, STARTER_FOLDER
from studio.training import DataSource, Learnt, TrainingRun


@dataclass(frozen=True)
class Goal:
    """What a dataset is to show: the bounds of a figure before and after, as shares."""

    preset: str
    held_out: str
    seconds: float
    figures: dict[str, tuple[float, float]]
    """name: (at most before, at least after)"""


GOALS = {
    "persona": Goal("quick", "persona:test", 180, {"voice": (0.05, 0.90), "retained facts": (1.0, 0.50)}),
    "orders": Goal(
        "balanced",
        "orders:test_combinations",
        180,
        {"exact match": (0.05, 0.95), "combinations": (0.05, 0.95), "new frames": (0.05, 0.85)},
    ),
}
missed: list[str] = []


def main(names: list[str]) -> None:
    os.environ |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    os.environ["STUDIO_WORKSPACE"] = tempfile.mkdtemp()
    for name in names:
        demonstrate(name, GOALS[name])
    sys.exit(1 if missed else 0)


def demonstrate(name: str, goal: Goal) -> None:
    run = planned(name, goal)
    print(f"{name}, {goal.preset}: {run.settings}")
    learnt, seconds, busy = carried_out(run)
    meter = looked_at(name, run, learnt)
    judge(f"{name}: seconds from Start to the adapter", seconds, seconds <= goal.seconds)
    print(f"  {'seconds of the CPU':<46} {busy:8.1f}           ({learnt.steps} steps, {learnt.tokens:,} tokens)")
    assert meter.before.loss
    assert meter.after.loss
    judge(f"{name}: held-out loss, {meter.before.loss:.3f} to", meter.after.loss, bool(meter.halved))
    for change in (*meter.learnt, *meter.kept):
        most, least = goal.figures.get(change.name, (1.0, 0.0))
        good = change.before <= most and change.after >= least
        judge(f"{name}: {change.name}, of {change.of}, {change.before:.1%} to", 100 * change.after, good)
    print(f"  {'perplexity of a general text, times':<46} {meter.perplexity_ratio:8.2f}")
    print(f"  {'seconds of a look':<46} {meter.after.seconds:8.1f}")


def planned(name: str, goal: Goal) -> TrainingRun:
    """The run that the page offers for a dataset with the settings of a preset."""
    source = DatasetRef.parse(name)
    offer = result(jobs.look_at_dataset(source, token=False))
    rows = result(jobs.read_rows(offer, "train", token=False))
    measured = result(jobs.measure_rows(rows, STARTER, token=False))
    facts = result(jobs.facts_of("starter", token=False))
    precision = loading.settled(LoadPlan(STARTER), STARTER_FOLDER).precision or Precision.FP32
    amount = training.amount_of(measured.lengths)
    cores = os.cpu_count() or 1
    preset = training.presets(facts, precision, amount, memory.device(memory.THIS), cores)[goal.preset]
    return TrainingRun(
        plan=LoadPlan(STARTER),
        data=(DataSource(name),),
        held_out=DataSource(goal.held_out),
        preparation=preset.preparation,
        settings=preset.settings,
    )


def carried_out(run: TrainingRun) -> tuple[Learnt, float, float]:
    """What a worker process makes of a run, the seconds that it took, and those of the CPU."""
    started, busy = time.monotonic(), 0.0
    id_ = runs.create(run)
    runs.start(id_, token=False)
    told: list[Any] = []
    for news in runs.follow(id_):
        told += [one.event for one in news.told]
        busy = max(busy, sum(_cpu(child) for child in psutil.Process().children(recursive=True)))
    if not isinstance(told[-1], Finished):
        raise SystemExit(f"The run ended with {told[-1]}")
    return told[-1].result, time.monotonic() - started, busy


def _cpu(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.NoSuchProcess:
        return 0.0


def looked_at(name: str, run: TrainingRun, learnt: Learnt) -> Meter:
    """One loaded model, without its adapter and with it."""
    plan = replace(run.plan, adapter=learnt.folder)
    loaded = result(loading.load(plan, STARTER_FOLDER))
    held_out = replace(run.preparation, limit=1024)  # whole, where the preset cuts
    data = result(jobs.prepare(replace(run, preparation=held_out), Path(tempfile.mkdtemp()), token=False))
    checks = evaluation.read_checks(ASSETS / "datasets" / name)
    exam = Exam(data.held_out, checks, text=quality.bundled_text(STARTER))
    looks = [evaluation.look(loaded.model, loaded.tokenizer, exam, adapted=adapted) for adapted in (False, True)]
    return Meter(*(result(look) for look in looks))


def judge(what: str, figure: float, good: bool) -> None:
    """Print a figure, and whether it is what was promised."""
    print(f"  {what:<46} {figure:8.3f}  {'' if good else 'MISSED'}")
    if not good:
        missed.append(what)


def result(work: Generator[Any, None, Any]) -> Any:
    """What a job ends with, by a last event or by returning it."""
    event = None
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return event.result if isinstance(event, Finished) else end.value


if __name__ == "__main__":
    main(sys.argv[1:] or list(GOALS))
