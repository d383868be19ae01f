"""Everything that needs the model. A request comes in, events go out, both can be pickled; the model never leaves."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from studio import compute, generation, hub, keeping, loading, memory, quality, speed
from studio.errors import InputError
from studio.events import Finished, Phase, Progress, Waiting
from studio.generation import GenerationEvent, GenerationSettings, Prompt
from studio.heartbeat import heartbeat
from studio.jobs.fetching import fetch
from studio.keeping import Kept
from studio.loading import LoadedModel, LoadPlan, Resident
from studio.memory import Entry
from studio.quality import Quality
from studio.session import Session
from studio.settings import Settings
from studio.speed import Speed


def _load_and_remember(plan: LoadPlan, folder: Path) -> Generator[Progress, None, LoadedModel]:
    """Load a model, and keep how right the estimate of it was."""
    loaded = yield from loading.load(plan, folder)
    _remember(loaded.resident)
    return loaded


def _remember(resident: Resident) -> None:
    """Not where visitors share the machine, and not of an adapter, which the estimate leaves out."""
    plan = resident.plan
    try:
        settings = Settings.from_env()
    except InputError:
        return  # a port that is none is the page's concern, and no reason to lose a model that is loaded
    if settings.shared or plan.adapter:
        return
    name = "" if plan.model.where == "folder" else str(plan.model)
    held, device = str(plan.precision), compute.machine().name
    memory.remember(settings.workspace, Entry("load", device, name, held, resident.estimated, resident.weights))


SESSION = Session(_load_and_remember)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to generate, and with which model: a job never depends on what happens to be loaded."""

    plan: LoadPlan
    prompt: Prompt
    settings: GenerationSettings = field(default_factory=GenerationSettings)


def generate(request: GenerationRequest, *, token: hub.Token) -> Generator[GenerationEvent | Waiting, None, None]:
    """Stream a reply, loading the model first where it is not in memory. The last event is `Finished(Reply)`."""
    folder = yield from fetch(request.plan, token=token)
    yield from compute.run(_generate, request, folder)


def _generate(request: GenerationRequest, folder: Path) -> Iterator[GenerationEvent | Waiting]:
    with SESSION.borrow(request.plan, folder, purpose="answering") as loan:
        loaded = yield from loan
        yield from generation.stream(loaded, request.prompt, request.settings)


def load(plan: LoadPlan, *, token: hub.Token) -> Generator[Progress | Waiting | Finished[Resident], None, None]:
    """Bring a model into memory and keep it there. The last event is `Finished(Resident)`."""
    folder = yield from fetch(plan, token=token)
    yield from compute.run(_load, plan, folder)


def _load(plan: LoadPlan, folder: Path) -> Iterator[Progress | Waiting | Finished[Resident]]:
    with SESSION.borrow(plan, folder, purpose=f"loading {plan.model}") as loan:
        loaded = yield from loan
        yield Finished(loaded.resident)


def unload() -> Generator[Progress | Waiting | Finished[int], None, None]:
    """Let go of the model. The last event carries the bytes that are free afterwards, measured."""
    yield from compute.run(_unload)


def _unload() -> Iterator[Progress | Waiting | Finished[int]]:
    yield from SESSION.unload()
    yield Finished(compute.free_memory())


def keep(
    plan: LoadPlan, where: str | Path, *, token: hub.Token
) -> Generator[Progress | Waiting | Finished[Kept], None, None]:
    """Write a model as it is in memory to a folder that loads again bit for bit. The last event is `Finished(Kept)`.

    `where` is a name, for a folder of that name in the workspace, or the path of a new folder.
    """
    settings = Settings.from_env()
    if settings.shared:
        raise InputError("Visitors cannot keep models on this machine.", "Duplicate the Space, or run the studio.")
    target = where if isinstance(where, Path) else keeping.place(settings.workspace, where)
    keeping.check_vacant(target)
    folder = yield from fetch(plan, token=token)
    yield from compute.run(_keep, plan, folder, target)


def _keep(plan: LoadPlan, folder: Path, target: Path) -> Iterator[Progress | Waiting | Finished[Kept]]:
    with SESSION.borrow(plan, folder, purpose=f"keeping {plan.model}") as loan:
        loaded = yield from loan
        kept = yield from keeping.keep(loaded, folder, target)
    yield Finished(kept)


def check_quality(plan: LoadPlan, *, token: hub.Token) -> Generator[Progress | Waiting | Finished[Quality], None, None]:
    """Hold a model against itself in 16 bit on the bundled text. The last event is `Finished(Quality)`.

    The 16-bit model comes first, so that the model of the plan is the one in memory afterwards.
    """
    folder = yield from fetch(plan, token=token)
    yield from compute.run(_check_quality, plan, folder, seconds=120)


def _check_quality(plan: LoadPlan, folder: Path) -> Iterator[Progress | Waiting | Finished[Quality]]:
    resident = SESSION.status().resident
    look = partial(quality.reference_plan, plan, folder, held=resident.weights if resident else 0)
    text = quality.bundled_text(plan.model)
    other = yield from heartbeat(lambda _say, _stop: look(), lambda _: [Progress(Phase.RESOLVE)], every=0.2)
    with SESSION.borrow(other, folder, purpose="checking the quality") as loan:
        loaded = yield from loan
        reference = yield from quality.read(loaded, text=text)
        del loaded  # or the session could not let go of it
    with SESSION.borrow(plan, folder, purpose="checking the quality") as loan:
        loaded = yield from loan
        reading = yield from quality.read(loaded, reference, text)
    yield Finished(quality.compare(reference, reading))


def measure_speed() -> Generator[Progress | Waiting | Finished[tuple[Speed, ...]], None, None]:
    """Measure what each precision costs in speed on this machine. The last event is `Finished` with one a precision."""
    yield from compute.run(_measure_speed, seconds=120)


def _measure_speed() -> Iterator[Progress | Waiting | Finished[tuple[Speed, ...]]]:
    with SESSION.alone(purpose="measuring the speed") as turn:
        yield from turn
        yield Finished((yield from speed.measure()))
