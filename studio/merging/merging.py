"""An adapter merged into its base: streamed past the memory where that can be done, by PEFT in memory where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import TypeVar

from studio import adapters, compute
from studio.adapters import Adapter, BaseWeights, Fit, Layout, Updates
from studio.adapters.stored import places
from studio.checkpoint import read_json, weight_files
from studio.disk import explained
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat
from studio.merging import in_memory
from studio.merging.companions import companions, copy, write_config
from studio.merging.composing import Composition, compose
from studio.merging.part import check_disk, check_output, made_beside, put
from studio.merging.plan import DEQUANTIZED, ORIGINAL, QUANTIZED, Merged, MergePlan
from studio.merging.refusing import check_adapter, check_fit, check_in_memory, reason_for_memory
from studio.merging.requantizing import as_trained, packings_of, quantization_of
from studio.merging.shards import shards, write, write_json
from studio.merging.streaming import Merge

REPORT = "merge.json"
_BEAT_SECONDS = 0.1
Result = TypeVar("Result")
Say = Callable[[Progress], None]


def merge(plan: MergePlan) -> Generator[Progress | Finished[Merged], None, None]:
    """Write base and adapter as one model into the output folder, which comes to be at the end and all at once.

    Closing the generator stops it; nothing is left then, nor where it fails. Every update is computed in fp32 and
    rounded once. Raises InputError where the two do not belong together, Damaged for a number that is none, Unsupported
    for what cannot be merged, DoesNotFit where the disk or the memory is too small, Busy where another merge writes it.
    """
    clock = _Clock()
    check_output(plan.output)
    yield from compute.imports()
    yield Progress(Phase.CHECK)
    work = yield from clock.watch(lambda say, stop: _understand(plan, _Reins(say, stop)))
    with made_beside(plan.output) as part:
        beside = companions(plan.base, plan.adapter)
        check_disk(part, work.bytes + sum(file.stat().st_size for file in beside.values()))
        changed = yield from clock.watch(lambda say, stop: _write(work, part, beside, _Reins(say, stop)))
        merged = _told(work, part, changed, clock)
        with explained(plan.output):
            write_json(part / REPORT, asdict(merged))
        put(part, plan.output)
    yield Finished(merged)


def read_merged(folder: Path) -> Merged:
    """What the merge that made `folder` did. Raises Unsupported where none did."""
    told = read_json(folder / REPORT)
    lists = {name: tuple(told[name]) for name in ("changed", "expected")}
    return Merged(**{**told, **lists})


@dataclass(slots=True)
class _Clock:
    """Seconds since the beginning, and the most memory that was seen."""

    started: float = field(default_factory=time.monotonic)
    peak: int = 0

    def watch(self, work: Callable[[Say, Event], Result]) -> Generator[Progress, None, Result]:
        """Do work on a thread, pass on the last that it says, and look at the memory at every beat."""

        def tell(said: list[Progress]) -> list[Progress]:
            self.look()
            return said[-1:]

        return (yield from heartbeat(work, tell, every=_BEAT_SECONDS))

    def look(self) -> None:
        """At the memory."""
        self.peak = max(self.peak, compute.process_memory())


class _Stopped(Exception):
    """Raised on the thread that merges, to end it."""


@dataclass(frozen=True, slots=True)
class _Reins:
    """What the thread that merges says, and how it is stopped."""

    say: Say
    stop: Event

    def check(self) -> None:
        """Raise where the merge is to stop."""
        if self.stop.is_set():
            raise _Stopped

    def count(self, phase: Phase, done: int, total: int) -> None:
        """Say how far it has come, and raise where it is to stop."""
        self.check()
        self.say(Progress(phase, done, total))


@dataclass(frozen=True, slots=True)
class _Work:
    """A merge that was looked at from all sides and can be carried out."""

    plan: MergePlan
    adapter: Adapter
    weights: BaseWeights
    layout: Layout
    fit: Fit
    updates: Updates
    why: str
    """Why it goes by way of the memory; empty where it is streamed."""
    composition: Composition | None
    """None where it goes by way of the memory."""
    bytes: int


def _understand(plan: MergePlan, reins: _Reins) -> _Work:
    """All that can be found out before a byte is written."""
    adapter = adapters.read(plan.adapter)
    check_adapter(adapter)
    weights = adapters.open_base(plan.base)
    reins.check()
    layout = adapters.lay_out(plan.base, weights, in_memory.dtype_for(plan, weights))
    weights = as_trained(plan, weights, layout)
    reins.check()
    fit = adapters.fit_to(adapter, weights, layout)
    check_fit(fit)
    done = 0
    for count in adapters.check_finite(adapter):
        done += count
        reins.count(Phase.CHECK, done, adapter.bytes)
    updates = Updates(adapter)
    if why := reason_for_memory(adapter, fit, layout):
        check_in_memory(plan, adapter, weights)
        return _Work(plan, adapter, weights, layout, fit, updates, why, None, in_memory.bytes_of(layout))
    composition = compose(adapter, fit, layout, weights, updates, plan.dtype)
    packings = packings_of(plan, weights, layout)
    packed = (replace(output, packing=packings.get(output.name)) for output in composition.outputs)
    composition = replace(composition, outputs=tuple(packed))
    size = sum(output.bytes for output in composition.outputs)
    return _Work(plan, adapter, weights, layout, fit, updates, "", composition, size)


def _write(work: _Work, part: Path, beside: Mapping[str, Path], reins: _Reins) -> set[str]:
    """Fill the folder; return the names of the tensors that changed."""
    plan = work.plan
    with explained(plan.output):
        if work.composition is None:
            rows = work.fit.vocabulary
            changed = in_memory.merge_in_memory(plan, work.adapter, work.weights, rows, part, reins.check)
        else:
            changed = _stream(work, work.composition, part, reins)
        reins.check()
        copy(beside, part)
    return changed


def _stream(work: _Work, composition: Composition, part: Path, reins: _Reins) -> set[str]:
    merging = Merge(work.weights, work.updates)
    done = 0
    for count in write(part, shards(composition.outputs, work.plan.shard_size * 1e9), merging.contents):
        done += count
        reins.count(Phase.MERGE, done, work.bytes)
    config = read_json(work.plan.base / "config.json")
    if work.plan.onto == QUANTIZED:
        config["quantization_config"] = quantization_of(work.plan, config)
    else:
        config.pop("quantization_config", None)
    vocabulary = composition.vocabulary if composition.enlarged else None
    write_config(part, config, work.plan.dtype, vocabulary=vocabulary, untied=composition.untied)
    return merging.changed


def _told(work: _Work, part: Path, changed: set[str], clock: _Clock) -> Merged:
    composition = work.composition
    expected = (
        [output.name for output in composition.outputs if not output.part.empty] if composition else sorted(changed)
    )
    files = weight_files(part)
    held = places(files)
    clock.look()
    return Merged(
        way="streamed" if composition else "in memory",
        why=work.why,
        onto=DEQUANTIZED if work.weights.method and work.plan.onto == ORIGINAL else work.plan.onto,
        dtype=work.plan.dtype,
        base=work.adapter.base,
        revision=work.adapter.revision,
        base_fingerprint=adapters.fingerprint(work.plan.base),
        adapter_fingerprint=adapters.fingerprint(work.plan.adapter),
        tensors=len(held),
        changed=tuple(sorted(changed)),
        expected=tuple(sorted(expected)),
        untied=composition.untied if composition else in_memory.untied(work.layout, part),
        vocabulary=work.fit.vocabulary,
        files=len(files),
        bytes=sum(place.bytes for place in held.values()),
        seconds=time.monotonic() - clock.started,
        peak=clock.peak,
    )
