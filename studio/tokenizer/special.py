"""Special and added tokens, and where tokenizer and model do not agree about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.inspection import Finding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLES = ("bos", "eos", "pad", "unk")
_OTHER_TOKENIZER = "Take the tokenizer files from the model it was made from."


@dataclass(frozen=True, slots=True)
class AddedEntry:
    """A token that was put on top of the vocabulary, and how it is looked for in a text."""

    id: int
    text: str
    roles: tuple[str, ...]
    """What the tokenizer uses it as: bos, eos, pad, unk; nothing for most."""
    special: bool
    """Left out when a reply is shown."""
    lstrip: bool
    """Takes the space before it along."""
    rstrip: bool
    """Takes the space behind it along."""
    single_word: bool
    """Not found inside of a word."""
    normalized: bool
    """Looked for after the text was normalized, so that it may be missed as it is written."""


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[AddedEntry, ...]:
    """The special and added tokens by id."""
    used = {role: getattr(tokenizer, f"{role}_token_id") for role in _ROLES}
    return tuple(
        AddedEntry(
            id=number,
            text=token.content,
            roles=tuple(role for role, held in used.items() if held == number),
            special=token.special,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            single_word=token.single_word,
            normalized=token.normalized,
        )
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
    )


def mismatches(
    tokenizer: PreTrainedTokenizerBase,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    *,
    embedding_size: int | None = None,
) -> tuple[Finding, ...]:
    """Where a tokenizer does not fit config.json, generation_config.json and the embedding of its model."""
    inner = config.get("text_config")
    flat = {**(inner if isinstance(inner, Mapping) else {}), **{k: v for k, v in config.items() if v is not None}}
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    files = {"config.json": flat, "generation_config.json": generation_config}
    return (
        *(
            found
            for file, held in files.items()
            for role in _ROLES
            for found in _role(tokenizer, tokens, role, file, held)
        ),
        *_padding(tokenizer),
        *_sizes(tokens, flat.get("vocab_size"), "vocabulary", "vocab_size of config.json is"),
        *_sizes(tokens, embedding_size, "embedding", "the embedding of the model has"),
    )


def _role(
    tokenizer: PreTrainedTokenizerBase, tokens: dict[int, str], role: str, file: str, held: Mapping[str, Any]
) -> Iterator[Finding]:
    key = f"{role}_token_id"
    value, own = held.get(key), getattr(tokenizer, key)
    ids = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)]
    for number in ids:
        if number not in tokens:
            message = f"{file} has {number} as {key}, and the tokenizer has no such token."
            yield Finding(f"{role}-unknown", "warning", message, f"Correct {key} in {file}. {_OTHER_TOKENIZER}")
    if ids and own is not None and own not in ids:
        theirs = " and ".join(f"{tokens.get(number, 'a token that is not there')} ({number})" for number in ids)
        ours = f"{getattr(tokenizer, f'{role}_token')} ({own})"
        message = f"The {role} token is {ours} to the tokenizer, and {theirs} to {file}."
        yield Finding(f"{role}-differs", "warning", message, _CONSEQUENCES[role])


_CONSEQUENCES = {
    "bos": "A model that was trained with one beginning writes worse after another: check which of them it was.",
    "eos": "A chat may need another end than a text: look whether the end of a turn is among those of generation.",
    "pad": "Harmless for one text at a time; in a batch the model has to be told which tokens are padding.",
    "unk": "Harmless where the tokenizer falls back on bytes; check which of them is right otherwise.",
}


def _padding(tokenizer: PreTrainedTokenizerBase) -> Iterator[Finding]:
    pad = tokenizer.pad_token_id
    if pad is None:
        message = "The tokenizer has no pad token."
        yield Finding("pad-missing", "note", message, "Nothing to do: a batch is padded with another and masked.")
    elif pad == tokenizer.eos_token_id:
        message = f"The pad token is the eos token, {tokenizer.eos_token} ({pad})."
        hint = (
            "Training code that leaves padding out of the labels leaves the end out too, and the model never learns to"
            " stop. The studio masks padding by its place."
        )
        yield Finding("pad-is-eos", "warning", message, hint)


def _sizes(tokens: dict[int, str], size: Any, of: str, what: str) -> Iterator[Finding]:
    beyond = [number for number in tokens if isinstance(size, int) and number >= size]
    if beyond:
        first = f"{tokens[min(beyond)]} ({min(beyond)})"
        message = f"{len(beyond):,} tokens, the first {first}, have an id too large: {what} {size:,}."
        hint = f"{_OTHER_TOKENIZER} Or resize the embedding of the model to {max(beyond) + 1:,}."
        yield Finding(f"beyond-{of}", "error", message, hint)
