"""A merge by the names of its parts, and its proof: the folder has its name once it is proven, and not before."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from studio import compute, hub, keeping, loading, merging, runs
from studio.checkpoint import read_header, weight_files
from studio.disk import sync
from studio.errors import StudioError
from studio.evaluation.scoring import Passage
from studio.events import Finished, Progress, outcome
from studio.jobs.fetching import fetch, folder_here
from studio.jobs.previewing import prepare
from studio.keeping import check_vacant
from studio.loading import LoadPlan
from studio.merges.order import MergeOrder
from studio.merging import AS_BASE, Merged, MergePlan, ProofQuestion
from studio.merging.outcome import Outcome, not_proven, spare_base
from studio.merging.plan import ORIGINAL, QUANTIZED
from studio.models import ModelRef, Precision
from studio.runs.document import unwritable
from studio.settings import Settings

_ROWS = 64
"""Held-out rows that a proof reads at most, each with both models."""
_STORED = {"F32": Precision.FP32, "F16": Precision.FP16, "BF16": Precision.BF16}


@dataclass(frozen=True, slots=True)
class _Verdict:
    passed: bool | None
    failed: tuple[str, ...]
    covered: str


def merge(order: MergeOrder, *, token: hub.Token) -> Generator[Progress | Finished[Outcome], None, None]:
    """Fetch, merge and prove. The last event is `Finished(Outcome)`, also where the proof fails.

    The output folder comes to be at the end and all at once; until then, and for good where the proof fails, the merge
    lies beside it under a name that says that it is not proven. Closing the generator, and every error before the
    proof, leaves nothing.
    """
    check_vacant(order.output)
    place = not_proven(order.output)
    base = yield from fetch(LoadPlan(order.base), token=token)
    adapter = yield from adapter_folder(order.adapter, token=token)
    rows = (yield from _held_out(order, token)) if order.prove else ()
    with _nothing_left(place):
        yield from compute.imports()
        plan = _plan(order, base, adapter, place)
        merged = yield from outcome(merging.merge(plan))
        proof = None
        if order.prove:
            proof = yield from _proven(order, plan, rows)
        folder = place if proof and proof.passed is False else _named(place, order.output)
    yield Finished(_outcome(folder, merged, proof))


def adapter_folder(ref: ModelRef, *, token: hub.Token) -> Generator[Progress, None, Path]:
    """The folder of an adapter on this machine, downloaded first where it is on the Hub."""
    if folder := folder_here(ref):
        return folder
    return (yield from outcome(hub.download(ref, token=token, shared=Settings.from_env().shared)))


@contextmanager
def _nothing_left(place: Path) -> Iterator[None]:
    shutil.rmtree(place, ignore_errors=True)  # of one that was killed
    try:
        yield
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _held_out(order: MergeOrder, token: hub.Token) -> Generator[Progress, None, tuple[Passage, ...]]:
    """Rows that the run which made the adapter has not learnt from; none where they cannot be had any more."""
    if not order.run:
        return ()
    try:
        run = runs.of(order.run)
        data = yield from outcome(prepare(run.document.run, run.folder, token=token))
    except StudioError:
        return ()  # a proof without them says that it is one
    if data.held_out is None:
        return ()
    columns = data.held_out.open().select_columns(["input_ids", "trained"])
    found = (columns[at] for at in range(min(_ROWS, data.held_out.count)))
    passages = (Passage(tuple(row["input_ids"]), tuple(row["trained"])) for row in found)
    return tuple(passage for passage in passages if passage.scored)


def _plan(order: MergeOrder, base: Path, adapter: Path, place: Path) -> MergePlan:
    plan = MergePlan(base, adapter, place, order.dtype, order.shard_size)
    if order.onto == ORIGINAL:
        return plan
    return replace(plan, onto=order.onto, precision=order.precision, quantization=order.quantization)


def _proven(order: MergeOrder, plan: MergePlan, rows: tuple[Passage, ...]) -> Generator[Progress, None, _Verdict]:
    """Prove a merge and put the proof into its folder. One that cannot be proven has failed: the work is kept."""
    if order.onto == QUANTIZED:
        return _Verdict(
            None, (), "A merge back into quantized weights rounds the sum anew, and is measured, not proven."
        )
    spare = spare_base(plan.output)
    try:
        base = plan.base
        if plan.precision:
            base = yield from _as_it_was_learnt_on(plan, spare[0])
        promised = _promised(order, plan.output)
        question = ProofQuestion(base, plan.adapter, plan.output, promised, order.prompts, rows)
        proof = yield from outcome(merging.prove(question))
        merging.write_proof(proof, plan.output)
    except StudioError as error:
        return _Verdict(False, (), f"It could not be proven: {error.message} {error.hint}")
    finally:
        for folder in spare:
            shutil.rmtree(folder, ignore_errors=True)
    return _Verdict(proof.passed, tuple(check.name for check in proof.failed), proof.covered)


def _as_it_was_learnt_on(plan: MergePlan, folder: Path) -> Generator[Progress, None, Path]:
    """The base as it was quantized while the adapter learnt, in a folder: what the merge is held against."""
    shutil.rmtree(folder, ignore_errors=True)
    how = LoadPlan(ModelRef("folder", str(plan.base)), plan.precision, quantization=plan.quantization)
    loaded = yield from loading.load(how, plan.base)
    yield from keeping.keep(loaded, plan.base, folder)
    del loaded
    compute.release()
    return folder


def _promised(order: MergeOrder, folder: Path) -> Precision:
    """What the merged weights are held in; as the base is what most of them are held in."""
    if order.dtype != AS_BASE:
        return Precision(order.dtype)
    sizes = dict.fromkeys(_STORED, 0)
    for file in weight_files(folder):
        for name, entry in read_header(file).items():
            if name != "__metadata__" and entry["dtype"] in sizes:
                begin, end = entry["data_offsets"]
                sizes[entry["dtype"]] += end - begin
    return _STORED[max(sizes, key=lambda dtype: sizes[dtype])]


def _named(place: Path, output: Path) -> Path:
    """Give a merge its name."""
    try:
        if output.is_dir():
            output.rmdir()  # it was empty, or this raises
        place.rename(output)
        sync(output.parent)
    except OSError as error:
        raise unwritable(output.parent, error) from error
    return output


def _outcome(folder: Path, merged: Merged, proof: _Verdict | None) -> Outcome:
    return Outcome(
        folder=folder,
        passed=proof.passed if proof else None,
        failed=proof.failed if proof else (),
        covered=proof.covered if proof else "",
        way=merged.way,
        why=merged.why,
        tensors=merged.tensors,
        changed=len(merged.changed),
        files=merged.files,
        bytes=merged.bytes,
        seconds=merged.seconds,
        peak=merged.peak,
    )
