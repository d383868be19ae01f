"""Many questions at once: greedy replies in batches, padded on the left, to the very tokens that chat would send."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.generation import GenerationSettings, generation_config, only
from studio.tokenizer import Message, encode, render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 16_384
"""Tokens of a batch, those of its replies included: the cache of an 8B model with grouped heads takes 2 GB for them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, its length, and whether the model ended it by itself."""

    text: str
    tokens: int
    ended: bool


def as_prompt(tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...]) -> tuple[int, ...]:
    """The tokens that chat sends for these turns; one text after the other where there is no chat template."""
    if tokenizer.chat_template:
        return tuple(encode(tokenizer, render(tokenizer, messages), special_tokens=False))
    text = "\n".join(message.content for message in messages)
    return tuple(encode(tokenizer, text, special_tokens=True))


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    limit: int,
    say: Callable[[int], None],
) -> dict[tuple[int, ...], Answer]:
    """Prompt → greedy reply of at most `limit` tokens, for all that leave room for one; says how many are answered."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    fitting = sorted({prompt for prompt in prompts if prompt and (context is None or len(prompt) < context)}, key=len)
    answers: dict[tuple[int, ...], Answer] = {}
    for batch in _batches(fitting, limit):
        length = limit if context is None else min(limit, context - len(batch[-1]))
        for prompt, ids in zip(batch, _generate(model, tokenizer, batch, length), strict=True):
            answers[prompt] = reply(model, tokenizer, ids)
        say(len(answers))
    return answers


def reply(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Answer:
    """What tokens say up to where the model ends, and whether it does."""
    eos = model.generation_config.eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    ends = set(eos if isinstance(eos, list) else [eos])
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    text = tokenizer.decode(list(ids[:end]), skip_special_tokens=True)
    return Answer(text, len(ids) if end is None else end + 1, end is not None)


def _batches(prompts: list[tuple[int, ...]], limit: int) -> Iterator[list[tuple[int, ...]]]:
    """From short to long, so many at once as the budget holds."""
    batch: list[tuple[int, ...]] = []
    for prompt in prompts:
        if batch and (len(prompt) + limit) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[tuple[int, ...]], length: int
) -> list[list[int]]:
    """New tokens for each prompt, what pads a reply that ended early included."""
    import torch

    config = generation_config(model, tokenizer, GenerationSettings(greedy=True), length)
    config.use_cache = True  # training turns it off in the model's own
    config.pad_token_id = 0 if config.pad_token_id is None else config.pad_token_id
    width = len(prompts[-1])
    ids = torch.tensor([[config.pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with only(config, model):
        output = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config)
    new: list[list[int]] = output[:, width:].tolist()
    return new
