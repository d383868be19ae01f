"""One row as it will be learnt: the text, its tokens, which of them are trained on and where the limit cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from studio.dataset.conversing import Example
from studio.dataset.examples import Learnable, Maker, read
from studio.dataset.formats import ColumnMapping
from studio.dataset.lengths import as_text
from studio.dataset.mixing import content_key, is_held_out
from studio.dataset.preparation import Preparation
from studio.dataset.reasons import BadRow
from studio.dataset.rows import Rows
from studio.errors import InputError, StudioError
from studio.tokenizer import Piece, encode, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 20_000
"""Tokens that there are pieces for."""
_SHOWN_CHARS = 400_000  # more than 20,000 tokens have in any language


@dataclass(frozen=True, slots=True)
class Preview:
    """A row as it will be learnt, or why it will not be."""

    place: str
    """The file and the row in it."""
    way: Literal["chat template", "plain text", ""]
    """How it is written: a prompt with its completion goes through the chat template too, where there is one."""
    side: Literal["learn", "held out", "dropped"]
    """What it is for, where a share of the rows is held out."""
    text: str
    """Empty where the row cannot be read."""
    tokens: int
    pieces: tuple[Piece, ...]
    """The first of the tokens."""
    trained: tuple[int, ...]
    """Which tokens are trained on, of those within the limit."""
    kept: int
    """Tokens within the limit; what is behind them is cut off."""
    ends: bool | None
    """Whether every reply has its end-of-turn token among what is trained, within the limit; None where unknown."""
    note: str
    """What else is to be known of the mask."""
    reason: str
    """Why it is dropped, in the words of `Dropped`; empty where it is not."""
    message: str
    """The same with the place and the value."""
    hint: str


def preview(
    rows: Rows, index: int, tokenizer: PreTrainedTokenizerBase, mapping: ColumnMapping, preparation: Preparation
) -> Preview:
    """One row, counted from 0, as `prepare` would make it. Takes milliseconds.

    Raises InputError for a row or column that is not there, and what `prepare` raises for a whole source.
    """
    mapping.check(rows.columns)
    if not 0 <= index < rows.count:
        raise InputError(f"{rows.name} has no row {index + 1:,}.", f"Choose one from 1 to {rows.count:,}.")
    Maker(tokenizer, preparation).check(rows.name, mapping)
    row = rows.open().select_columns(list(mapping.used))[index]
    return example(tokenizer, row, mapping, preparation, place=rows.place(index))


def example(
    tokenizer: PreTrainedTokenizerBase,
    row: Mapping[str, Any],
    mapping: ColumnMapping,
    preparation: Preparation,
    *,
    place: str = "The row",
) -> Preview:
    """The same for a row that is at hand."""
    maker, read_as, learnable = Maker(tokenizer, preparation), None, None
    try:
        read_as = read(row, mapping, place)
        learnable = maker.cut(maker.mask(read_as, place))
        maker.make(read_as, place)
    except BadRow as error:
        refused: BadRow | None = error
    else:
        refused = None
    text = learnable.masked.text if learnable else _as_far_as_it_goes(tokenizer, read_as)
    ids = learnable.masked.ids if learnable else tuple(encode(tokenizer, text, special_tokens=False))
    held = read_as is not None and is_held_out(content_key(read_as), preparation.held_out, preparation.seed)
    return Preview(
        place=place,
        way="" if read_as is None else "chat template" if maker.as_chat(read_as) else "plain text",
        side="dropped" if refused else "held out" if held else "learn",
        text=text,
        tokens=len(ids),
        pieces=_pieces(tokenizer, text, ids),
        trained=_trained(learnable),
        kept=min(len(ids), preparation.limit),
        ends=learnable.ends if learnable else None,
        note=learnable.masked.note if learnable else "",
        reason=refused.reason.value if refused else "",
        message=refused.message if refused else "",
        hint=refused.hint if refused else "",
    )


def _trained(learnable: Learnable | None) -> tuple[int, ...]:
    if learnable is None:
        return ()
    return tuple(place for place, is_ in enumerate(learnable.masked.trained[: learnable.kept]) if is_)


def _as_far_as_it_goes(tokenizer: PreTrainedTokenizerBase, read_as: Example | None) -> str:
    """The text of a row that cannot be masked; empty where it cannot even be written."""
    if read_as is None:
        return ""
    try:
        return as_text(tokenizer, read_as)
    except StudioError:
        return ""


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str, ids: tuple[int, ...]) -> tuple[Piece, ...]:
    """The first tokens with all that is to be said of them; those around a plain text stand for nothing in it."""
    tokenized = tokenize(tokenizer, text[:_SHOWN_CHARS], special_tokens=False)
    begin = tuple(tokenized.ids[:1])
    before = next((place for place in range(len(ids)) if ids[place : place + 1] == begin), len(ids))
    inside = tokenized.window(0, min(SHOWN - before, len(ids) - before))
    # A text that is cut for this may end in other tokens than it goes on with.
    same = next((at for at, piece in enumerate(inside) if piece.id != ids[before + at]), len(inside))
    shown = [replace(piece, index=before + piece.index) for piece in inside[:same]]
    around = [_around(tokenizer, ids, place) for place in range(before)]
    behind = [_around(tokenizer, ids, place) for place in range(before + same, min(len(ids), SHOWN))]
    return (*around, *shown, *(behind if len(text) <= _SHOWN_CHARS else ()))


def _around(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...], place: int) -> Piece:
    token = str(tokenizer.convert_ids_to_tokens(ids[place]))
    return Piece(place, ids[place], token, "", tuple(token.encode()), None, None, None, "special", False)
