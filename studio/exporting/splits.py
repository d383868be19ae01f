"""The ways of splitting text that llama.cpp knows by name, and a vocabulary read the way it would read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""What a token is, by the numbers of GGUF."""

_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_ENDINGS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_UPPER, _LOWER = r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))"
_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _by_case(ending: str) -> str:
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{_UPPER}*{_LOWER}+{ending}|{before}{_UPPER}+{_LOWER}*{ending}"


@dataclass(frozen=True, slots=True)
class Split:
    """One way: patterns one after the other, each on the parts that the one before it left."""

    patterns: tuple[str, ...]
    whole_words: bool = False
    """Whether a word that is a token as it stands is taken so, whatever the merges say."""


SPLITS = {
    "gpt-2": Split((_GPT_2,)),
    "smollm": Split((r"\p{N}", _GPT_2)),
    "qwen2": Split((rf"{_WORD}|\p{{N}}{_REST}",)),
    "llama-bpe": Split((rf"{_WORD}|\p{{N}}{{1,3}}{_REST}",), whole_words=True),
    "dbrx": Split((rf"{_WORD}|\p{{N}}{{1,3}}{_REST}",)),
    "tekken": Split((rf"{_by_case('')}|\p{{N}}{_SLASHED}",), whole_words=True),
    "gpt-4o": Split((rf"{_by_case(f'{_ENDINGS}?')}|\p{{N}}{{1,3}}{_SLASHED}",)),
}
"""As src/llama-vocab.cpp of llama.cpp has them: its name → what it does. The plainest come first."""


def as_read(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], split: Split) -> Tokenizer:
    """The tokenizer that llama.cpp makes of what a file holds, special tokens in the text included."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    read = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=split.whole_words))
    cuts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in split.patterns]
    read.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    for kind, add in ((CONTROL, read.add_special_tokens), (USER_DEFINED, read.add_tokens)):
        add([AddedToken(token, normalized=False) for token, own in zip(tokens, types, strict=True) if own == kind])
    return read
