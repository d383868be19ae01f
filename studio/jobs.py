"""Everything that needs the model. A request comes in, events go out, both can be pickled; the model never leaves."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from studio import compute, generation, hub
from studio.errors import InputError
from studio.events import Finished, Progress, Waiting
from studio.generation import GenerationEvent, GenerationSettings, Prompt
from studio.loading import LoadPlan, Resident
from studio.session import Session
from studio.settings import STARTER_FOLDER, Settings

SESSION = Session()


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


def fetch(plan: LoadPlan, *, token: hub.Token) -> Generator[Progress, None, Path]:
    """The folder of a plan's model on this machine, downloaded first where it is on the Hub."""
    model, shared = plan.model, Settings.from_env().shared
    if shared and (model.where == "folder" or plan.adapter):
        raise InputError(
            "Folders of this machine are not open to visitors.", "Choose a model of the Hub, or the starter."
        )
    if model.where == "starter":
        return STARTER_FOLDER
    if model.where == "folder":
        return Path(model.name)
    with closing(hub.download(model, token=token, shared=shared)) as events:
        for event in events:
            if isinstance(event, Finished):
                return event.result
            yield event
    raise AssertionError("a download ends with Finished or raises")
