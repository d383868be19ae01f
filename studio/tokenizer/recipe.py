"""How a tokenizer is to be trained: the settings, and which of them contradict each other."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from studio.errors import InputError
from studio.fields import check

BYTES = 256
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Kind(StrEnum):
    """How a vocabulary is found and used."""

    BYTE_LEVEL = "byte-level BPE"  # GPT-2, Llama 3, Qwen: starts from 256 bytes, so that nothing is unknown
    BYTE_FALLBACK = "BPE with byte fallback"  # Llama 2, Gemma: characters, and bytes for those that are not there
    WORDPIECE = "WordPiece"  # BERT: the longest piece first; a word with a new character is unknown
    UNIGRAM = "Unigram"  # T5: the likeliest way to cut a text


class Normalizer(StrEnum):
    """What is done to a text before it is split. All but `none` lose something for good."""

    NONE = "none"
    NFC = "NFC"  # one code point for a letter with its accent
    NFKC = "NFKC"  # the same, and one form for wide, small and raised characters
    LOWERCASE = "lowercase"
    BERT = "BERT-like"  # no accents, no capitals, no control characters, spaces around Chinese ones


class Split(StrEnum):
    """Where no token may reach across."""

    USUAL = "usual for the kind"
    DIGITS_APART = "words, each digit apart"  # GPT-2's, as of Qwen: numbers are read digit by digit
    DIGITS_GROUPED = "words, digits grouped"  # GPT-2's
    WHITESPACE = "whitespace"  # punctuation stays with its word, but for WordPiece
    METASPACE = "Metaspace"  # each space begins a word, written as ▁


class Template(StrEnum):
    """What the tokenizer says about conversations."""

    NONE = "none"
    SMALL = "small"
    OWN = "own"


_USUAL = {
    Kind.BYTE_LEVEL: Split.DIGITS_APART,
    Kind.BYTE_FALLBACK: Split.METASPACE,
    Kind.WORDPIECE: Split.WHITESPACE,
    Kind.UNIGRAM: Split.METASPACE,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a tokenizer is trained. An empty special token is one that the tokenizer does without."""

    kind: str = field(
        default=Kind.BYTE_LEVEL,
        metadata={
            "help": "Byte-level BPE suits every text; Unigram takes minutes where it takes seconds",
            "choices": tuple(Kind),
        },
    )
    vocabulary_size: int = field(
        default=8192,
        metadata={"help": "Tokens at most, the special ones included", "min": 16, "max": 262_144},
    )
    minimum_frequency: int | None = field(
        default=None,
        metadata={"help": "How often a pair must occur to become a token; 2 if not set", "min": 1, "max": 10_000},
    )
    normalizer: str = field(
        default=Normalizer.NONE,
        metadata={"help": "What is done to each text first; all but none lose something", "choices": tuple(Normalizer)},
    )
    split: str = field(default=Split.USUAL, metadata={"help": "Where no token reaches across", "choices": tuple(Split)})
    longest_token: int | None = field(
        default=None,
        metadata={"help": "In characters, in bytes for byte-level BPE; any if not set", "min": 2, "max": 256},
    )
    end_token: str = field(default="<|end|>", metadata={"help": "Ends a text or a turn"})
    pad_token: str = field(default="<|pad|>", metadata={"help": "Fills rows of different length"})
    begin_token: str = field(default="", metadata={"help": "Put in front of every text; empty for none"})
    unknown_token: str = field(
        default="<|unknown|>", metadata={"help": "For what is not known; WordPiece and Unigram alone have it"}
    )
    more_tokens: str = field(
        default="<|system|> <|user|> <|assistant|>", metadata={"help": "Further special tokens, with spaces between"}
    )
    template: str = field(
        default=Template.SMALL,
        metadata={"help": "Chat template: none, a small one of ours, or your own", "choices": tuple(Template)},
    )
    own_template: str = field(default="", metadata={"help": "Your chat template, in Jinja", "lines": 5})

    def __post_init__(self) -> None:
        check(self)
        self._check_tokens()
        self._check_kind()
        self._check_template()
        if self.vocabulary_size < self.least_size:
            raise InputError(
                f"A vocabulary of {self.vocabulary_size} is too small: {len(self.special_tokens)} special tokens"
                + (f" and {BYTES} bytes" if self.holds_bytes else "")
                + " have to be in it.",
                f"Choose at least {self.least_size}.",
            )

    @property
    def holds_bytes(self) -> bool:
        """Whether every byte is a token, so that nothing is unknown."""
        return self.kind in (Kind.BYTE_LEVEL, Kind.BYTE_FALLBACK)

    @property
    def least_size(self) -> int:
        """The smallest vocabulary, whatever the text."""
        return len(self.special_tokens) + (BYTES if self.holds_bytes else 1)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """In the order of their ids, from 0 on."""
        unknown = "" if self.holds_bytes else self.unknown_token
        named = (self.pad_token, self.end_token, self.begin_token, unknown)
        return (*(token for token in named if token), *self.more_tokens.split())

    @property
    def cuts(self) -> Split:
        """Where no token reaches across, with what is usual spelt out."""
        return _USUAL[Kind(self.kind)] if self.split == Split.USUAL else Split(self.split)

    def _check_tokens(self) -> None:
        tokens = self.special_tokens
        if twice := sorted({token for token in tokens if tokens.count(token) > 1}):
            raise InputError(
                f"{twice[0]!r} is two special tokens at once.",
                "Give each its own: a model whose padding is its end token learns not to stop.",
            )
        for token in tokens:
            if token.split() != [token] or _LONE_SURROGATE.search(token):
                raise InputError(f"{token!r} cannot be a special token.", "Write it without spaces, such as <|end|>.")
            if self.kind == Kind.BYTE_FALLBACK and _BYTE_TOKEN.fullmatch(token):
                raise InputError(f"{token} stands for a byte already.", "Choose another name, such as <|end|>.")

    def _check_kind(self) -> None:
        if not self.holds_bytes and not self.unknown_token:
            raise InputError(
                f"{self.kind} needs an unknown token.", "Write one, such as <|unknown|>, or choose byte-level BPE."
            )
        if self.kind == Kind.WORDPIECE and self.cuts != Split.WHITESPACE:
            raise InputError(f"WordPiece knows no spaces, and {self.split} keeps them.", "Split at whitespace.")
        if self.kind == Kind.BYTE_LEVEL and self.cuts == Split.METASPACE:
            raise InputError(
                "Byte-level BPE has its own sign for a space, and Metaspace brings another.",
                "Choose another split, or BPE with byte fallback.",
            )
        if self.kind == Kind.UNIGRAM and self.minimum_frequency is not None:
            raise InputError("Unigram knows no minimum frequency.", "Leave it empty.")
        if self.kind == Kind.WORDPIECE and self.longest_token is not None:
            raise InputError("WordPiece knows no longest token.", "Leave it empty.")

    def _check_template(self) -> None:
        if self.template == Template.SMALL and not self.end_token:
            raise InputError("The small chat template ends turns with the end token.", "Write one, such as <|end|>.")
        if self.template == Template.OWN and not self.own_template.strip():
            raise InputError("There is no chat template of your own.", "Write it, or choose the small one.")
        if self.template != Template.OWN and self.own_template.strip():
            raise InputError(
                f"There is a chat template of your own, and {self.template} is chosen.", "Choose own, or empty it."
            )
