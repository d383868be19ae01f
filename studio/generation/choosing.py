"""What the settings of a person are to transformers, for one reply as for many at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from studio.generation.request import GenerationSettings

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: GenerationSettings, length: int
) -> GenerationConfig:
    """The choices of the person, and of the model's own configuration its tokens alone."""
    from transformers import GenerationConfig

    own, sampling = model.generation_config, not settings.greedy
    eos = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    first_eos = eos[0] if isinstance(eos, list) else eos
    return GenerationConfig(
        max_new_tokens=length,
        do_sample=sampling,
        temperature=settings.temperature if sampling else 1.0,
        top_p=settings.top_p if sampling else 1.0,
        top_k=settings.top_k if sampling else 50,  # 50 is what transformers takes for "not set" and stays silent about
        min_p=settings.min_p or None if sampling else None,
        repetition_penalty=settings.repetition_penalty,
        num_beams=settings.beams,
        bos_token_id=own.bos_token_id,
        eos_token_id=eos,
        pad_token_id=first_eos if own.pad_token_id is None else own.pad_token_id,
        suppress_tokens=own.suppress_tokens,
        begin_suppress_tokens=own.begin_suppress_tokens,
    )


@contextmanager
def only(config: GenerationConfig, model: PreTrainedModel) -> Iterator[None]:
    """Let `config` alone decide: what it leaves open, generate() takes from the model's own, such as a typical_p."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = base.generation_config
    base.generation_config = config
    try:
        yield
    finally:
        base.generation_config = own
