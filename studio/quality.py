"""What a precision costs in quality: a model held against itself in 16 bit, over a text that is part of the studio."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio import compute
from studio.errors import Damaged, DoesNotFit, InputError, Unsupported
from studio.events import Phase, Progress
from studio.heartbeat import heartbeat
from studio.loading import LoadedModel, LoadPlan, best_precision, outlook, settled
from studio.models import STARTER, ModelRef, Precision
from studio.settings import ASSETS
from studio.tokenizer import encode

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 512
"""Tokens that the model reads at a time, where its context allows for so many."""
CHUNK = 32
"""Tokens whose scores are in float32 at a time: 20 MB for a vocabulary of 150,000."""
KEPT_BYTES = 200_000_000
"""What the scores of the reference may take until the second model is there."""
LEAST_LOG = -1e4
"""Stands for the logarithm of 0."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a model is from itself in 16 bit, on the bundled text."""

    perplexity: float
    reference_perplexity: float
    agreement: float
    """Share of the tokens where both hold the same one for the most likely, given the same text before it."""
    kl: float
    """Mean of KL(reference || model) a token, in nats."""
    kl_tokens: int
    """Tokens that `kl` is the mean of: all, or evenly chosen ones where all would take too much room."""
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What one model made of a text. It holds tensors in main memory, and none of the model."""

    ids: tuple[int, ...]
    losses: Tensor
    """-log p of each token that was scored, in nats."""
    greedy: Tensor
    """The token that the model held for the most likely in each of these places."""
    every: int
    scores: Tensor
    """The model's scores of all tokens in every `every`-th of these places, as given; none beside a reference."""
    kl: Tensor
    """KL(reference || this) in the places where the reference's scores are; none without a reference."""
    seconds: float

    @property
    def perplexity(self) -> float:
        """exp of the mean loss; bounded where that would be too large for a number."""
        return math.exp(min(float(self.losses.double().mean()), 700.0))


@dataclass(frozen=True, slots=True)
class _Span:
    """A window of the text: the tokens from `begin` to `end`, of which those from `scored` on are new."""

    begin: int
    scored: int
    end: int


@cache
def bundled_text(model: ModelRef | None = None) -> str:
    """English prose on everyday things, written for this; for the starter, which has read nothing such, its stories."""
    name = "quality_starter.txt" if model == STARTER else "quality.txt"
    return (ASSETS / name).read_text(encoding="utf-8")


def reference_plan(plan: LoadPlan, folder: Path, *, held: int = 0) -> LoadPlan:
    """The plan of the same model in 16 bit. `held` are the bytes of the model in memory, which would make room for it.

    Raises DoesNotFit where 16 bit fits nowhere, InputError where the plan is 16 bit already, and Unsupported for a
    checkpoint that is not there in 16 bit.
    """
    best = best_precision(compute.machine())[0]
    sixteen = Precision.BF16 if best is Precision.FP32 else best
    plan = settled(plan, folder)
    if plan.precision is Precision.STORED:
        raise Unsupported(
            "This checkpoint was quantized already, and it does not hold what it was in 16 bit.",
            "Check the original model that it was made from, in the same precision.",
        )
    if plan.precision is sixteen:
        raise InputError(f"The model is in {sixteen}, which is what others are compared with.", "Choose int8 or nf4.")
    ahead = outlook(replace(plan, precision=sixteen), folder)
    if ahead.misfit and ahead.weights > held + sum(room.free for room in ahead.rooms):
        raise DoesNotFit(
            f"The quality is checked against {sixteen}, which does not fit: {ahead.misfit.message}",
            "Check it on a machine with more memory, or check a smaller model of the same family.",
        )
    return ahead.plan


def compare(reference: Reading, reading: Reading) -> Quality:
    """The numbers of a model that was read with `reference` at hand."""
    return Quality(
        perplexity=reading.perplexity,
        reference_perplexity=reference.perplexity,
        agreement=float((reading.greedy == reference.greedy).double().mean()),
        kl=max(0.0, float(reading.kl.double().mean())),
        kl_tokens=len(reading.kl),
        tokens=len(reading.losses),
        seconds=reference.seconds + reading.seconds,
    )


def read(
    loaded: LoadedModel, reference: Reading | None = None, text: str | None = None
) -> Generator[Progress, None, Reading]:
    """Let a model read a text, the bundled one by default, and return what it made of it.

    perplexity = exp(-1/N * sum of log p(x_i | the tokens before x_i in its window)), over windows of 512 tokens, or of
    the context where that is shorter, each half a window further. A token is scored once, in the first window that it
    is in, so that from the second window on at least half a window is before it. What the tokenizer begins a text with
    begins every window. Closing the generator ends it between two layers.

    Raises InputError where there is nothing to score or the reference read another text, and Damaged where the model
    gives no numbers.
    """
    start, ids, spans = _windows(loaded.model, loaded.tokenizer, bundled_text() if text is None else text)
    total = sum(span.end - span.scored for span in spans)
    if reference and reference.ids != (*start, *ids):
        raise InputError("The reference has read another text.", "Let both models read the same one.")
    latest = Progress(Phase.MEASURE, 0, total)

    def tell(said: list[Progress]) -> list[Progress]:
        nonlocal latest
        latest = said[-1] if said else latest
        return [latest]

    def work(say: Callable[[Progress], None], stop: Event) -> Reading:
        scorer = _Scorer(total, reference)
        started = time.monotonic()
        with ended_by(stop, loaded.model):
            for span in spans:
                scorer.take(*_forward(loaded.model, start, ids, span), stop)
                say(Progress(Phase.MEASURE, scorer.done, total))
        return scorer.reading((*start, *ids), time.monotonic() - started)

    yield latest
    return (yield from heartbeat(work, tell, every=0.1))


def windows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[list[int], int]]:
    """A text as `read` lets a model read it: the tokens of each window, of which those from a place on are scored.

    Raises what `read` raises of a text.
    """
    start, ids, spans = _windows(model, tokenizer, text)
    return [([*start, *ids[span.begin : span.end]], len(start) + span.scored - span.begin) for span in spans]


def _windows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], list[int], list[_Span]]:
    start, ids = _ids(model, tokenizer, text)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    size = min(context or WINDOW, WINDOW) - len(start)
    spans = list(_spans(len(ids), first=0 if start else 1, size=max(2, size)))
    if not spans:
        raise InputError("There is too little text to measure on.", "Take one of at least two tokens.")
    return start, ids, spans


def _ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """What the tokenizer begins a text with, and the tokens of the text itself."""
    # Not verbose: it would warn of a text that is longer than the context, and this one is cut into windows.
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    known = model.get_input_embeddings().weight.shape[0]
    if max(ids, default=0) >= known:
        raise Damaged(
            f"The tokenizer makes a token with the number {max(ids):,}, and the model knows {known:,} tokens.",
            "Its tokenizer belongs to another model. Take the tokenizer files from the model it was made from.",
        )
    begins, begin = encode(tokenizer, "a", special_tokens=True), tokenizer.bos_token_id
    return ([begin] if begin is not None and begins[:1] == [begin] else []), ids


def _spans(count: int, *, first: int, size: int) -> Iterator[_Span]:
    """Windows of `size` over `count` tokens, half a window further each; those from `first` on are scored."""
    scored, end = first, min(size, count)
    while scored < end:
        yield _Span(max(0, end - size), scored, end)
        scored, end = end, min(end + size // 2, count)


def _forward(model: Any, start: list[int], ids: list[int], span: _Span) -> tuple[Tensor, Tensor]:
    """The scores for the new tokens of a span, and these tokens."""
    import torch

    new = span.end - span.scored
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # The head is as wide as the vocabulary: asked for less, most models compute less.
    less = {"logits_to_keep": new + 1} if "logits_to_keep" in inspect.signature(base.forward).parameters else {}
    tokens = torch.tensor([[*start, *ids[span.begin : span.end]]], device=model.device)
    with torch.no_grad():
        scores = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False, **less).logits
    return scores[0, -new - 1 : -1], tokens[0, -new:]


class _Scorer:
    """Scores as they come, brought down to what is needed of them."""

    def __init__(self, total: int, reference: Reading | None) -> None:
        self.total, self.reference = total, reference
        self.done, self.every = 0, reference.every if reference else 0
        self.losses, self.greedy = list[Any](), list[Any]()
        self.scores, self.kl = list[Any](), list[Any]()

    def take(self, scores: Tensor, labels: Tensor, stop: Event) -> None:
        """The next places of the text: scores for every token of the vocabulary, and the tokens that came."""
        self.every = self.every or -(scores[0].numel() * scores.element_size() * self.total // -KEPT_BYTES)
        for at in range(0, len(labels), CHUNK):
            if stop.is_set():
                raise GaveUp
            self._take(scores[at : at + CHUNK], labels[at : at + CHUNK])

    def _take(self, scores: Tensor, labels: Tensor) -> None:
        import torch

        logs = scores.float().log_softmax(-1)
        losses = -logs.gather(-1, labels.to(logs.device)[:, None])[:, 0]
        if not torch.isfinite(losses).all():
            raise Damaged(
                "The model gives scores that are not numbers.",
                "Load it in bf16, which reaches further than fp16.",
            )
        self.losses.append(losses.cpu())
        self.greedy.append(logs.argmax(-1).cpu())
        chosen = slice(-self.done % self.every, None, self.every)
        if self.reference is None:
            self.scores.append(scores[chosen].cpu().clone())
        elif len(mine := logs[chosen]):
            at = -(self.done // -self.every)
            theirs = self.reference.scores[at : at + len(mine)].to(logs.device).float().log_softmax(-1)
            # A token that a model rules out has -inf, and 0 * (inf - inf) is no number.
            gap = theirs.clamp_min(LEAST_LOG) - mine.clamp_min(LEAST_LOG)
            self.kl.append((theirs.exp() * gap).sum(-1).cpu())
        self.done += len(labels)

    def reading(self, ids: tuple[int, ...], seconds: float) -> Reading:
        """Everything that was taken."""
        import torch

        losses, greedy, scores, kl = (
            torch.cat(parts) if parts else torch.empty(0) for parts in (self.losses, self.greedy, self.scores, self.kl)
        )
        return Reading(ids, losses, greedy, self.every, scores, kl, seconds)


class GaveUp(Exception):
    """Raised inside the thread that measures, to end it."""


@contextmanager
def ended_by(stop: Event, model: Any) -> Iterator[None]:
    """Raise GaveUp in the model once `stop` is set.

    It looks before every part of a layer: a window takes a large model many seconds on a CPU.
    """

    def look(*_: Any) -> None:
        if stop.is_set():
            raise GaveUp

    parts = [module for module in model.modules() if not list(module.children())]
    handles = [part.register_forward_pre_hook(look) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
