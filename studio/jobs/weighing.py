"""What a run learnt and what it forgot: the model asked the same without its adapter and with it."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

from studio import compute, evaluation, hub, quality, runs
from studio.dataset import Prepared
from studio.errors import InputError
from studio.evaluation import Exam, Meter
from studio.events import Finished, Progress, Waiting, outcome
from studio.jobs.fetching import fetch
from studio.jobs.model import SESSION
from studio.jobs.previewing import prepare
from studio.loading import LoadPlan
from studio.models import BUNDLED, DatasetRef
from studio.runs.document import put
from studio.runs.plain import as_plain, from_plain
from studio.settings import ASSETS
from studio.training import TrainingRun

FILE = "meter.json"
"""In the folder of a run."""


def weigh(id_: str, *, token: hub.Token) -> Generator[Progress | Waiting | Finished[Meter], None, None]:
    """Measure it, and keep the figures in the folder of the run. The last event is `Finished(Meter)`.

    Raises InputError for a run that made no adapter.
    """
    run = runs.of(id_)
    plan = tuned(run)
    model = yield from fetch(plan, token=token)
    data = yield from outcome(prepare(run.document.run, run.folder, token=token))
    yield from compute.run(_weigh, plan, model, exam_of(run.document.run, data), run.folder)


def weighed(folder: Path) -> Meter | None:
    """What was measured before; None where nothing was."""
    try:
        return from_plain(Meter, json.loads((folder / FILE).read_text(encoding="utf-8")), FILE)
    except (OSError, ValueError, InputError):
        return None


def tuned(run: runs.Run) -> LoadPlan:
    """The model of a run with the adapter that came of it. Raises InputError where none did."""
    folder = run.folder / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise InputError("This run has made no adapter.", "Let it finish, or choose one that did.")
    return replace(run.document.run.plan, adapter=folder)


def exam_of(run: TrainingRun, data: Prepared) -> Exam:
    """What is asked: the rows that were held out, and what a set that is shipped declares."""
    name = DatasetRef.parse(run.data[0].name).name if _is_name(run) else ""
    checks = evaluation.read_checks(ASSETS / "datasets" / name) if name in BUNDLED else ()
    return Exam(data.held_out, checks, run.prompts, quality.bundled_text(run.plan.model))


def _is_name(run: TrainingRun) -> bool:
    try:
        DatasetRef.parse(run.data[0].name)
    except InputError:
        return False
    return True


def _weigh(plan: LoadPlan, model: Path, exam: Exam, folder: Path) -> Iterator[Progress | Waiting | Finished[Meter]]:
    with SESSION.borrow(plan, model, purpose="measuring") as loan:
        loaded = yield from loan
        before = yield from outcome(evaluation.look(loaded.model, loaded.tokenizer, exam, adapted=False))
        after = yield from outcome(evaluation.look(loaded.model, loaded.tokenizer, exam))
    meter = Meter(before, after)
    put(folder / FILE, json.dumps(as_plain(meter), indent=1) + "\n")
    yield Finished(meter)
