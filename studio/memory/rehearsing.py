"""The process that carries out one step on fake tensors: `python -m studio.memory.rehearsing`, started by `dry_run`.

It reads one order as a line of JSON from stdin, reports with lines of JSON on stdout, and ends when stdin does. It is a
process of its own because what it changes in PyTorch and transformers is changed for all of a process.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from studio.child import say, serve
from studio.errors import DoesNotFit, Unsupported
from studio.memory import cuda_like, fake_model, fake_step
from studio.memory.depth import depths_of, fullest
from studio.memory.step import Step
from studio.memory.tracker import Tracker, watching
from studio.models import Precision

_WATCH_SECONDS = 0.1


def main() -> None:
    """Carry out the order on stdin."""
    serve(_carry_out)


def _carry_out(order: dict[str, Any]) -> None:
    threading.Thread(target=_watch_memory, args=(order["limit"],), daemon=True).start()
    prepare_process()
    step = Step(**order["step"] | {"precision": Precision(order["step"]["precision"])})
    say({"result": carry_out(step, lambda done, total: say({"done": done, "total": total}))})


def prepare_process() -> None:
    """Make this process one for fake tensors: quiet, one thread, and as if it had a GPU."""
    import torch
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    cuda_like.pretend()


def carry_out(step: Step, told: Callable[[int, int], None]) -> dict[str, Any]:
    """What a step takes, as plain values; `told` hears how many of its phases are done. `pretend` comes first."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    try:
        return _carried_out(step, told)
    except (fake_model.NeedsValues, DataDependentOutputException, DynamicOutputShapeException) as error:
        if not step.train or step.adapter is None:
            raise Unsupported(
                f"This {step.config['model_type']} computes shapes from values, and a dry run has none: {error}.",
                "The closed form and the bytes of the weights stand.",
            ) from error
    adapter, note = fake_model.plain_lora(step.adapter)
    if adapter == step.adapter:
        raise Unsupported("This model cannot be trained without values.", "Trust the closed form for this model.")
    found = carry_out(replace(step, adapter=adapter), told)
    return found | {"notes": [note, *found["notes"]]}


def _carried_out(step: Step, told: Callable[[int, int], None]) -> dict[str, Any]:
    whole = fake_model.build(step)
    parameters = sum(parameter.numel() for parameter in whole.parameters())
    depths = depths_of(whole)
    del whole
    if step.depth == "full":
        depths = replace(depths, carried_out=(depths.layers,), first=depths.layers, last=depths.layers)
    done, total = 0, len(depths.carried_out) * fake_step.phases(step)
    trackers: list[Tracker] = []
    trainable: list[int] = []
    notes: list[str] = []

    def began(_phase: str) -> None:
        nonlocal done
        told(done, total)
        done += 1

    for depth in depths.carried_out:
        model, notes = fake_model.prepared(step, depth if depth < depths.layers else None)
        trainable.append(sum(p.numel() for p in model.parameters() if p.requires_grad) if step.train else 0)
        trackers.append(Tracker(depth, depths.first, depths.last))
        rehearse(model, trackers[-1], step, began)
    if any(tracker.assumed for tracker in trackers):
        notes = [*notes, "Where this model decides by values that it computed, the usual case was taken."]
    return asdict(fullest(depths, trackers, trainable)) | {
        "parameters": parameters,
        "layers": depths.layers,
        "carried_out": depths.carried_out,
        "notes": notes,
    }


def rehearse(model: Any, tracker: Tracker, step: Step, began: Callable[[str], None]) -> None:
    """Carry out a step on a model of the meta device, in fake tensors; `began` hears of each phase."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), watching(tracker, cuda_like.internals, cuda_like.perform):
        fake_model.materialize(model)
        (fake_step.train if step.train else fake_step.generate)(model, tracker, step, began)


def _watch_memory(limit: int) -> None:
    """End the process where it takes more than it may: fake tensors have no content, so something is real."""
    import psutil

    process, most = psutil.Process(), 0
    while True:
        if (now := process.memory_info().rss) > most:
            most = now
            say({"memory": most})
        if most > limit:
            error = DoesNotFit(
                f"The dry run itself took more than {limit / 1e9:g} GB.", "Trust the closed form for this model."
            )
            say({"error": "DoesNotFit", "message": error.message, "hint": error.hint})
            os._exit(0)
        time.sleep(_WATCH_SECONDS)


if __name__ == "__main__":
    main()
