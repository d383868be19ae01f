"""A rehearsal: two real steps on the longest batch, before a run that may take hours, and then all is as it was."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio import compute
from studio.dataset import Prepared
from studio.errors import Damaged
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat
from studio.training import checkpoints, trainer
from studio.training.batches import Batches, Sequence
from studio.training.course import between_looks, held_out_loss
from studio.training.interrupting import Signal, interruptible
from studio.training.plan import TrainingRun, TrainingSettings
from studio.training.readying import Ready, ready
from studio.training.trainer import Step
from studio.training.training import memory_explained, rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOOK = 0.005
"""Seconds between two looks at the memory of the process."""
_STEPS = 2


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What two steps on the longest batch took, and what the whole run is expected to take."""

    seconds: float
    """Of a step as long as the longest, all its batches added up."""
    expected: float
    """Seconds of the whole run, the looks at the held-out rows among them."""
    steps: int
    """Of the whole run."""
    tokens: int
    """Of the longest batch, padding included."""
    loss: float
    gradient: float
    """Both of the first step."""
    before: int
    """Bytes that were held before: by the process on a CPU, of the GPU on one."""
    peak: int
    """The most bytes that were held."""
    checkpoint: int
    """Bytes of a checkpoint."""
    trainable: int
    compute: str


def rehearse(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Prepared, run: TrainingRun, folder: Path
) -> Generator[Progress | Finished[Rehearsal], None, None]:
    """Do two optimizer steps on the longest batch, write a checkpoint beside `folder`, and undo it all.

    The last event is `Finished(Rehearsal)`. Raises what `train` would raise in its first steps.
    """
    done = 0

    def work(say: Callable[[int], None], closed: Event) -> Rehearsal:
        settings = replace(run.settings, start="default", adapter="")
        with memory_explained(run.settings), _undone(model, folder, whole=settings.method == "full") as aside:
            made = ready(model, tokenizer, settings)
            try:
                return _Rehearsal(made, settings, aside, say, Signal(lambda: None, closed)).carry_out(data, tokenizer)
            finally:
                _take_off(made.model, model)

    def tell(said: list[int]) -> list[Progress]:
        nonlocal done
        done = said[-1] if said else done
        return [Progress(Phase.REHEARSE, done, _STEPS)]

    yield Progress(Phase.REHEARSE, 0, _STEPS)
    yield Finished((yield from heartbeat(work, tell, every=0.1)))


@dataclass(slots=True)
class _Longest:
    """The longest batch and nothing else, as a Trainer wants it."""

    lengths: Any
    batch: list[Sequence]

    def __len__(self) -> int:
        return _STEPS

    def __iter__(self) -> Iterator[list[Sequence]]:
        return iter([self.batch] * _STEPS)

    def set_epoch(self, epoch: int) -> None:
        """It is the same in every epoch."""


class _Rehearsal:
    """Follows a Trainer for two steps."""

    def __init__(
        self, made: Ready, settings: TrainingSettings, aside: Path, say: Callable[[int], None], signal: Signal
    ) -> None:
        self.made, self.settings, self.aside, self.say, self.signal = made, settings, aside, say, signal
        self.steps: list[Step] = []
        self.times: list[float] = []

    def check(self) -> None:
        """Raise Interrupted where the rehearsal is given up."""
        self.signal.check()

    def stepped(self, step: Step) -> bool:
        """Hear of a step."""
        self.steps.append(step)
        self.times.append(time.monotonic())
        self.say(step.number)
        return step.number == _STEPS

    def carry_out(self, data: Prepared, tokenizer: PreTrainedTokenizerBase) -> Rehearsal:
        made, settings = self.made, self.settings
        batches, collator = rows_of(data.learn, made, tokenizer, settings)
        longest = max(batches.of(0), key=batches.padded)
        told = trainer.arguments(replace(settings, accumulation=1), self.aside, _STEPS, fp16=made.compute == "fp16")
        only: Any = _Longest(batches.lengths, longest)
        learner = trainer.build(made, only, collator, settings, told, self)
        try:
            with interruptible(made.model, self.signal.check), _peak() as peak:
                learner.train()
                written = self._written(learner)
                looked = time.monotonic()
                held_out_loss(made, [longest], collator)
                looked = time.monotonic() - looked
        finally:
            trainer.take_down(learner)
        each = self.times[1] - self.times[0]
        total, padded = trainer.steps_in(batches, settings), batches.padded(longest)
        return Rehearsal(
            seconds=each * settings.accumulation,
            expected=_expected(batches, settings, each / padded)
            + _looks(data, made, tokenizer, settings, total) * looked / padded,
            steps=total,
            tokens=padded,
            loss=self.steps[0].loss,
            gradient=float(self.steps[0].gradient),
            before=peak[0],
            peak=max(peak),
            checkpoint=written,
            trainable=made.trainable,
            compute=made.compute,
        )

    def _written(self, learner: Any) -> int:
        """Bytes of a checkpoint that was written and read back."""
        place = checkpoints.write(
            self.aside,
            _STEPS,
            lambda part: trainer.save_state(learner, part, [trainer.random_state(learner)]),
            check=self.check,
        )
        if not checkpoints.is_whole(place):
            raise Damaged("A checkpoint did not read back as it was written.", "Check the disk before training.")
        checkpoints.load_weights(self.made.model, place / checkpoints.WEIGHTS)
        return sum(file.stat().st_size for file in place.iterdir())


def _expected(batches: Batches, settings: TrainingSettings, second: float) -> float:
    """Seconds of all steps, with so many for a token of the longest batch."""
    tokens = sum(batches.padded(batch) for batch in batches.of(0))
    return second * tokens * trainer.steps_in(batches, settings) / ceil(len(batches) / settings.accumulation)


def _looks(
    data: Prepared, made: Ready, tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings, total: int
) -> int:
    """Tokens that are measured on in a whole run."""
    if not data.held_out or not data.held_out.count:
        return 0
    batches, _ = rows_of(data.held_out, made, tokenizer, settings)
    looks = 1 + ceil(total / between_looks(settings, total))
    return sum(batches.padded(batch) for batch in batches.in_order()) * looks


def _take_off(adapted: Any, model: Any) -> None:
    """Give a model back without its adapter."""
    if adapted is not model:
        adapted.unload()


@contextmanager
def _undone(model: Any, folder: Path, *, whole: bool) -> Iterator[Path]:
    """A folder on the same disk for what is written; behind it the model and the random numbers are as before."""
    import numpy
    import torch

    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training, cached = {name: module.training for name, module in model.named_modules()}, model.config.use_cache
    states = random.getstate(), numpy.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=place))
        stack.enter_context(torch.random.fork_rng(devices))
        weights = Path(name) / checkpoints.WEIGHTS
        if whole:  # on the disk, as there may be no room for it twice in memory
            model.requires_grad_(requires_grad=True)
            checkpoints.save_weights(model, weights)
        try:
            yield Path(name)
        finally:
            random.setstate(states[0])
            numpy.random.set_state(states[1])
            if whole:
                checkpoints.load_weights(model, weights)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(trained[name])
                parameter.grad = None
            for name, module in model.named_modules():
                module.training = training[name]
            model.config.use_cache = cached


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Bytes that are held at the beginning, and behind the block the most that were held in it as well."""
    import torch

    if compute.machine().device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        seen = [int(torch.cuda.memory_allocated())]
        yield seen
        seen.append(compute.peak_memory())
        return
    import psutil

    process, ended = psutil.Process(), Event()
    seen, most = [int(process.memory_info().rss)], compute.peak_memory()

    def look() -> None:
        while not ended.wait(_LOOK):
            seen.append(int(process.memory_info().rss))

    watcher = threading.Thread(target=look, name="studio-memory", daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()
    # A peak between two looks is known to the kernel, if it is the highest since the process began.
    if compute.peak_memory() > most:
        seen.append(compute.peak_memory())
