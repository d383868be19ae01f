"""How the tokens of a vocabulary spell bytes: a glyph a byte, ▁ for a space, ## inside of a word, <0xF0> for a byte."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from studio.tokenizer.backend import described

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Spelling:
    """What a tokenizer writes in place of bytes that it cannot write as they are."""

    byte_level: bool = False
    """One glyph a byte, as in GPT-2: Ġ is a space."""
    byte_fallback: bool = False
    """Tokens such as <0xF0> for the bytes of characters that the vocabulary does not have."""
    space: str = ""
    """What stands for a space, mostly ▁."""
    inside: str = ""
    """What a token begins with that goes on within a word, mostly ##."""
    last: str = ""
    """What a token ends in that ends a word, mostly </w>."""

    def bytes_of(self, token: str) -> bytes:
        """The bytes that a token of the vocabulary stands for; not always whole characters."""
        if self.byte_fallback and (value := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(value[1], 16)])
        if self.byte_level:
            glyphs = _glyphs()
            return b"".join(glyphs.get(character) or character.encode() for character in token)
        if self.space:
            token = token.replace(self.space, " ")
        if self.inside:
            token = token.removeprefix(self.inside)
        if self.last and token.endswith(self.last):
            token = f"{token.removesuffix(self.last)} "
        return token.encode()


def spelling(backend: Any) -> Spelling:
    """How the tokens of a Rust tokenizer are spelled, by its model and its decoder."""
    model, decoder = backend.model, described(backend.decoder)
    # Some have no decoder; what makes the glyphs then tells.
    parts = decoder or [*described(backend.pre_tokenizer), *described(backend.normalizer)]
    kinds = {part["type"] for part in parts}
    fallback = getattr(model, "byte_fallback", None)  # only a BPE tells
    return Spelling(
        byte_level="ByteLevel" in kinds,
        byte_fallback="ByteFallback" in kinds if fallback is None else bool(fallback),
        space=next((mark for part in parts if (mark := _space(part))), ""),
        inside=getattr(model, "continuing_subword_prefix", None) or "",
        last=getattr(model, "end_of_word_suffix", None) or "",
    )


def _space(part: dict[str, Any]) -> str:
    """What stands for a space by this part of a decoder or a normalizer."""
    if part["type"] == "Metaspace":
        return str(part["replacement"])
    if part["type"] == "Replace":
        old, new = part["pattern"].get("String", ""), part["content"]
        return str(old if new == " " else new if old == " " else "")
    return ""


@cache
def _glyphs() -> dict[str, bytes]:
    """Glyph → byte, as GPT-2 gave them out: what can be seen stands for itself, the rest for 256 and up, in order."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [value for value in range(256) if value not in seen]
    glyphs = {chr(value): bytes([value]) for value in seen}
    return glyphs | {chr(256 + index): bytes([value]) for index, value in enumerate(hidden)}
