"""What a model answers while it is trained, without a trace in what follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from studio.errors import InputError
from studio.tokenizer import Message, encode, render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REPLY = 64
"""Tokens of a reply at most."""


@contextmanager
def at_rest(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model is in evaluation mode and random numbers are drawn from a copy."""
    import torch

    was = model.training
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([model.device] if model.device.type == "cuda" else []))
        stack.callback(model.train, was)
        model.eval()
        yield


def questions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: tuple[str, ...]) -> list[list[int]]:
    """The prompts as the model reads them: by its chat template, or as they are where it has none.

    Raises InputError where one leaves no room for a reply.
    """
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    made = []
    for prompt in prompts:
        if tokenizer.chat_template:
            ids = encode(tokenizer, render(tokenizer, (Message("user", prompt),)), special_tokens=False)
        else:
            ids = encode(tokenizer, prompt, special_tokens=True)
        if not ids or (room is not None and len(ids) + REPLY > room):
            raise InputError(
                f"A prompt to try the model with has {len(ids):,} tokens, and the model reads {room:,} with its reply."
                if ids
                else "A prompt to try the model with is empty once it is made into tokens.",
                "Shorten it, or leave it out.",
            )
        made.append(ids)
    return made


def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The most likely reply, cut at `REPLY` tokens."""
    import torch

    prompt = torch.tensor([ids], device=model.device)
    with at_rest(model), torch.no_grad():
        output = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=_greedy(model, tokenizer)
        )
    return str(tokenizer.decode(output[0, len(ids) :].tolist(), skip_special_tokens=True))


def _greedy(model: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    from transformers import GenerationConfig

    own = model.generation_config
    eos = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    first = eos[0] if isinstance(eos, list) else eos
    return GenerationConfig(
        max_new_tokens=REPLY,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        use_cache=True,  # the Trainer turns it off in the config
        bos_token_id=own.bos_token_id,
        eos_token_id=eos,
        pad_token_id=first if own.pad_token_id is None else own.pad_token_id,
    )
