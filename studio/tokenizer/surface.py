"""The text that each token of a vocabulary stands for, so that the tokens of different tokenizers can be compared."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from studio.tokenizer.spelling import BYTE_TOKEN, Spelling, spelling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SINGLE_BYTES = {chr(byte) for byte in range(256)}


def surfaces(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """Token id → its bytes in UTF-8, for all but the added tokens, which stand for no text of their own.

    Ġ and ▁ are spaces, <0x41> is the byte it names, and a piece of WordPiece that begins a word has the space in front
    that it has elsewhere. Bytes and not text, as a token may be less than a character.
    """
    tokens = _tokens(tokenizer)
    if set(tokens.values()) == _SINGLE_BYTES:  # ByT5
        return {number: token.encode("latin-1") for number, token in tokens.items()}
    how = _spelled(tokenizer, tokens.values())
    return {number: _surface(how, token) for number, token in tokens.items()}


def less_than_a_character(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that are bytes and no text: part of a character, or the stand-in for a byte such as <0x41>."""
    tokens = _tokens(tokenizer)
    return frozenset(
        number
        for number, surface in surfaces(tokenizer).items()
        if BYTE_TOKEN.fullmatch(tokens[number]) or not _is_text(surface)
    )


def _tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    added = tokenizer.added_tokens_decoder
    return {number: token for token, number in tokenizer.get_vocab().items() if number not in added}


def _is_text(surface: bytes) -> bool:
    try:
        surface.decode()
    except UnicodeDecodeError:
        return False
    return True


def _spelled(tokenizer: PreTrainedTokenizerBase, tokens: Collection[str]) -> Spelling:
    """How this vocabulary writes text; where nothing in Rust tells, by the tokens themselves."""
    if tokenizer.is_fast:
        return spelling(tokenizer.backend_tokenizer)
    if any(token.startswith("##") for token in tokens):
        return Spelling(inside="##")
    return Spelling(space="▁", last="</w>", byte_fallback=True)


def _surface(how: Spelling, token: str) -> bytes:
    # Where the inside of a word is marked, its beginning is not, and has a space in front.
    before = b" " if how.inside and not token.startswith(how.inside) else b""
    return before + how.bytes_of(token)
