"""The peak of any model of transformers, read off its real training step, carried out on tensors without content.

The step runs in a process of its own, `python -m studio.memory.rehearsing`, that can be stopped at once, takes a few
hundred megabytes whatever the model, and needs no weights, no GPU and no network.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from queue import Empty
from typing import Any

from studio import child, errors
from studio.errors import DoesNotFit, Unsupported
from studio.events import Finished, Phase, Progress
from studio.memory.request import PARTS, Estimate, Moment, Note, Part, Question
from studio.memory.step import Step, step_of

TIMEOUT_SECONDS = 180.0
MEMORY_LIMIT = 4_000_000_000
"""Bytes that the process may take; an 8B model takes about half a gigabyte."""
_BEAT_SECONDS = 0.2
_INSTEAD = "The closed form and the bytes of the weights stand."
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What carrying out a step showed."""

    parts: tuple[Part, ...]
    """At the peak; their sum is the peak."""
    moments: tuple[Moment, ...]
    """The fullest of each phase, the fullest first."""
    operation: str
    """Which operation the peak is at: "loss, log_softmax_backward_data"."""
    reserved: int
    """What the caching allocator holds then, from an empty start; nvidia-smi shows this and the CUDA context."""
    resident: int
    """What stays once the work is done: weights, adapter, cache and workspace."""
    parameters: int
    trainable: int
    layers: int
    carried_out: tuple[int, ...]
    """How many layers were carried out: all of them, or two numbers from which the rest follows exactly."""
    notes: tuple[str, ...]
    seconds: float
    memory: int
    """Bytes that the process took."""

    @property
    def peak(self) -> int:
        """Bytes at the fullest moment."""
        return sum(part.bytes for part in self.parts)


def dry_run(question: Question, config: dict[str, Any]) -> Iterator[Progress | Finished[Estimate]]:
    """The answer to a question about the model of a config.json.

    Raises Unsupported where a dry run has none, and InputError where the question makes no sense for this model.
    """
    for event in rehearse(step_of(question, config)):
        if isinstance(event, Finished):
            yield Finished(_estimate(question, event.result))
        else:
            yield event


def rehearse(step: Step, *, timeout: float = TIMEOUT_SECONDS) -> Iterator[Progress | Finished[Rehearsed]]:
    """Carry out a step and say what it took. Closing it ends the process at once."""
    begun, done, memory = time.monotonic(), 0, 0
    total: int | None = None
    complaints: list[str] = []
    order = {"step": asdict(step), "limit": MEMORY_LIMIT}
    with child.working("studio.memory.rehearsing", order, env=_child_env(), complained=complaints.append) as messages:
        while True:
            yield Progress(Phase.REHEARSE, done, total)
            try:
                message = messages.get(timeout=_BEAT_SECONDS)
            except Empty:
                if time.monotonic() - begun > timeout:
                    raise Unsupported(f"The dry run was not done after {timeout:g} seconds.", _INSTEAD) from None
                continue
            match message:
                case {"done": int(done), "total": int(phases)}:
                    total = phases
                case {"memory": int(memory)}:
                    pass
                case {"result": dict(found)}:
                    yield Finished(_rehearsed(found, time.monotonic() - begun, memory))
                    return
                case {"error": kind, "message": str(said), "hint": str(hint)}:
                    raise getattr(errors, kind)(said, hint)
                case {"exit": code}:
                    raise _broke_off(step, code, complaints)


def _rehearsed(found: dict[str, Any], seconds: float, memory: int) -> Rehearsed:
    return Rehearsed(
        parts=tuple(Part(name, found["parts"][name]) for name in PARTS if found["parts"].get(name)),
        moments=tuple(Moment(*pair) for pair in sorted(found["moments"].items(), key=lambda pair: -pair[1])),
        operation=found["operation"],
        reserved=found["reserved"],
        resident=found["resident"],
        parameters=found["parameters"],
        trainable=found["trainable"],
        layers=found["layers"],
        carried_out=tuple(found["carried_out"]),
        notes=tuple(found["notes"]),
        seconds=seconds,
        memory=memory,
    )


def _estimate(question: Question, found: Rehearsed) -> Estimate:
    if len(found.carried_out) == 1:
        how = f"All {found.layers} layers were carried out."
    else:
        few, more = found.carried_out
        how = f"The layers repeat: {few} and {more} of {found.layers} were carried out, the rest follows from them."
    notes = [Note("dry-run-depth", "note", how)]
    notes += [Note("dry-run-start", "warning", said) for said in found.notes]
    if question.optimizer.startswith("paged"):
        notes.append(
            Note("paged-optimizer", "note", "A paged optimizer may move its states to main memory; all are counted.")
        )
    return Estimate(question, "dry run", found.parts, found.moments, found.parameters, found.trainable, tuple(notes))


def _broke_off(step: Step, code: int, complaints: list[str]) -> errors.StudioError:
    if code == -9:
        return DoesNotFit(
            "The dry run was killed, most likely because the memory ran out.", f"Close other programs. {_INSTEAD}"
        )
    said = "".join(complaints).strip().splitlines()
    _LOG.debug("The dry run said: %s", "\n".join(said))
    last = said[-1][:300] if said else f"its process ended with {code}"
    return Unsupported(f"The dry run of this {step.config.get('model_type', 'model')} broke off: {last}", _INSTEAD)


def _child_env() -> dict[str, str]:
    """The environment without anything secret, without the network and without a GPU."""
    env = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    return env | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
