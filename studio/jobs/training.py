"""A fine-tuning run from its folder: files and rows are fetched, the model is loaded, and then it learns."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from studio import compute, hub, loading, memory, training
from studio.dataset import Prepared
from studio.errors import InputError, StudioError, Unsupported
from studio.events import Finished, Progress, outcome
from studio.jobs.estimating import estimate, facts_of
from studio.jobs.fetching import fetch, folder_here
from studio.jobs.model import SESSION
from studio.jobs.previewing import prepare
from studio.loading import AUTO, settled
from studio.memory import Facts, Question
from studio.models import Precision
from studio.runs import coding, document, forecast
from studio.runs.forecast import Forecast
from studio.runs.journal import RunEvent
from studio.settings import Settings
from studio.training import METHODS, Began, Stop, TrainingRun, TrainingSettings, Warned, together


@dataclass(frozen=True, slots=True)
class Room:
    """Whether a run finds room beside what is in memory now. Bytes."""

    needed: int
    """At the peak, as predicted."""
    free: int
    held: int
    """By the model that this process has in memory; 0 where there is none."""
    model: str
    """Which that is."""

    @property
    def fits(self) -> bool:
        """Whether there is room as it is."""
        return self.needed <= self.free

    @property
    def fits_after_unloading(self) -> bool:
        """Whether unloading the model makes the room that is missing now."""
        return not self.fits and self.needed <= self.free + self.held


def room_for(run: TrainingRun, *, token: hub.Token) -> Generator[Progress | Finished[Room], None, None]:
    """Compare what a run is predicted to take with the memory that is free. The last event is `Finished(Room)`.

    No weights are downloaded. Raises Unsupported where it cannot be predicted, or a HubError.
    """
    facts = yield from facts_of(str(run.plan.model), token=token)
    answer = yield from outcome(estimate(question_of(run, facts), token=token))
    resident = SESSION.status().resident
    held, model = (resident.weights, str(resident.plan.model)) if resident else (0, "")
    yield Finished(Room(answer.estimate.peak, compute.free_memory(), held, model))


def question_of(run: TrainingRun, facts: Facts, *, longest: int = 0) -> Question:
    """What a run takes in memory on this machine, as a question.

    `longest` is the longest of its rows, in tokens, 0 where that is not known. On a CPU with bf16 it may be tried out
    whether a run would compute in it. Imports torch.
    """
    settings = run.settings
    context = min(run.preparation.limit, longest or run.preparation.limit)
    computes = settings.compute
    if computes == "auto":
        computes = training.best_of(compute.machine(), facts.hidden).dtype
    precision = precision_of(run)
    return Question(
        model=str(run.plan.model),
        precision=precision,
        double_quant=run.plan.quantization.double_quant,
        context=context,
        batch=max(1, settings.batch_tokens // context),
        method=settings.method,
        rank=settings.rank,
        targets=settings.targets,
        dropout=settings.dropout,
        optimizer=settings.optimizer,
        checkpointing=settings.checkpointing == "on",
        kbit_preparation="on",  # of a quantized model: what is not quantized is brought to fp32
        attention=run.plan.attention if run.plan.attention != AUTO else "sdpa",
        loss="liger" if settings.liger else "chunked",
        accumulation=settings.accumulation,
        autocast=computes if computes in ("bf16", "fp16") else "none",
    )


def precision_of(run: TrainingRun) -> Precision:
    """What the weights are held in; what is not on this machine yet is taken for 16 bit."""
    folder = folder_here(run.plan.model)
    try:
        plan = settled(run.plan, folder) if folder else run.plan
    except Unsupported:
        plan = run.plan
    return plan.precision or Precision.BF16


def settings_for(question: Question, settings: TrainingSettings) -> TrainingSettings:
    """The settings with what a question about memory says of them, the other way round than `question_of`.

    The adapter counts as strongly as before: alpha goes with the rank. Raises InputError for a question that is of no
    run here: of another method, of replies, or of a model that is numbers alone.
    """
    if question.task != "train" or question.method not in METHODS:
        what = f"by {question.method}" if question.task == "train" else "in order to generate"
        raise InputError(f"What was weighed is a model {what}.", f"Choose to train it, by {', '.join(METHODS)}.")
    if memory.is_typed(question.model):
        raise InputError(f"{question.model} is a size and no model.", "Choose a model above that has this size.")
    return replace(
        settings,
        method=question.method,
        rank=question.rank,
        alpha=max(1, settings.alpha * question.rank // settings.rank),
        targets=question.targets,
        dropout=question.dropout,
        optimizer=question.optimizer,
        checkpointing="on" if question.checkpointing else "off",
        batch_tokens=question.tokens,
        accumulation=question.accumulation,
        liger=question.loss == "liger",
        compute="auto" if question.autocast == "none" else question.autocast,
    )


def work(folder: Path, *, token: hub.Token, wish: Callable[[], Stop | None]) -> Generator[RunEvent, None, None]:
    """Do the run that run.yaml in a folder describes, or go on with it. Ends with `Finished(Learnt)`, or `Stopped`.

    What was left open is written into run.yaml, the commit of the model and its precision, so that doing the run again
    is doing the same.
    """
    with_others = together()
    run, model, data, predicted = with_others.share(
        (yield from _foundation(folder, token)) if with_others.is_first else None
    )
    before = _held()
    loaded = yield from loading.load(run.plan, model)
    packed = run.settings.packing
    with closing(training.train(loaded.model, loaded.tokenizer, data, run, folder, wish=wish)) as events:
        for event in events:
            match event:
                case Warned(id="packing-mixes-rows"):
                    packed = False
                case Began(total=total, compute=computed_in) if with_others.is_first:
                    coding.write(folder, run, coding.Known(model, data.learn, computed_in, packed, total), loaded.model)
                case Finished(result):
                    took = replace(predicted, measured=result.peak - before, seconds=result.seconds)
                    forecast.write(folder, took)
                    _remember(run, took)
            yield event


def _foundation(
    folder: Path, token: hub.Token
) -> Generator[Progress, None, tuple[TrainingRun, Path, Prepared, Forecast]]:
    """What the first process does for all: files and rows are fetched, and what was left open is settled."""
    told = document.read(folder / document.FILE)
    model = yield from fetch(told.run.plan, token=token)
    yield from compute.imports()
    run = _pinned(told, folder, model)
    data = yield from outcome(prepare(run, folder, token=token))
    run, predicted = yield from _predicted(run, data.learn.longest, token)
    forecast.write(folder, predicted)
    return run, model, data, predicted


def _pinned(told: document.Document, folder: Path, model: Path) -> TrainingRun:
    """The run with nothing left open. The folder of a download is named for its commit."""
    plan = settled(told.run.plan, model)
    if plan.model.where == "hub":
        plan = replace(plan, model=replace(plan.model, revision=model.name))
    if plan == told.run.plan:
        return told.run
    return document.change(folder, lambda now: replace(now, run=replace(now.run, plan=plan))).run


def _predicted(
    run: TrainingRun, longest: int, token: hub.Token
) -> Generator[Progress, None, tuple[TrainingRun, Forecast]]:
    """What the run takes, and the run with checkpointing decided: on where it would not fit without."""
    settings = run.settings
    plain = replace(run, settings=replace(settings, checkpointing="off")) if settings.checkpointing == "auto" else run
    try:
        facts = yield from facts_of(str(run.plan.model), token=token)
        question = question_of(plain, facts, longest=longest)
        peak = (yield from outcome(estimate(question, token=token))).estimate.peak
        if settings.checkpointing == "auto" and peak > compute.free_memory():
            plain = replace(run, settings=replace(settings, checkpointing="on"))
            question = replace(question, checkpointing=True)
            peak = (yield from outcome(estimate(question, token=token))).estimate.peak
    except StudioError as error:
        return plain, Forecast(why=error.message)  # it is no reason not to learn
    return plain, Forecast(peak)


def _held() -> int:
    """Bytes that the process holds before there is a model, which no estimate is about; a GPU counts tensors alone."""
    return compute.process_memory() if compute.machine().device == "cpu" else 0


def _remember(run: TrainingRun, took: Forecast) -> None:
    """Keep how right the estimate was. Not where visitors share the machine, as with loads."""
    settings = Settings.from_env()
    if settings.shared or not took.predicted or not took.measured or took.measured <= 0:
        return
    name = "" if run.plan.model.where == "folder" else str(run.plan.model)
    device = compute.machine().name
    entry = memory.Entry("run", device, name, str(run.plan.precision), took.predicted, took.measured)
    memory.remember(settings.workspace, entry)
