"""What happens between two optimizer steps: it is told, measured, tried out and saved, and perhaps it ends."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from math import ceil, isfinite
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio import compute
from studio.errors import DoesNotFit, StudioError
from studio.training import checkpoints
from studio.training.batches import Batches, Collator, Sequence
from studio.training.interrupting import Signal
from studio.training.loss import computing_in, count, summed
from studio.training.origin import ORIGIN
from studio.training.plan import TrainingSettings
from studio.training.processes import Together
from studio.training.readying import Ready
from studio.training.sampling import answer, at_rest
from studio.training.telling import Evaluated, Sampled, Saved, Stepped, Warned
from studio.training.trainer import Step, random_state, save_state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROGRESS = "course.json"
LOOKS = 10
"""How often a run looks at the held-out rows, where nobody says."""
_MINUTE = 60.0
_PATIENCE = 0.05


def between_looks(settings: TrainingSettings, total: int) -> int:
    """Steps between two looks at the held-out rows, of so many in all."""
    return settings.evaluate_every or max(1, ceil(total / LOOKS))


@dataclass(slots=True)
class Standing:
    """How far a run has come, beyond what the Trainer keeps. Part of every checkpoint."""

    step: int = 0
    loss: float = 0.0
    held_out: float | None = None
    """Of the last look."""
    best: float | None = None
    best_step: int = 0
    looks_in_vain: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Measured:
    """Rows to measure with; none where nothing was held out."""

    batches: Batches | None
    collator: Collator | None
    questions: list[tuple[str, list[int]]]


@dataclass(slots=True)
class Course:
    """One run, as it follows its Trainer step by step."""

    folder: Path
    settings: TrainingSettings
    ready: Ready
    tokenizer: PreTrainedTokenizerBase
    measured: Measured
    origin: dict[str, Any]
    total: int
    say: Callable[[Any], None]
    signal: Signal
    together: Together = field(default_factory=Together)
    trainer: Any = None
    standing: Standing = field(default_factory=Standing)
    last_saved: str | None = None
    stopped: bool = False
    _since: float = field(default_factory=time.monotonic)
    _saved_at: float = field(default_factory=time.monotonic)

    def go_on_from(self, checkpoint: Path) -> None:
        """Take up where a checkpoint left off."""
        self.standing = Standing(**json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8")))
        self.last_saved = checkpoint.name

    def begin(self) -> None:
        """Look at the model before it has learnt anything."""
        if self.standing.step == 0:
            self._look()
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise Interrupted where all is to end at once."""
        self.signal.check()

    def stepped(self, step: Step) -> bool:
        """Tell of a step, and do what is due after it; whether the training is to end."""
        now = time.monotonic()
        seconds, standing = now - self._since, self.standing
        standing.step, standing.loss = step.number, step.loss
        standing.tokens += step.tokens
        standing.seconds += seconds
        self.say(
            Stepped(
                step=step.number,
                total=self.total,
                epoch=step.epoch,
                loss=step.loss,
                learning_rate=step.rate,
                gradient=float(step.gradient),
                tokens=step.tokens,
                seconds=seconds,
                memory=compute.peak_memory(),
            )
        )
        if step.loss == 0.0 and step.number == 1:
            raise StudioError(
                "The loss of the first step is exactly zero: the model has nothing to learn from these rows.",
                "Look at the preview of the rows: what is trained must not be what the prompt already holds.",
            )
        if step.number % between_looks(self.settings, self.total) == 0 or step.number == self.total:
            self._look()
        self.signal.look()
        out_of_patience = 0 < self.settings.patience <= standing.looks_in_vain
        ends = step.number == self.total or out_of_patience
        self.stopped = self.signal.after_this_step and not ends
        saves = self.stopped or (self._save_is_due(step.number) and not ends)
        self.together.share((saves, self.stopped or ends))
        if saves:
            self._save()
        self._since = time.monotonic()
        return self.stopped or ends

    def _save_is_due(self, step: int) -> bool:
        if self.settings.save_every:
            return step % self.settings.save_every == 0
        return time.monotonic() - self._saved_at >= _MINUTE

    def _look(self) -> None:
        """Measure on the rows that are held out, and ask what is to be asked."""
        standing = self.standing
        if self.measured.batches and self.measured.collator:
            loss = held_out_loss(self.ready, self.measured.batches.in_order(), self.measured.collator)
            if not isfinite(loss):
                raise StudioError(
                    f"The loss of the held-out rows is {loss} at step {standing.step}: the training came apart.",
                    "Choose a smaller learning rate, and start anew.",
                )
            better = standing.step > 0 and (standing.best is None or loss < standing.best)
            standing.held_out = loss
            if better:
                standing.best, standing.best_step, standing.looks_in_vain = loss, standing.step, 0
                if self.settings.keep_best:
                    self._keep_best()
            elif standing.step > 0:
                standing.looks_in_vain += 1
            self.say(Evaluated(standing.step, loss, better))
        for prompt, ids in self.measured.questions:
            with computing_in(self.ready.model.device.type, self.ready.compute):
                reply = answer(self.ready.model, self.tokenizer, ids)
            self.say(Sampled(standing.step, prompt, reply))

    def _keep_best(self) -> None:
        """Write the weights aside. Those of a checkpoint's best stay as long as the checkpoint does."""
        place = self.folder / checkpoints.BEST
        try:
            checkpoints.write(place, self.standing.step, self._fill_best, check=self.check)
        except DoesNotFit as error:
            self.say(Warned("best-not-kept", "warning", f"The best weights so far: {error.message}", error.hint))
            return
        held = [_best_of(folder) for folder in checkpoints.all_of(self.folder / checkpoints.FOLDER)]
        for folder in checkpoints.all_of(place):
            if checkpoints.step_of(folder) not in (self.standing.best_step, *held):
                checkpoints.remove(folder)

    def _fill_best(self, folder: Path) -> None:
        checkpoints.save_weights(self.ready.model, folder / checkpoints.WEIGHTS)

    def _save(self) -> None:
        """Write a checkpoint, once all that it is the sum of was heard: what is told is kept by whoever listens."""
        randoms = self.together.gathered(random_state(self.trainer))
        heard = Event()
        self.say(heard)
        while not heard.wait(_PATIENCE):
            self.check()
        place = self.folder / checkpoints.FOLDER
        try:
            saved = checkpoints.write(
                place, self.standing.step, lambda part: self._fill(part, randoms), check=self.check
            )
        except DoesNotFit as error:
            kept = f"The one of {self.last_saved} stays." if self.last_saved else "There is no earlier one."
            self.say(Warned("checkpoint-not-written", "warning", f"{error.message} {kept}", error.hint))
        else:
            self.last_saved = saved.name
            checkpoints.rotate(saved, keep=self.settings.checkpoints)
            size = sum(file.stat().st_size for file in saved.iterdir())
            self.say(Saved(self.standing.step, saved.name, size))
        self._saved_at = time.monotonic()

    def _fill(self, folder: Path, randoms: list[tuple[str, bytes]]) -> None:
        save_state(self.trainer, folder, randoms)
        (folder / PROGRESS).write_text(json.dumps(asdict(self.standing)), encoding="utf-8")
        (folder / ORIGIN).write_text(json.dumps(self.origin), encoding="utf-8")

    def bring_back_best(self) -> float | None:
        """Put the best weights back where they are kept; the held-out loss of what is in the model then."""
        standing = self.standing
        best = self.folder / checkpoints.BEST / f"step-{standing.best_step}"
        if not self.settings.keep_best or standing.best is None or standing.best_step == standing.step:
            return standing.held_out
        if not checkpoints.is_whole(best):
            self.say(
                Warned(
                    "best-is-lost",
                    "warning",
                    f"The best weights, of step {standing.best_step}, cannot be read any more.",
                    "The run ends with its last weights instead.",
                )
            )
            return standing.held_out
        checkpoints.load_weights(self.ready.model, best / checkpoints.WEIGHTS)
        return standing.best

    def forget_best(self) -> None:
        """Remove the copies of the best weights, once they are in the result."""
        shutil.rmtree(self.folder / checkpoints.BEST, ignore_errors=True)


@dataclass(slots=True)
class Partner:
    """What a Course is in the other processes of a run: they do as the first one says."""

    ready: Ready
    total: int
    signal: Signal
    together: Together
    trainer: Any = None
    standing: Standing = field(default_factory=Standing)
    last_saved: str | None = None

    def go_on_from(self, checkpoint: Path) -> None:
        """Take up where a checkpoint left off."""
        self.standing.step, self.last_saved = checkpoints.step_of(checkpoint), checkpoint.name

    def begin(self) -> None:
        """The first process looks at the model alone."""

    def check(self) -> None:
        """Raise Interrupted where all is to end at once."""
        self.signal.check()

    def stepped(self, step: Step) -> bool:
        """Wait for what the first process decides after a step; whether the training is to end."""
        self.standing.step = step.number
        saves, ends = self.together.share()
        if saves:
            self.together.gathered(random_state(self.trainer))
        return bool(ends)


def _best_of(checkpoint: Path) -> int:
    """The step whose weights were the best when a checkpoint was written; 0 where it does not say."""
    try:
        return int(json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))["best_step"])
    except (OSError, ValueError, KeyError):
        return 0


def held_out_loss(ready: Ready, batches: Iterable[list[Sequence]], collator: Collator) -> float:
    """The mean over all trained tokens, as the model stands."""
    import torch

    total, tokens = 0.0, 0
    device = ready.model.device
    with at_rest(ready.model), torch.no_grad(), computing_in(device.type, ready.compute):
        for sequences in batches:
            batch = collator(sequences)
            batch.pop("tokens")
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            if scored := count(batch):
                total += float(summed(ready.model, ready.head, batch))
                tokens += scored
    return total / max(1, tokens)
