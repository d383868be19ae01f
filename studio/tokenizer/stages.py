"""What happens to a text on its way to a model, one stage after the other, as the tokenizer itself does it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from studio.tokenizer.backend import described, own_backend, refusals, steps
from studio.tokenizer.batch import BatchSettings, Grid, grid
from studio.tokenizer.pieces import check_text, unknown_id
from studio.tokenizer.spelling import spelling
from studio.tokenizer.splitting import Span, added_tokens, parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STAGES_CHARACTERS = 5_000
"""How much of a text goes through the stages; the first pages show all there is to see."""

Options = tuple[tuple[str, str], ...]
"""Names and values, as tokenizer.json writes them; long values are cut."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which tokenizer it is."""

    name: str
    """Its class in transformers."""
    written_in: Literal["Rust", "Python"]
    library: str
    """What does the work, with its version."""
    vocabulary: int
    """All its tokens, with the `added` ones, of which `special` are special."""
    added: int
    special: int
    longest: int | None
    """The longest row that the model was made for, in tokens; None where the tokenizer does not say."""


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a stage, by its name in tokenizer.json."""

    name: str
    options: Options


@dataclass(frozen=True, slots=True)
class Normalized:
    """What one normalizer did to the text."""

    step: Step
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class PreTokenized:
    """The parts after one pre-tokenizer."""

    step: Step
    parts: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class ModelWord:
    """One part, and the tokens that the model made of it."""

    part: Span
    tokens: tuple[str, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Addition:
    """A token that the post-processor put in, and where among all tokens."""

    index: int
    token: str
    id: int


@dataclass(frozen=True, slots=True)
class Stages:
    """The way of a text. What the tokenizer does not have, or does not show, is empty; `notes` says what and why."""

    identity: Identity
    text: str
    left_out: int
    """Characters at the end of the text that were not looked at."""
    encoded: Grid
    """What the model gets."""
    notes: tuple[str, ...]
    splits: tuple[Span, ...] = ()
    """The text, with its added tokens taken out first."""
    normalizers: tuple[Normalized, ...] = ()
    pre_tokenizers: tuple[PreTokenized, ...] = ()
    model: Step | None = None
    words: tuple[ModelWord, ...] = ()
    post_processors: tuple[Step, ...] = ()
    additions: tuple[Addition, ...] = ()
    truncation: Options = ()
    """As the files of the tokenizer set it; whoever calls it sets it anew."""
    padding: Options = ()


def stages(tokenizer: PreTrainedTokenizerBase, text: str, settings: BatchSettings | None = None) -> Stages:
    """Send a text through the stages. `settings` are those of the last one, which by default neither cuts nor fills.

    Raises InputError for a text that is none, and where the tokenizer refuses it or cannot follow the settings.
    """
    check_text(text)
    shown = text[:STAGES_CHARACTERS]
    settings = settings or BatchSettings(padding="off")
    encoded = grid(tokenizer, [shown], settings)
    backend = own_backend(tokenizer)
    common: dict[str, Any] = {
        "identity": _identity(tokenizer),
        "text": shown,
        "left_out": len(text) - len(shown),
        "encoded": encoded,
    }
    if backend is None:
        note = "The stages cannot be shown: this tokenizer is written in Python and does all of them in one."
        return Stages(**common, notes=(note, *encoded.notes))
    shared = tokenizer.backend_tokenizer
    return Stages(
        **common,
        **_looked_into(backend, shown),
        truncation=_options(shared.truncation),
        padding=_options(shared.padding),
    )


def _looked_into(backend: Any, text: str) -> dict[str, Any]:
    """The stages of a tokenizer in Rust."""
    with refusals():
        added = added_tokens(backend, text)
        whole = backend.encode(text)
        bare = backend.encode(text, add_special_tokens=False).ids
    normalizers, pre_tokenizers = steps(backend.normalizer), steps(backend.pre_tokenizer)

    def after(normalized: int, pre_tokenized: int) -> tuple[Span, ...]:
        some = {"normalizers": normalizers[:normalized], "pre_tokenizers": pre_tokenizers[:pre_tokenized]}
        return parts(backend, text, added, **some)

    texts = ["".join(span.text for span in after(count, 0)) for count in range(len(normalizers) + 1)]
    cut = [after(len(normalizers), count) for count in range(len(pre_tokenizers) + 1)]
    with refusals():
        words = tuple(_word(backend, part) for part in cut[-1])
    return {
        "splits": after(0, 0),
        "normalizers": tuple(
            Normalized(step, *texts[index : index + 2]) for index, step in enumerate(_named(backend.normalizer))
        ),
        "pre_tokenizers": tuple(
            PreTokenized(step, cut[index + 1]) for index, step in enumerate(_named(backend.pre_tokenizer))
        ),
        "model": _model(backend),
        "words": words,
        "post_processors": tuple(_named(backend.post_processor)),
        "additions": tuple(
            Addition(index, str(backend.id_to_token(id)), id)
            for index, (id, around) in enumerate(zip(whole.ids, whole.special_tokens_mask, strict=True))
            if around
        ),
        "notes": _notes(backend, [id for word in words for id in word.ids], bare),
    }


def _word(backend: Any, part: Span) -> ModelWord:
    if part.id is not None:
        return ModelWord(part, (str(backend.id_to_token(part.id)),), (part.id,))
    ids = tuple(token.id for token in backend.model.tokenize(part.text))
    return ModelWord(part, tuple(str(backend.id_to_token(id)) for id in ids), ids)


def _notes(backend: Any, ids: list[int], real: list[int]) -> tuple[str, ...]:
    if getattr(backend.model, "dropout", None):
        return ("The dropout of the model is on: it takes a text apart by chance, each time in another way.",)
    if ids != real:
        return ("The stages, one by one, give other tokens than the tokenizer in one go. Trust the last stage.",)
    return ()


def _identity(tokenizer: PreTrainedTokenizerBase) -> Identity:
    rust = getattr(tokenizer, "backend_tokenizer", None) is not None
    library = "tokenizers" if rust else "sentencepiece" if hasattr(tokenizer, "sp_model") else "transformers"
    special = set(tokenizer.all_special_ids)
    added = tokenizer.added_tokens_decoder
    return Identity(
        name=type(tokenizer).__name__,
        written_in="Rust" if rust else "Python",
        library=f"{library} {_version(library)}".strip(),
        vocabulary=len(tokenizer),
        added=len(added),
        special=sum(token.special or id in special for id, token in added.items()),
        # Where it does not say, transformers puts in 10^30.
        longest=int(longest) if (longest := tokenizer.model_max_length) < 10**9 else None,
    )


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _model(backend: Any) -> Step:
    names = (
        *("unk_token", "byte_fallback", "fuse_unk", "dropout", "ignore_merges", "continuing_subword_prefix"),
        *("end_of_word_suffix", "max_input_chars_per_word", "alpha", "nbest_size"),
    )
    options = {name: getattr(backend.model, name) for name in names if hasattr(backend.model, name)}
    if "unk_token" not in options:  # a Unigram does not tell
        unknown = unknown_id(backend)
        options["unk_token"] = None if unknown is None else backend.id_to_token(unknown)
        options["byte_fallback"] = spelling(backend).byte_fallback
    return Step(type(backend.model).__name__, _options(options))


def _named(component: Any | None) -> list[Step]:
    return [
        Step(part["type"], _options({key: value for key, value in part.items() if key != "type"}))
        for part in described(component)
    ]


def _options(options: dict[str, Any] | None) -> Options:
    # Some are long: a table of characters has 300 kB.
    written = ((name, json.dumps(value, ensure_ascii=False)) for name, value in (options or {}).items())
    return tuple((name, value if len(value) <= 200 else f"{value[:199]}…") for name, value in written)
