"""Base and adapter against the merge, both run in fp32 on the same tokens, one after the other.

How far scores may be apart is measured on the model itself, for only the network knows what it makes of an error in its
weights. To first order each of n adapted matrices adds an error of 0.42 u of its size (u as in `proving_tensors`; 0.42
is the root mean square of rounding over all numbers), and independent ones add up to about 0.42 u √n of the scores.
The measurement replaces that guess: the base with its adapter is merged in memory in fp32, every weight is rounded once
to the dtype, and the same tokens are read again. What rounding alone does is one draw of noise whose spread is the same
for every sound merge; `FACTOR` times of it is allowed, and of KL, which goes with the square, its square. A single
rounding gives the very same weights as this reference and so 1.0; a second rounding of the update was measured at up to
1.4. Merging in fp32 without rounding is measured as well and is the floor: it tells what another order of sums does.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from studio import quality
from studio.errors import InputError
from studio.evaluation.answering import as_prompt
from studio.evaluation.scoring import Passage, mean_loss
from studio.events import Phase, Progress
from studio.generation import GenerationSettings, generation_config, only
from studio.tokenizer import Message

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Say = Callable[[Progress], None]
Ids = tuple[int, ...]
FACTOR = 3.0
KEPT_BYTES = 200_000_000
"""What the scores of one model may take while the other is read."""
_CHUNK = 32
"""Places whose scores are compared at a time: 40 MB for a vocabulary of 150,000."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far the scores of one model are from those of another."""

    largest: float
    mean: float
    kl: float
    """Mean of KL(reference || other) a token, in nats."""


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What a model made of the prompts and the rows. It holds tensors in main memory, and none of the model."""

    prompts: tuple[Ids, ...]
    replies: tuple[Ids, ...]
    texts: tuple[str, ...]
    scores: tuple[torch.Tensor, ...]
    """Of each prompt with the reply of the reference, at its last places."""
    loss: float | None
    """Of the rows, per token."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """How far a sound merge may be from the base with its adapter, measured on both."""

    summed: Distance
    """By another order of sums: merged in fp32, not rounded."""
    rounded: Distance
    """By rounding every weight once."""
    adapter: Distance
    """What the adapter itself does."""
    size: float
    """The largest score."""

    @property
    def limit(self) -> Distance:
        """What is allowed."""
        noise = 1e-6 * self.size
        most, mean = (FACTOR * max(getattr(self.summed, of), getattr(self.rounded, of)) for of in ("largest", "mean"))
        kl = FACTOR**2 * max(self.summed.kl, self.rounded.kl)
        return Distance(most + noise, mean + noise, kl + noise**2)


def hear_reference(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    rows: Sequence[Passage],
    length: int,
) -> Callable[[Say, Event], Heard]:
    """Work to be done on a thread: the replies of the base with its adapter, its scores on them, its loss."""

    def work(say: Say, stop: Event) -> Heard:
        with quality.ended_by(stop, model):
            asked = tuple(_as_ids(model, tokenizer, prompt, length) for prompt in prompts)
            replies = tuple(_reply(model, tokenizer, ids, length) for ids in asked)
            scores = read_scores(model, asked, replies, length, say)
            return Heard(asked, replies, _texts(tokenizer, replies), scores, _loss(model, rows, say))

    return work


def hear_merged(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reference: Heard, rows: Sequence[Passage], length: int
) -> Callable[[Say, Event], Heard]:
    """Work to be done on a thread: the same of the merge, its scores on the replies of the reference."""

    def work(say: Say, stop: Event) -> Heard:
        with quality.ended_by(stop, model):
            scores = read_scores(model, reference.prompts, reference.replies, length, say)
            replies = tuple(_reply(model, tokenizer, ids, length) for ids in reference.prompts)
            return Heard(reference.prompts, replies, _texts(tokenizer, replies), scores, _loss(model, rows, say))

    return work


def expect(model: Any, reference: Heard, dtype: torch.dtype, length: int) -> Callable[[Say, Event], Expectation]:
    """Work to be done on a thread: what rounding does to the scores. The model is merged and rounded, and is gone."""

    def work(say: Say, stop: Event) -> Expectation:
        read = partial(read_scores, prompts=reference.prompts, replies=reference.replies, length=length, say=say)
        with quality.ended_by(stop, model):
            with model.disable_adapter():
                adapter = apart(reference.scores, read(model))
            merged = model.merge_and_unload()
            summed = apart(reference.scores, read(merged))
            round_weights(merged, dtype)
            rounded = apart(reference.scores, read(merged))
        size = max(float(scores.abs().max()) for scores in reference.scores)
        return Expectation(summed, rounded, adapter, size)

    return work


def apart(reference: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Distance:
    """How far these scores are from those of the reference, over all places and tokens."""
    largest = mean = kl = 0.0
    places = sum(len(scores) for scores in reference)
    for ours, theirs in zip(reference, other, strict=True):
        for at in range(0, len(ours), _CHUNK):
            here, there = (scores[at : at + _CHUNK].double() for scores in (ours, theirs))
            off = (here - there).abs()
            largest = max(largest, float(off.max().nan_to_num(math.inf)))
            mean += float(off.mean(-1).sum())
            logs, others = (scores.log_softmax(-1).clamp_min(quality.LEAST_LOG) for scores in (here, there))
            kl += float((logs.exp() * (logs - others)).sum())
    return Distance(largest, mean / places, kl / places if math.isnan(kl) else max(0.0, kl / places))


def _as_ids(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, length: int) -> Ids:
    """The tokens that chat sends, or their last ones where the context holds no more with a reply."""
    ids = as_prompt(tokenizer, (Message("user", prompt),))
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = len(ids) if context is None else context - length
    if room < 1:
        raise InputError(f"The model reads {context} tokens, and replies have {length}.", "Ask for shorter replies.")
    return ids[-room:]


def _reply(model: Any, tokenizer: PreTrainedTokenizerBase, ids: Ids, length: int) -> Ids:
    """What the model writes by taking the most likely token each time."""
    import torch

    config = generation_config(model, tokenizer, GenerationSettings(greedy=True), length)
    config.use_cache = True
    tokens = torch.tensor([ids], device=model.device)
    with torch.no_grad(), only(config, model):
        output = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)
    return tuple(output[0, len(ids) :].tolist())


def read_scores(
    model: Any, prompts: tuple[Ids, ...], replies: tuple[Ids, ...], length: int, say: Say
) -> tuple[torch.Tensor, ...]:
    """The scores at the last places of every prompt with its reply: as many as fit, those of the reply always."""
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    less = "logits_to_keep" in inspect.signature(base.forward).parameters
    room = KEPT_BYTES // (4 * model.get_input_embeddings().weight.shape[0] * len(prompts))
    places = max(room, length + 1)
    found = []
    for done, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        say(Progress(Phase.MEASURE, done, len(prompts)))
        tokens = torch.tensor([[*prompt, *reply]], device=model.device)
        with torch.no_grad():
            scores = model(tokens, use_cache=False, **({"logits_to_keep": places} if less else {})).logits
        found.append(scores[0, -places:].float().cpu())
    return tuple(found)


def _texts(tokenizer: PreTrainedTokenizerBase, replies: tuple[Ids, ...]) -> tuple[str, ...]:
    return tuple(str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in replies)


def _loss(model: Any, rows: Sequence[Passage], say: Say) -> float | None:
    total = sum(passage.scored for passage in rows)
    return mean_loss(model, rows, lambda done: say(Progress(Phase.MEASURE, done, total))) if total else None


def round_weights(model: Any, dtype: torch.dtype) -> None:
    """Every weight once to the dtype, and back to fp32 to compute in."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype).float()
