"""Fine-tuning a model that is in memory: from prepared rows to an adapter; it can be stopped, and goes on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio import compute
from studio.dataset import Prepared
from studio.dataset.preparation import Examples
from studio.errors import Damaged, DoesNotFit, InputError
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat
from studio.training import checkpoints, trainer
from studio.training.batches import Batches, Collator
from studio.training.course import Course, Measured, Partner
from studio.training.finishing import save_result
from studio.training.interrupting import Interrupted, Signal, interruptible
from studio.training.origin import check_same, origin_of
from studio.training.plan import Learnt, Stop, TrainingRun, TrainingSettings
from studio.training.processes import Together, together
from studio.training.readying import Ready, ready
from studio.training.sampling import questions
from studio.training.telling import Began, Evaluated, Sampled, Saved, Stepped, Stopped, Warned

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BEGINNING, _AT_ONCE = 64, 8
"""Rows that an adapter may begin with, and how many of them are read at once."""
BEAT = 0.1
"""Seconds between two looks at what is wished for."""
TrainingEvent = Began | Stepped | Evaluated | Sampled | Saved | Warned | Progress | Stopped | Finished[Learnt]


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Prepared,
    run: TrainingRun,
    folder: Path,
    *,
    wish: Callable[[], Stop | None],
) -> Generator[TrainingEvent, None, None]:
    """Fine-tune a model, which is the run's to keep, and write checkpoints and the result into `folder`.

    Goes on by itself from a checkpoint that is there, as if it had never stopped. `wish` is asked often, from two
    threads. The last event is `Finished(Learnt)`, or `Stopped` after a wish; closing the generator ends it at once.
    Raises InputError where there is nothing to learn or the checkpoint is of another run, StudioError where the
    training comes apart, DoesNotFit, and Damaged.
    """
    if not data.learn.count or not data.learn.trained:
        raise InputError(
            f"No token of these {data.rows:,} rows would be trained.",
            "Look at the preview of the rows: the mapping, or the choice of what is trained, leaves nothing.",
        )
    signals: list[Signal] = []
    latest = Progress(Phase.TRAIN)

    def work(say: Callable[[Any], None], closed: Event) -> Stopped | Finished[Learnt]:
        signals.append(Signal(wish, closed))
        one = _Run(model, tokenizer, data, run, folder)
        with memory_explained(run.settings):
            return one.carry_out(say, signals[0])

    def tell(said: list[TrainingEvent | Event]) -> Iterator[TrainingEvent]:
        nonlocal latest
        for signal in signals:
            signal.look()
        for event in said or [latest]:
            if isinstance(event, Event):
                event.set()  # whoever reads has read all before it
                continue
            if isinstance(event, Began | Stepped):
                latest = Progress(Phase.TRAIN, event.step, event.total)
            yield event

    yield latest
    yield (yield from heartbeat(work, tell, every=BEAT))


class _Run:
    """One run on the thread that works."""

    def __init__(self, model: Any, tokenizer: Any, data: Prepared, run: TrainingRun, folder: Path) -> None:
        self.model, self.tokenizer, self.data, self.run, self.folder = model, tokenizer, data, run, folder
        self.settings, self.together = run.settings, together()
        self.together.check(self.settings)

    def carry_out(self, say: Callable[[Any], None], signal: Signal) -> Stopped | Finished[Learnt]:
        found = checkpoints.find(self.folder / checkpoints.FOLDER)
        for broken in found.broken:
            say(_broken(broken, found.newest))
        made = ready(self.model, self.tokenizer, self.settings, batches=first_batches(self.data.learn, self.tokenizer))
        for note in made.adapted.notes:
            say(note)
        if self.settings.packing and not made.packs:
            say(_unpacked())
        origin = origin_of(self.run, self.data, made.compute)
        if found.newest:
            check_same(found.newest, origin)
        batches, collator = rows_of(self.data.learn, made, self.tokenizer, self.settings)
        total = trainer.steps_in(batches, self.settings)
        course = self._course(made, origin, total, say, signal)
        told = trainer.arguments(self.settings, self.folder, total, fp16=made.compute == "fp16")
        course.trainer = trainer.build(made, batches, collator, self.settings, told, course)
        if found.newest:
            course.go_on_from(found.newest)
        try:
            signal.check()
            say(self._began(made, course))
            with interruptible(made.model, signal.check), ended_by_others(signal, self.together):
                self._learn(course, found.newest)
                return self._ended(course)
        except Interrupted:
            return Stopped(course.standing.step, course.last_saved)
        finally:
            trainer.take_down(course.trainer)

    def _course(
        self, made: Ready, origin: dict[str, Any], total: int, say: Callable[[Any], None], signal: Signal
    ) -> Course | Partner:
        if not self.together.is_first:
            return Partner(made, total, signal, self.together)
        measured = self._measured(made)
        return Course(
            self.folder, self.settings, made, self.tokenizer, measured, origin, total, say, signal, self.together
        )

    def _learn(self, course: Course | Partner, checkpoint: Path | None) -> None:
        course.begin()
        if checkpoint and course.standing.step >= course.total:
            # The Trainer would go one step too far.
            checkpoints.load_weights(course.ready.model, checkpoint / checkpoints.WEIGHTS)
        else:
            course.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _ended(self, course: Course | Partner) -> Stopped | Finished[Learnt]:
        standing = course.standing
        if isinstance(course, Partner) or course.stopped:
            return Stopped(standing.step, course.last_saved)
        held_out = course.bring_back_best()
        result = save_result(course.ready.adapted, self.tokenizer, self.settings, self.run.plan.model, self.folder)
        course.forget_best()
        return Finished(
            Learnt(
                folder=result,
                steps=standing.step,
                loss=standing.loss,
                held_out_loss=held_out,
                trainable=course.ready.trainable,
                tokens=standing.tokens,
                seconds=standing.seconds,
                peak=compute.peak_memory(),
            )
        )

    def _measured(self, made: Ready) -> Measured:
        asked = questions(made.model, self.tokenizer, self.run.prompts)
        pairs = list(zip(self.run.prompts, asked, strict=True))
        if not self.data.held_out or not self.data.held_out.trained:
            return Measured(None, None, pairs)
        return Measured(*rows_of(self.data.held_out, made, self.tokenizer, self.settings), pairs)

    def _began(self, made: Ready, course: Course | Partner) -> Began:
        return Began(
            step=course.standing.step,
            total=course.total,
            rows=self.data.learn.count,
            held_out=self.data.held_out.count if self.data.held_out else 0,
            trainable=made.trainable,
            compute=made.compute,
            device=compute.machine().device,
            processes=self.together.size,
        )


def first_batches(examples: Examples, tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    """A few batches with masks, for an adapter that begins with what the data does to the model."""
    opened = examples.open()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    collator = Collator(opened, pad=pad, mask=True, packs=False)
    for begin in range(0, min(len(opened), _BEGINNING), _AT_ONCE):
        batch = collator([(row,) for row in range(begin, min(len(opened), begin + _AT_ONCE))])
        yield {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}


def rows_of(
    examples: Examples, made: Ready, tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings
) -> tuple[Batches, Collator]:
    """Examples as batches, and what makes tensors of these."""
    opened = examples.open()
    _check_known(opened, made)
    lengths = opened.with_format("numpy")["length"][:]
    batches = Batches(lengths, settings.batch_tokens, seed=settings.seed, packs=made.packs)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return batches, Collator(opened, pad=pad, mask=made.mask, packs=made.packs)


def _check_known(opened: Dataset, made: Ready) -> None:
    """Raise where the model cannot look up an id: on a GPU that would end the whole process."""
    from pyarrow import compute as arrow

    highest = max(
        (arrow.max(chunk.flatten()).as_py() or 0 for chunk in opened.data.column("input_ids").chunks), default=0
    )
    known = made.model.get_input_embeddings().weight.shape[0]
    if highest >= known:
        raise Damaged(
            f"There is a token with the number {highest:,} in the rows, and the model knows {known:,} tokens.",
            "They were prepared with the tokenizer of another model. Prepare them again with its own.",
        )


@contextmanager
def ended_by_others(signal: Signal, together: Together) -> Iterator[None]:
    """Where all processes of a run are to end at once, those that wait for one that is gone already end as well."""
    try:
        yield
    except RuntimeError as error:
        if together.size > 1 and signal.is_now:
            raise Interrupted from error
        raise


@contextmanager
def memory_explained(settings: TrainingSettings) -> Iterator[None]:
    """Turn running out of memory into our words."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch.OutOfMemoryError on a GPU; a bare RuntimeError of the allocator on a CPU
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        again = "" if settings.checkpointing == "on" else ", or turn checkpointing on"
        raise DoesNotFit(
            f"The training ran out of memory with {settings.batch_tokens:,} tokens a batch.",
            f"Choose fewer tokens a batch and more accumulation{again}.",
        ) from error


def _broken(folder: Path, newest: Path | None) -> Warned:
    goes_on = f"The run goes on from {newest.name}." if newest else "The run begins anew."
    return Warned(
        "broken-checkpoint",
        "warning",
        f"The checkpoint {folder.name} is not as it was written and is passed over. {goes_on}",
        "Check the disk if this happens again.",
    )


def _unpacked() -> Warned:
    return Warned(
        "packing-mixes-rows",
        "warning",
        "Rows are not packed: in this model those in one sequence would see each other.",
        "Nothing is to be done: rows of like length are learnt together, which is as fast.",
    )
