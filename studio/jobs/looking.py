"""What can be said of a model that is not in memory: what it holds, what loading it would take; and converting it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from studio import compute, conversion, hub, inspection, loading
from studio.checkpoint import FLOATS, Checkpoint, existing
from studio.errors import InputError, PickleOnly, Unsupported
from studio.events import Finished, Phase, Progress, outcome
from studio.heartbeat import heartbeat
from studio.inspection import Inspection
from studio.jobs.fetching import folder_here, peek
from studio.loading import LoadPlan, Outlook
from studio.models import ModelRef
from studio.settings import Settings


def inspect(
    ref: ModelRef, *, token: hub.Token, against_architecture: bool = False, device: str | None = None
) -> Generator[Progress | Finished[Inspection], None, None]:
    """Say what a checkpoint holds without loading it, or downloading it. The last event is `Finished(Inspection)`.

    `against_architecture` compares its tensors with those that transformers would build, and takes seconds more.
    """
    options: dict[str, Any] = {"against_architecture": against_architecture, "device": device}
    if folder := folder_here(ref):
        work = partial(inspection.inspect_folder, folder, **options)
    else:
        seen = yield from peek(ref, token=token)
        work = partial(inspection.inspect_peek, seen, **options)
    phase = Phase.WARM_UP if against_architecture else Phase.RESOLVE
    found = yield from heartbeat(lambda _say, _stop: work(), lambda _: [Progress(phase)], every=0.2)
    yield Finished(replace(found, model=ref.name))


def foresee(plan: LoadPlan, *, token: hub.Token) -> Generator[Progress | Finished[Outlook], None, None]:
    """Say what loading would take and where it would go; downloads no weights. Ends with `Finished(Outlook)`.

    The plan in it names the commit of a model on the Hub, so that carrying it out loads what was looked at.
    """
    model = plan.model
    with tempfile.TemporaryDirectory(prefix="studio-config-") as spare:
        folder, checkpoint = folder_here(model), None
        if folder is None:
            seen = yield from peek(model, token=token)
            folder = seen.folder or Path(spare)
            if not seen.folder:
                checkpoint = _seen_config(seen, folder)
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
        folder = yield from outcome(hub.download(ref, token=token, part="pickles"))
    name = ref.name.strip("/").rpartition("/")[2]
    yield from conversion.convert(existing(folder), settings.workspace / "models" / f"{name}-safetensors")
