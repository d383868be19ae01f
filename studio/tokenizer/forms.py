"""One conversation along every way that it takes to the model: they have to be the same, token by token."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.errors import InputError
from studio.tokenizer.conversation import Message, ToolDefinition
from studio.tokenizer.reading import encode
from studio.tokenizer.template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Form:
    """What the model reads on one way."""

    way: str
    text: str
    """The tokens as text again, special ones included."""
    ids: tuple[int, ...]


def ways_to_model(
    tokenizer: PreTrainedTokenizerBase,
    messages: tuple[Message, ...],
    *,
    tools: tuple[ToolDefinition, ...] = (),
    template: str | None = None,
) -> tuple[Form, ...]:
    """The prompt of a reply in chat, in training, and in a program that makes tokens of it with the usual settings.

    With `template` also by that one. Chat comes first. Raises what `render` raises.
    """
    prompt = render(tokenizer, messages, tools=tools)
    found = {"chat": encode(tokenizer, prompt, special_tokens=False)}
    with suppress(InputError):  # a template may refuse the answer, and then nothing is trained on
        answered = render(tokenizer, (*messages, Message("assistant", "probe")), tools=tools, generation_prompt=False)
        found["training"] = encode(tokenizer, answered[: len(prompt)], special_tokens=False)
    found["a program that adds special tokens"] = encode(tokenizer, prompt, special_tokens=True)
    if template is not None:
        other = render(tokenizer, messages, tools=tools, template=template)
        found["the other template"] = encode(tokenizer, other, special_tokens=False)
    texts = {way: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) for way, ids in found.items()}
    return tuple(Form(way, texts[way], tuple(ids)) for way, ids in found.items())
