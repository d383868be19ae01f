"""A rehearsal of a run: everything it would do, for two steps on its longest batch, and then all is as it was."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from studio import compute, hub, training
from studio.dataset import Prepared
from studio.events import Finished, Progress, Waiting, outcome
from studio.jobs.fetching import fetch
from studio.jobs.model import SESSION
from studio.jobs.previewing import prepare
from studio.loading import settled
from studio.settings import Settings
from studio.training import Rehearsal, TrainingRun


def rehearse(
    run: TrainingRun, files: Sequence[Path] = (), *, token: hub.Token
) -> Generator[Progress | Waiting | Finished[Rehearsal], None, None]:
    """Measure what a run takes, in memory and time. The last event is `Finished(Rehearsal)`.

    `files` are those that its sources name. The model in memory gives way. Raises what the run would raise until its
    first steps are done.
    """
    model = yield from fetch(run.plan, token=token)
    yield from compute.imports()
    place = Settings.from_env().workspace
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=place) as name:
        folder = Path(name)
        for file in files:
            (folder / "data").mkdir(exist_ok=True)
            shutil.copyfile(file, folder / "data" / file.name)
        data = yield from outcome(prepare(run, folder, token=token))
        run = replace(run, plan=settled(run.plan, model))
        yield from compute.run(_rehearse, run, model, data, folder)


def _rehearse(
    run: TrainingRun, model: Path, data: Prepared, folder: Path
) -> Iterator[Progress | Waiting | Finished[Rehearsal]]:
    with SESSION.take(run.plan, model, purpose="rehearsing") as given:
        loaded = yield from given
        yield from training.rehearse(loaded.model, loaded.tokenizer, data, run, folder)
