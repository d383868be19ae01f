"""Ids into text as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Decoder:
    """Ids into text as they come. Pieces joined are what decoding them all at once gives.

    It decodes a window twice, without and with what is new, and keeps the difference. The DecodeStream of tokenizers
    raises where a broken character changes how the bytes before it read, which byte fallback (Llama 2, Gemma) does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        self._pieces: list[str] = []
        self.count = 0
        # From the end of the prompt, to which the first new token may owe its space, but not from inside a character.
        size = next((n for n in range(8, 64) if not self._decode(prompt[-n:]).startswith("\ufffd")), 64)
        self._window = prompt[-size:]
        self._settled = len(self._window)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, tokens: list[int], *, last: bool = False) -> str:
        """The text that these ids complete."""
        self.count += len(tokens)
        self._window += tokens
        before, whole = self._decode(self._window[: self._settled]), self._decode(self._window)
        if len(whole) <= len(before) or (whole.endswith("\ufffd") and not last):
            return ""
        piece = whole[len(before) :]
        self._pieces.append(piece)
        self._window = self._window[self._settled :]
        self._settled = len(self._window)
        return piece

    def finish(self, tokens: list[int]) -> str:
        """What is left once all ids are known: everything after beams, a broken last character otherwise."""
        return self.take(tokens[self.count :], last=True)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
