"""How one word became its tokens: merge by merge, longest match by longest match, or the likeliest of many ways."""

from __future__ import annotations

import json
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from studio.errors import InputError, Unsupported
from studio.tokenizer.backend import own_backend, refusals, steps
from studio.tokenizer.merging import BytePairs, Merge, merge
from studio.tokenizer.pieces import check_text
from studio.tokenizer.segmenting import Match, Segmentation, Unigram, likeliest, longest_matches
from studio.tokenizer.splitting import Span, added_tokens, parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORD_CHARACTERS = 500
"""Longest word that is told step by step. A story of more steps than that is none, and takes seconds."""


@dataclass(frozen=True, slots=True)
class Part:
    """What the pre-tokenizer made of a word, and how the model took it apart."""

    text: str
    """As the model gets it, with its glyphs."""
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    added: bool = False
    """Whether it is an added token, which is taken whole before the model sees anything."""
    whole: bool = False
    """Whether a BPE found it in its vocabulary and looked at no merge."""
    begins_as: tuple[str, ...] = ()
    """The symbols that a BPE begins with."""
    merges: tuple[Merge, ...] = ()
    """What a BPE merges, in the order in which it does."""
    matches: tuple[Match, ...] = ()
    """What a WordPiece looks up, in order."""
    segmentations: tuple[Segmentation, ...] = ()
    """The likeliest ways of a Unigram, best first; the first is the one that it takes."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WordStory:
    """A word and how it became its tokens. `model` is the kind: BPE, WordPiece, Unigram or WordLevel."""

    word: str
    model: str
    parts: tuple[Part, ...]


def word_story(tokenizer: PreTrainedTokenizerBase, word: str, *, alternatives: int = 5) -> WordStory:
    """How a word, taken as a text of its own, became its tokens. A space in front belongs to it.

    Raises Unsupported without a Rust half, whose steps cannot be looked into, and InputError for what is no word.
    """
    check_text(word)
    if not word:
        raise InputError("There is no word.", "Choose one in the text, or type one.")
    if len(word) > WORD_CHARACTERS:
        raise InputError(
            f"The word has {len(word):,} characters.", f"Choose at most {WORD_CHARACTERS}: each is a step to look at."
        )
    backend = own_backend(tokenizer)
    if backend is None:
        raise Unsupported(
            "This tokenizer is written in Python: how it takes a word apart cannot be shown.",
            "Its tokens and ids are shown all the same.",
        )
    with refusals():
        added = added_tokens(backend, word)
    spans = parts(
        backend, word, added, normalizers=steps(backend.normalizer), pre_tokenizers=steps(backend.pre_tokenizer)
    )
    model = _model(tokenizer, backend) if any(span.id is None for span in spans) else {}
    told = (_added(backend, s) if s.id is not None else _part(backend, model, s.text, alternatives) for s in spans)
    return WordStory(word, type(backend.model).__name__, tuple(told))


def _added(backend: Any, span: Span) -> Part:
    assert span.id is not None
    return Part(span.text, (str(backend.id_to_token(span.id)),), (span.id,), added=True)


def _part(backend: Any, model: _Model, text: str, alternatives: int) -> Part:
    with refusals():
        found = backend.model.tokenize(text)
    # As the vocabulary has them: a Unigram gives back the text of what is unknown.
    tokens = tuple(str(backend.id_to_token(token.id)) for token in found)
    ids = tuple(token.id for token in found)
    if isinstance(model, BytePairs):
        told = merge(model, text)
        notes = ("Its dropout is on: it leaves out merges by chance.",) if backend.model.dropout else ()
        return Part(text, tokens, ids, whole=told.whole, begins_as=told.begins_as, merges=told.merges, notes=notes)
    if isinstance(model, Unigram):
        return Part(text, tokens, ids, segmentations=likeliest(model, text, alternatives))
    matches = longest_matches(model, text) if model["type"] == "WordPiece" else ()
    return Part(text, tokens, ids, matches=matches)


_Model = BytePairs | Unigram | dict[str, Any]
_MODELS: WeakKeyDictionary[PreTrainedTokenizerBase, _Model] = WeakKeyDictionary()
_READING = Lock()


def _model(tokenizer: PreTrainedTokenizerBase, backend: Any) -> _Model:
    """The model of tokenizer.json, made fit for looking up. A vocabulary of 128,000 takes a second, so it is kept."""
    with _READING:
        if (known := _MODELS.get(tokenizer)) is None:
            known = _MODELS[tokenizer] = _fit(json.loads(backend.to_str())["model"])
        return known


def _fit(model: dict[str, Any]) -> _Model:
    if model["type"] == "BPE":
        return BytePairs.of(model)
    return Unigram.of(model) if model["type"] == "Unigram" else model
