"""One look at what a model knows: held-out rows, declared checks, a general text. It leaves the model as it was."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from studio import quality
from studio.dataset import Examples
from studio.errors import InputError
from studio.evaluation.answering import Answer, answer, as_prompt, reply
from studio.evaluation.checks import Check
from studio.evaluation.scoring import Passage, mean_loss
from studio.evaluation.standing import EXACT, Said, Score, Standing
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat
from studio.tokenizer import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Say = Callable[[Progress], None]
Prompt = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Exam:
    """What is asked, the same before and after."""

    held_out: Examples | None = None
    checks: tuple[Check, ...] = ()
    prompts: tuple[str, ...] = ()
    """What the model is asked to show its replies."""
    text: str = field(default_factory=quality.bundled_text)
    """A general text, which says how much of everything else is forgotten."""
    most: int = 200
    """Rows that are looked at, and questions of a check that are asked, drawn by `seed` where there are more."""
    limit: int = 256
    """Tokens of a reply."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.most < 1 or self.limit < 1:
            raise InputError(
                f"At most {self.most} questions, at most {self.limit} tokens: nothing is asked.", "Ask at least one."
            )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A prompt in tokens, and what its reply is held against."""

    prompt: Prompt
    answer: str
    words: tuple[str, ...] = ()


def look(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, exam: Exam, *, adapted: bool = True
) -> Generator[Progress | Finished[Standing], None, None]:
    """Ask a model all of an exam. Ends with `Finished(Standing)`; closing ends it between two layers.

    Without `adapted` its adapter is switched off meanwhile, so that one loaded model stands for before and after. Mode,
    gradients, random numbers and weights are afterwards what they were, however it ends. Raises InputError where a
    prompt or the text cannot be read, and Damaged where the model gives no numbers.
    """
    latest = Progress(Phase.MEASURE)

    def tell(said: list[Progress]) -> list[Progress]:
        nonlocal latest
        latest = said[-1] if said else latest
        return [latest]

    work = partial(_look, model, tokenizer, exam, adapted)
    yield latest
    yield Finished((yield from heartbeat(work, tell, every=0.1)))


def _look(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, exam: Exam, adapted: bool, say: Say, stop: Event
) -> Standing:  # fmt: skip
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    # Greedy replies draw nothing, and yet a model may: noise in its layers, a router with jitter.
    with torch.random.fork_rng(devices), _as_it_was(model), _adapter(model, on=adapted), quality.ended_by(stop, model):
        return _Look(model, tokenizer, exam, say, stop).standing()


@contextmanager
def _as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """In evaluation mode meanwhile. Switching an adapter off and on also changes what is trained."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, needed in trained:
            if weight.requires_grad != needed:
                weight.requires_grad_(needed)


def _adapter(model: Any, *, on: bool) -> Any:
    """The adapter as it is, or switched off; a model without one stays as it is."""
    return nullcontext() if on or not hasattr(model, "disable_adapter") else model.disable_adapter()


class _Look:
    """The work, on its thread."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, exam: Exam, say: Say, stop: Event
    ) -> None:
        self._model, self._tokenizer, self._exam = model, tokenizer, exam
        self._say, self._stop = say, stop

    def standing(self) -> Standing:
        started = time.monotonic()
        rows = self._rows()
        windows = quality.windows(self._model, self._tokenizer, self._exam.text)
        text = [Passage(tuple(ids), tuple(place >= first for place in range(len(ids)))) for ids, first in windows]
        loss, perplexity = self._read(rows, text)
        own = [asked for passage in rows if (asked := self._asked(passage))]
        by_check = [self._questions(check, own) for check in self._exam.checks]
        samples = [as_prompt(self._tokenizer, (Message("user", prompt),)) for prompt in self._exam.prompts]
        prompts = [*(asked.prompt for group in (own, *by_check) for asked in group), *samples]
        answers = self._answers(prompts)
        scores = [self._score(check, group, answers) for check, group in zip(self._exam.checks, by_check, strict=True)]
        ended = [asked for asked in own if asked.prompt in answers]
        good = sum(answers[asked.prompt].ended and answers[asked.prompt].text == asked.answer for asked in ended)
        shown = zip(self._exam.prompts, samples, strict=True)
        return Standing(
            rows=len(rows),
            loss=loss,
            loss_tokens=sum(passage.scored for passage in rows),
            exact=Score(EXACT, "learnt", good, len(ended)) if ended else None,
            scores=tuple(scores),
            perplexity=perplexity,
            text_tokens=sum(passage.scored for passage in text),
            said=tuple(Said(prompt, *self._shown(answers.get(ids))) for prompt, ids in shown),
            asked=len(answers),
            ended=sum(given.ended for given in answers.values()),
            limit=self._exam.limit,
            seconds=time.monotonic() - started,
        )

    def _rows(self) -> list[Passage]:
        """The held-out rows, or as many of them as are looked at."""
        held_out = self._exam.held_out
        if held_out is None:
            return []
        columns = held_out.open().select_columns(["input_ids", "trained"])
        places = self._drawn(range(held_out.count))
        return [Passage(tuple(row["input_ids"]), tuple(row["trained"])) for row in (columns[at] for at in places)]

    def _drawn(self, items: Sequence[Any]) -> list[Any]:
        """All, or `most` of them by the seed."""
        if len(items) <= self._exam.most:
            return list(items)
        places = random.Random(self._exam.seed).sample(range(len(items)), self._exam.most)  # noqa: S311 - no secret
        return [items[place] for place in sorted(places)]

    def _read(self, rows: list[Passage], text: list[Passage]) -> tuple[float | None, float]:
        """The loss of the rows and the perplexity of the text."""
        in_rows = sum(passage.scored for passage in rows)
        total = in_rows + sum(passage.scored for passage in text)
        loss = None
        if in_rows:
            loss = mean_loss(self._model, rows, lambda done: self._say(Progress(Phase.MEASURE, done, total)))
        mean = mean_loss(self._model, text, lambda done: self._say(Progress(Phase.MEASURE, in_rows + done, total)))
        return loss, math.exp(min(mean, 700.0))

    def _asked(self, passage: Passage) -> _Asked | None:
        """The last reply of a row and what is before it; None where there is none, or where it does not end."""
        counts = passage.counts
        end = len(counts) - next((place for place, counts_ in enumerate(reversed(counts)) if counts_), len(counts))
        start = next((place for place in range(end, 0, -1) if not counts[place - 1]), 0)
        given = reply(self._model, self._tokenizer, passage.ids[start:end])
        return _Asked(passage.ids[:start], given.text) if 0 < start < end and given.ended else None

    def _questions(self, check: Check, own: list[_Asked]) -> list[_Asked]:
        if check.questions is None:
            return own
        asked = []
        for question in self._drawn(check.questions):
            self._look_in()
            asked.append(_Asked(as_prompt(self._tokenizer, question.messages), question.answer, question.words))
        return asked

    def _answers(self, prompts: list[Prompt]) -> dict[Prompt, Answer]:
        total = len(set(prompts))
        self._say(Progress(Phase.ASK, 0, total))
        return answer(
            self._model, self._tokenizer, prompts, self._exam.limit,
            lambda done: self._say(Progress(Phase.ASK, done, total)),
        )  # fmt: skip

    def _score(self, check: Check, group: list[_Asked], answers: dict[Prompt, Answer]) -> Score:
        pairs = [(asked, answers[asked.prompt]) for asked in group if asked.prompt in answers]
        good = 0
        for asked, given in pairs:
            self._look_in()
            try:
                good += check.passes(given.text, asked.answer, asked.words)
            except TimeoutError:
                return Score(check.name, check.tells, 0, 0, "Its pattern takes too long on a reply.")
        return Score(check.name, check.tells, good, len(pairs))

    def _look_in(self) -> None:
        """Between two steps that no layer of the model is part of."""
        if self._stop.is_set():
            raise quality.GaveUp

    def _shown(self, given: Answer | None) -> tuple[str, bool]:
        """A reply; none where the prompt leaves no room for one."""
        return (given.text, given.ended) if given else ("", False)
