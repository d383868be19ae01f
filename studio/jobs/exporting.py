"""A model folder on its way out: as a GGUF file in the workspace, and what a deployment of it has to write."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

from studio import compute, exporting
from studio.errors import InputError
from studio.events import Finished, Progress, Waiting
from studio.exporting import KINDS, Exported, ExportPlan, Parity, ServePlan
from studio.jobs.model import SESSION
from studio.models import Precision
from studio.settings import Settings
from studio.tokenizer import Message, load_tokenizer


def export(folder: Path, kind: str) -> Generator[Progress | Waiting | Finished[Exported], None, None]:
    """Write it to `gguf/<name>-<kind>.gguf`, read it back and compare it. The last event is `Finished(Exported)`.

    Raises InputError for visitors of a shared machine and where the file is there already, Unsupported for a model that
    llama.cpp's own programs have to convert.
    """
    target = _gguf(folder, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    yield from compute.run(_export, ExportPlan(folder, target, kind), seconds=300)


def _export(plan: ExportPlan) -> Iterator[Progress | Waiting | Finished[Exported]]:
    with SESSION.alone(purpose="writing a GGUF file") as turn:
        yield from turn
        yield from exporting.export(plan)


def prove_deployment(
    folder: Path, prompt: str, tokens: int, precision: Precision
) -> Generator[Progress | Waiting | Finished[Parity], None, None]:
    """What the model of a folder writes to a prompt, and programs that hold a deployment to it.

    The prompt is said in its chat template where it has one, and continued where it has none. The last event is
    `Finished(Parity)`. Raises InputError for visitors of a shared machine and for an empty prompt.
    """
    written = next((file.name for kind in KINDS if (file := _gguf(folder, kind)).is_file()), "model.gguf")
    if not prompt.strip():
        raise InputError("There is nothing for the model to answer.", "Write a prompt.")
    yield from compute.run(_prove, ServePlan(folder, (), prompt, tokens, precision, gguf=written), seconds=300)


def _prove(plan: ServePlan) -> Iterator[Progress | Waiting | Finished[Parity]]:
    with SESSION.alone(purpose="writing what a deployment has to write") as turn:
        yield from turn
        if load_tokenizer(plan.folder).chat_template:
            plan = replace(plan, messages=(Message("user", plan.prompt),), prompt="")
        yield from exporting.parity(plan)


def _gguf(folder: Path, kind: str) -> Path:
    settings = Settings.from_env()
    if settings.shared:
        raise InputError("Visitors cannot export models on this machine.", "Duplicate the Space, or run the studio.")
    return settings.workspace / "gguf" / f"{folder.name}-{kind}.gguf"
