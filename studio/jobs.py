"""Everything that needs the model. A request comes in, events go out, both can be pickled; the model never leaves."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from studio import compute, conversion, generation, hub, inspection, keeping, loading, quality, speed
from studio.checkpoint import FLOATS, Checkpoint, existing
from studio.errors import InputError, PickleOnly, Unsupported
from studio.events import Finished, Phase, Progress, Waiting
from studio.generation import GenerationEvent, GenerationSettings, Prompt
from studio.heartbeat import heartbeat
from studio.inspection import Inspection
from studio.keeping import Kept
from studio.loading import LoadPlan, Outlook, Resident
from studio.models import ModelRef
from studio.quality import Quality
from studio.session import Session
from studio.settings import STARTER_FOLDER, Settings
from studio.speed import Speed

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


def fetch(plan: LoadPlan, *, token: hub.Token) -> Generator[Progress, None, Path]:
    """The folder of a plan's model on this machine, downloaded first where it is on the Hub."""
    model, shared = plan.model, Settings.from_env().shared
    if shared and (model.where == "folder" or plan.adapter):
        raise _closed_to_visitors()
    if model.where == "starter":
        return STARTER_FOLDER
    if model.where == "folder":
        return existing(Path(model.name))
    with closing(hub.download(model, token=token, shared=shared)) as events:
        for event in events:
            if isinstance(event, Finished):
                return event.result
            yield event
    raise AssertionError("a download ends with Finished or raises")


def inspect(
    ref: ModelRef, *, token: hub.Token, against_architecture: bool = False, device: str | None = None
) -> Generator[Progress | Finished[Inspection], None, None]:
    """Say what a checkpoint holds without loading it, or downloading it. The last event is `Finished(Inspection)`.

    `against_architecture` compares its tensors with those that transformers would build, and takes seconds more.
    """
    shared = Settings.from_env().shared
    options: dict[str, Any] = {"against_architecture": against_architecture, "device": device}
    if shared and ref.where == "folder":
        raise _closed_to_visitors()
    if ref.where == "hub":
        seen = yield from _peek(ref, token, shared)
        work = partial(inspection.inspect_peek, seen, **options)
    else:
        folder = STARTER_FOLDER if ref.where == "starter" else existing(Path(ref.name))
        work = partial(inspection.inspect_folder, folder, **options)
    phase = Phase.WARM_UP if against_architecture else Phase.RESOLVE
    found = yield from heartbeat(lambda _say, _stop: work(), lambda _: [Progress(phase)], every=0.2)
    yield Finished(replace(found, model=ref.name))


def foresee(plan: LoadPlan, *, token: hub.Token) -> Generator[Progress | Finished[Outlook], None, None]:
    """Say what loading would take and where it would go; downloads no weights. Ends with `Finished(Outlook)`.

    The plan in it names the commit of a model on the Hub, so that carrying it out loads what was looked at.
    """
    model, shared = plan.model, Settings.from_env().shared
    if shared and model.where == "folder":
        raise _closed_to_visitors()
    with tempfile.TemporaryDirectory(prefix="studio-config-") as spare:
        folder, checkpoint = STARTER_FOLDER if model.where == "starter" else Path(model.name), None
        if model.where == "hub":
            seen = yield from _peek(model, token, shared)
            folder = seen.folder or Path(spare)
            if not seen.folder:
                checkpoint = _seen_config(seen, folder)
        elif model.where == "folder":
            existing(folder)
        yield from compute.imports()
        work = partial(loading.outlook, plan, folder, checkpoint, compare=True)
        ahead = yield from heartbeat(lambda _say, _stop: work(), lambda _: [Progress(Phase.RESOLVE)], every=0.2)
    if model.where == "hub":
        # At the commit that was looked at: what is loaded later is what was told now.
        ahead = replace(ahead, plan=replace(ahead.plan, model=seen.ref))
    yield Finished(ahead)


def _seen_config(seen: hub.Peek, folder: Path) -> Checkpoint:
    """Put the config that was seen into a folder; return what its weights are, from their headers."""
    for path, content in seen.contents:
        if path == "config.json":
            (folder / path).write_bytes(content)
    inside = inspection.inspect_peek(seen)
    for finding in inside.findings:
        if finding.id == "pickle-only":
            raise PickleOnly(finding.message, finding.hint)
        if finding.id in ("gguf-only", "no-weights"):
            raise Unsupported(finding.message, finding.hint)
    floats = sum(entry.weights for entry in inside.dtypes if entry.dtype in FLOATS)
    return Checkpoint(floats, sum(entry.bytes for entry in inside.dtypes if entry.dtype not in FLOATS))


def convert(ref: ModelRef, *, token: hub.Token) -> Generator[Progress | Finished[Path], None, None]:
    """Turn a model that has pickle files only into safetensors in the workspace. Ends with the new folder."""
    settings = Settings.from_env()
    if settings.shared:
        raise InputError("Visitors cannot convert models on this machine.", "Run the studio on your own.")
    folder = Path(ref.name)
    if ref.where == "hub":
        with closing(hub.download(ref, token=token, pickles=True)) as events:
            for event in events:
                if isinstance(event, Finished):
                    folder = event.result
                else:
                    yield event
    name = ref.name.strip("/").rpartition("/")[2]
    yield from conversion.convert(existing(folder), settings.workspace / "models" / f"{name}-safetensors")


def _peek(ref: ModelRef, token: hub.Token, shared: bool) -> Generator[Progress, None, hub.Peek]:
    with closing(hub.peek(ref, token=token, shared=shared)) as events:
        for event in events:
            if isinstance(event, Finished):
                return event.result
            yield event
    raise AssertionError("a peek ends with Finished or raises")


def _closed_to_visitors() -> InputError:
    return InputError("Folders of this machine are not open to visitors.", "Choose a model of the Hub, or the starter.")
