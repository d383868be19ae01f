"""An adapter by name, held against its base before anything is merged: what it is, whether it fits, what it takes."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from studio import adapters, advice, compute, hub, merging, runs
from studio.adapters import Adapter, BaseWeights, Fit
from studio.adapters.stored import is_float
from studio.advice import Advice
from studio.errors import InputError, StudioError
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat
from studio.jobs.fetching import folder_here
from studio.jobs.merging import adapter_folder
from studio.loading import LoadPlan
from studio.merges.adapters import named
from studio.merging import AS_BASE
from studio.merging.outlook import outlook
from studio.merging.refusing import check_adapter, check_fit
from studio.models import ModelRef
from studio.settings import Settings

_WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, slots=True)
class Matched:
    """An adapter beside its base."""

    adapter: Adapter
    ref: ModelRef
    run: str
    """The run that made it; empty where none of this workspace did."""
    trained: LoadPlan | None
    """How the base was held while the run taught it; None where there is no run."""
    base: ModelRef | None
    """None where neither the adapter nor anybody says."""
    fit: Fit | None
    """None where the base is not on this machine, or cannot be opened."""
    why: str
    """Why there is no fit, or why the two do not belong together; empty where they do."""
    hint: str
    weights: int
    """Numbers of the base, counted where it is here."""
    beside: int
    """Bytes of its tensors that are no floating-point numbers."""
    stored: int
    """Bytes that its floating-point numbers take as they are."""
    disk: int
    """Bytes that are free where merged models go."""
    memory: int
    """Bytes that are free for the proof."""
    advice: tuple[Advice, ...]
    """What to know before it begins; nothing where it does not fit."""

    @property
    def fits(self) -> bool:
        """Whether it was held against its base and fits."""
        return self.fit is not None and not self.why

    def bytes(self, dtype: str) -> int:
        """What the merged weights take on the disk; 0 where the base is not here."""
        return self.beside + (self.stored if dtype == AS_BASE else _WIDTH[dtype] * self.weights)

    @property
    def proof_bytes(self) -> int:
        """What a proof that runs both models holds at once: one of them, in fp32."""
        return 4 * self.weights


def match(text: str, base: str = "", *, token: hub.Token) -> Generator[Progress | Finished[Matched], None, None]:
    """Look at an adapter, and hold it against a base by names and shapes. The last event is `Finished(Matched)`.

    Without a base it is the one that the run or the adapter names. Downloads the adapter, never the base. Raises what
    reading the adapter raises; that it does not fit is a part of the result.
    """
    ref, run = named(text)
    folder = yield from adapter_folder(ref, token=token)
    yield from compute.imports()
    trained = runs.of(run).document.run.plan if run else None

    def work() -> Matched:
        adapter = adapters.read(folder)
        told = ModelRef.parse(base) if base.strip() else trained.model if trained else _base_of(adapter)
        fit, why, hint, weights = _held_against(adapter, told)
        rules: tuple[Advice, ...] = ()
        if fit and not why and told:
            try:
                rules = _advice(folder, told, trained)
            except StudioError as error:  # what the merge itself would refuse before it writes
                why, hint = error.message, error.hint
        floats, beside, stored = _counted(weights)
        disk = _free(Settings.from_env().workspace)
        return Matched(
            *(adapter, ref, run, trained, told, fit, why, hint, floats, beside, stored, disk),
            memory=compute.free_memory(),
            advice=rules,
        )

    yield Finished((yield from heartbeat(lambda _say, _stop: work(), lambda _: [Progress(Phase.CHECK)], every=0.2)))


def _base_of(adapter: Adapter) -> ModelRef | None:
    """What an adapter says that it was trained on."""
    at = f"@{adapter.revision}" if adapter.revision and "@" not in adapter.base else ""
    try:
        return ModelRef.parse(f"{adapter.base}{at}")
    except InputError:
        return None


def _held_against(adapter: Adapter, base: ModelRef | None) -> tuple[Fit | None, str, str, BaseWeights | None]:
    """The fit, or why there is none and what to do, and the weights of the base."""
    if base is None:
        return None, "The adapter does not say which base it belongs to.", "Write the base model beside it.", None
    weights, found = None, None
    try:
        check_adapter(adapter)
        folder = folder_here(base) or hub.cached(base)
        if folder is None:
            hint = "Start downloads it first, and refuses before anything is written where the two do not fit."
            return None, f"{base} is not on this machine yet.", hint, None
        weights = adapters.open_base(folder)
        found = adapters.fit(adapter, folder)
        check_fit(found)
    except StudioError as error:
        return found, error.message, error.hint, weights
    return found, "", "", weights


def _advice(folder: Path, base: ModelRef, trained: LoadPlan | None) -> tuple[Advice, ...]:
    place = folder_here(base) or hub.cached(base)
    assert place
    learnt_on = trained.precision if trained and trained.precision and trained.precision.quantizes else None
    plan = merging.MergePlan(place, folder, folder / "merged")
    return tuple(advice.on_merge(outlook(plan, learnt_on)))


def _counted(weights: BaseWeights | None) -> tuple[int, int, int]:
    """Floating-point numbers, the bytes of all else, and the bytes of these numbers as they are."""
    tensors = weights.tensors.values() if weights else ()
    floats = sum(prod(tensor.shape) for tensor in tensors if is_float(tensor.dtype))
    beside = sum(tensor.place.bytes for tensor in tensors if not is_float(tensor.dtype))
    widths = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
    stored = sum(widths[tensor.dtype] * prod(tensor.shape) for tensor in tensors if is_float(tensor.dtype))
    return floats, beside, stored


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
