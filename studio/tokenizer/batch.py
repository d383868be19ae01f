"""Several texts, or pairs of texts, as the grid that a model gets: cut, padded, and with a mask."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.errors import InputError
from studio.fields import check
from studio.tokenizer.backend import own_backend, refusals
from studio.tokenizer.pieces import check_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_TEXTS = 1_000
"""How many texts are taken at once."""

_SIDES = ("as the tokenizer", "right", "left")


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How texts of different lengths become rows of the same length."""

    special_tokens: bool = field(
        default=True, metadata={"help": "Put the tokens around each text that the tokenizer has for that"}
    )
    padding: str = field(
        default="longest",
        metadata={
            "help": "Fill shorter rows up to the longest one, or up to the longest length that is allowed",
            "choices": ("off", "longest", "max length"),
        },
    )
    padding_side: str = field(
        default="as the tokenizer",
        metadata={
            "help": "Where to fill up; models that write need left, or they go on after the padding",
            "choices": _SIDES,
        },
    )
    pad_to_multiple_of: int | None = field(
        default=None,
        metadata={"help": "Fill up to a multiple of this; 8 suits the matrix units of a GPU", "min": 1, "max": 1024},
    )
    truncation: str = field(
        default="off",
        metadata={
            "help": "What to cut when a row is too long: of a pair the longer text, or always the first or second",
            "choices": ("off", "longest first", "only first", "only second"),
        },
    )
    truncation_side: str = field(
        default="as the tokenizer", metadata={"help": "Which end of a text is cut off", "choices": _SIDES}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Longest row, in tokens; needed to cut", "min": 1, "max": 1_000_000}
    )
    overflow: bool = field(default=False, metadata={"help": "Keep what is cut off, as further rows"})
    stride: int = field(
        default=0, metadata={"help": "How many tokens a further row repeats of the one before", "min": 0, "max": 4096}
    )

    def __post_init__(self) -> None:
        check(self)
        if self.max_length is None and (self.truncation != "off" or self.padding == "max length"):
            raise InputError("Max length is not set.", "Say how long a row may be, or switch cutting and filling off.")
        if self.overflow and self.truncation == "off":
            raise InputError(
                "Nothing is cut off, so there are no further rows.", "Choose what to cut under Truncation."
            )
        if (
            self.truncation != "off"
            and self.padding != "off"
            and (self.max_length or 0) % (self.pad_to_multiple_of or 1)
        ):
            raise InputError(
                f"Max length is {self.max_length}, which is no multiple of {self.pad_to_multiple_of}.",
                f"Rows are filled up to multiples of {self.pad_to_multiple_of}: choose one as the Max length.",
            )
        if self.stride and not self.overflow:
            raise InputError(f"Stride is {self.stride} without further rows.", "Switch Overflow on, or set it to 0.")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the grid."""

    text: int
    """Which text or pair it is of."""
    part: int
    """0 for the text, 1 and up for what was cut off of it."""
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    attention: tuple[int, ...]
    types: tuple[int, ...]
    """0 for the first and 1 for the second of a pair; empty where the model does not tell them apart."""
    special: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    """Characters of the text of each token; empty where the tokenizer keeps none."""
    sequences: tuple[int | None, ...]
    """Which text of the pair a token is of; None for special ones. Empty like the offsets."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What a model gets. `cells` counts all places of the grid, `padded` those that are filling."""

    rows: tuple[Row, ...]
    cells: int
    padded: int
    cut: int
    """Tokens that were cut off and are in no row."""
    notes: tuple[str, ...]
    """What the tokenizer could not do, in sentences."""


def grid(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    settings: BatchSettings,
    *,
    seconds: Sequence[str] | None = None,
) -> Grid:
    """The rows of some texts, or of pairs of `texts` and `seconds`. The tokenizer is left as it was.

    Raises InputError where the settings cannot be had with this tokenizer.
    """
    _check_texts(texts, seconds)
    if settings.padding != "off" and tokenizer.pad_token_id is None:
        end = tokenizer.eos_token
        raise InputError(
            "This tokenizer has no token to fill up with.",
            f"Set its pad_token, for example to its end-of-text token {end!r}, or switch Padding off."
            if end
            else "Give it a pad_token, or switch Padding off.",
        )
    own = _own_tokenizer(tokenizer, settings)
    lengths = _lengths(own, texts, seconds) if settings.truncation != "off" else []
    _check_lengths(own, settings, lengths, pairs=seconds is not None)
    backed = getattr(own, "backend_tokenizer", None) is not None
    options: dict[str, Any] = {"return_offsets_mapping": True} if backed else {}
    if backed and settings.overflow:
        options |= {"return_overflowing_tokens": True, "stride": settings.stride}
    with refusals():
        encoded = own(
            list(texts),
            list(seconds) if seconds is not None else None,
            add_special_tokens=settings.special_tokens,
            padding={"off": False, "longest": "longest", "max length": "max_length"}[settings.padding],
            truncation=settings.truncation.replace(" ", "_") if settings.truncation != "off" else False,
            max_length=settings.max_length,
            pad_to_multiple_of=settings.pad_to_multiple_of if settings.padding != "off" else None,
            return_special_tokens_mask=True,
            verbose=False,
            **options,
        )
    rows = _rows(own, encoded, backed)
    cells = sum(len(row.ids) for row in rows)
    return Grid(
        rows=rows,
        cells=cells,
        padded=cells - sum(sum(row.attention) for row in rows),
        cut=_cut(rows, lengths),
        notes=_notes(backed, settings),
    )


def _check_texts(texts: Sequence[str], seconds: Sequence[str] | None) -> None:
    if not texts:
        raise InputError("There are no texts.", "Write one text in each line.")
    if len(texts) > BATCH_TEXTS:
        raise InputError(f"These are {len(texts):,} texts.", f"At most {BATCH_TEXTS:,} are taken at once.")
    if seconds is not None and len(seconds) != len(texts):
        raise InputError(
            f"There are {len(texts):,} first and {len(seconds):,} second texts.", "A pair needs one of each."
        )
    check_text("".join(texts) + "".join(seconds or ()))


def _own_tokenizer(tokenizer: PreTrainedTokenizerBase, settings: BatchSettings) -> Any:
    """The tokenizer with its own Rust half and sides, so that whoever else uses it notices nothing."""
    own = copy.copy(tokenizer)
    if (backend := own_backend(tokenizer)) is not None:
        own._tokenizer = backend
    if settings.padding_side != _SIDES[0]:
        own.padding_side = settings.padding_side
    if settings.truncation_side != _SIDES[0]:
        own.truncation_side = settings.truncation_side
    return own


def _lengths(tokenizer: Any, texts: Sequence[str], seconds: Sequence[str] | None) -> list[tuple[int, int]]:
    """How many tokens each text, and the second of its pair, has by itself."""

    def each(some: Sequence[str]) -> list[int]:
        with refusals():
            return [len(ids) for ids in tokenizer(list(some), add_special_tokens=False, verbose=False)["input_ids"]]

    return list(zip(each(texts), each(seconds) if seconds is not None else [0] * len(texts), strict=True))


def _check_lengths(tokenizer: Any, settings: BatchSettings, lengths: list[tuple[int, int]], *, pairs: bool) -> None:
    """Refuse what the tokenizer would refuse without saying which text it is about, or not do without a word."""
    if settings.truncation == "off" or settings.max_length is None:
        return
    if not pairs and settings.truncation == "only second":
        raise InputError("There is no second text to cut.", "Choose longest first or only first.")
    if pairs and settings.stride and settings.truncation == "longest first":
        raise InputError(
            "Which text of a pair a further row would repeat tokens of is not defined with longest first.",
            "Choose only first or only second under Truncation, or set Stride to 0.",
        )
    around = tokenizer.num_special_tokens_to_add(pair=pairs) if settings.special_tokens else 0
    for number, (first, second) in enumerate(lengths, start=1):
        kept = {"longest first": 0, "only first": second, "only second": first}[settings.truncation]
        room = settings.max_length - around - kept
        if first + second + around > settings.max_length and room <= settings.stride:
            what = f"{around} special tokens and {kept} of the other text" if kept else f"{around} special tokens"
            raise InputError(
                f"Text {number} does not fit: besides {what}, a row of {settings.max_length} tokens has room for "
                f"{max(room, 0)}" + (f", and {settings.stride} would be repeated." if settings.stride else "."),
                "Choose a larger Max length or a smaller Stride, or cut the other text."
                if kept
                else "Choose a larger Max length or a smaller Stride.",
            )


def _rows(tokenizer: Any, encoded: Any, backed: bool) -> tuple[Row, ...]:
    rows: list[Row] = []
    text_of = encoded.get("overflow_to_sample_mapping") or range(len(encoded["input_ids"]))
    types = encoded.get("token_type_ids")
    for index, ids in enumerate(encoded["input_ids"]):
        text = text_of[index]
        rows.append(
            Row(
                text=text,
                part=rows[-1].part + 1 if rows and rows[-1].text == text else 0,
                tokens=tuple(str(token) for token in tokenizer.convert_ids_to_tokens(ids)),
                ids=tuple(ids),
                attention=tuple(encoded["attention_mask"][index]),
                types=tuple(types[index]) if types else (),
                special=tuple(encoded["special_tokens_mask"][index]),
                offsets=tuple(encoded["offset_mapping"][index]) if backed else (),
                sequences=tuple(encoded.sequence_ids(index)) if backed else (),
            )
        )
    return tuple(rows)


def _cut(rows: tuple[Row, ...], lengths: list[tuple[int, int]]) -> int:
    """Tokens that are in no row: further rows leave nothing out."""
    further = {row.text for row in rows if row.part}
    kept = {
        row.text: sum(seen and not special for seen, special in zip(row.attention, row.special, strict=True))
        for row in rows
    }
    return sum(first + second - kept[text] for text, (first, second) in enumerate(lengths) if text not in further)


def _notes(backed: bool, settings: BatchSettings) -> tuple[str, ...]:
    notes = []
    if not backed:
        notes.append("This tokenizer is written in Python: it does not tell which characters a token stands for.")
        if settings.overflow:
            notes.append("It gives no further rows either; what is cut off is lost.")
    return tuple(notes)
