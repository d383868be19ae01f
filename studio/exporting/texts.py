"""Texts on which two tokenizers would differ if they can: every place where a rule of splitting may cut."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from studio.errors import InputError, Unsupported
from studio.tokenizer import Message, bundled, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What the rules tell apart: spaces of all kinds, case, digits, endings, marks, scripts. Any three of them in a row.
_PARTS = (
    *(" ", "  ", "\n", "\n\n", "\r\n", "\t", " \n", "\u00a0"),
    *("a", "A", "camelCase", "12345", "\u00bd", "'s", "'S", ".", "...", "/", "\u00e9", "\u4f60\u597d", "\u0915\u093f"),
)
_MADE_UP, _LONGEST = 400, 24
_ASKED = (
    Message("user", "Hello! What is 12 + 30, and what's a tree?"),
    Message("assistant", "It is 42."),
    Message("user", "Thanks,  Ann\n\nOne more?"),
)


def probes(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Some 10,000 short texts, sentences in many languages, what the vocabulary spells, and a conversation."""
    return [*dict.fromkeys(_texts(tokenizer))]


def _texts(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    yield from ("".join(parts) for parts in product(_PARTS, repeat=3))
    yield from (text for sample in bundled() for text in sample.texts)
    added = sorted(tokenizer.added_tokens_decoder)
    for token in (tokenizer.added_tokens_decoder[number].content for number in added[:_MADE_UP]):
        yield from (f"a{token}b", f"a {token} b", f"{token}\n{token}")
    yield from _made_up(tokenizer, set(added))
    if tokenizer.chat_template:
        yield conversation(tokenizer)


def _made_up(tokenizer: PreTrainedTokenizerBase, added: set[int]) -> Iterator[str]:
    """Texts of tokens drawn at random: what is rare in any language is in them too."""
    drawn = random.Random(0)  # noqa: S311  # the same texts at every export
    plain = [number for number in range(len(tokenizer)) if number not in added]
    for _ in range(_MADE_UP):
        ids = drawn.choices(plain, k=drawn.randint(2, _LONGEST))
        # A cut character would not be the same text in every program.
        yield str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).replace("\ufffd", "")


def conversation(tokenizer: PreTrainedTokenizerBase) -> str:
    """A conversation by the model's own template; of one turn where it takes no more."""
    for messages in (_ASKED, _ASKED[:1]):
        try:
            return render(tokenizer, messages)
        except InputError as error:
            refused = error
    raise Unsupported(f"The chat template takes no conversation: {refused.message}", refused.hint)
