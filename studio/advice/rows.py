"""Rules on rows: which are left out, which teach little, and which do not teach where to stop."""

from __future__ import annotations

from collections.abc import Iterator

from studio.advice.conversations import end_not_trained
from studio.advice.rule import Advice
from studio.dataset import Prepared, Preview
from studio.tokenizer import EndOfTurn

_FEW = 2
_MANY = 0.05


def on_row(shown: Preview, end: EndOfTurn | None) -> list[Advice]:
    """What to know about one row as it will be learnt; `end` is what ends a turn of this model, if that can be told."""
    return [*_nothing_to_train(shown), *_end_cut_off(shown), *(_row_without_end(shown, end) if end else ())]


def on_examples(prepared: Prepared) -> list[Advice]:
    """What to know about all rows, once they are examples."""
    return [advice for rule in (_dropped_rows, _endless_examples) for advice in rule(prepared)]


def _nothing_to_train(shown: Preview) -> Iterator[Advice]:
    if shown.reason:
        yield Advice(
            "nothing-to-train",
            "warning",
            f"This row is left out: {shown.reason}. {shown.message} {shown.hint}",
            "made as it would be for training",
        )
    elif len(shown.trained) < _FEW:
        yield Advice(
            "nothing-to-train",
            "note",
            f"{len(shown.trained)} of {shown.kept:,} tokens are trained on: the row costs all of them and teaches few.",
            "read off its mask",
        )


def _end_cut_off(shown: Preview) -> Iterator[Advice]:
    if not shown.reason and shown.ends is False and shown.kept < shown.tokens:
        yield Advice(
            "eos-not-trained",
            "warning",
            f"The limit cuts {shown.tokens - shown.kept:,} of {shown.tokens:,} tokens off, the end of the reply among"
            " them: such a row does not teach where to stop. Raise the limit, or drop longer rows.",
            "read off its mask",
        )


def _row_without_end(shown: Preview, end: EndOfTurn) -> Iterator[Advice]:
    if not shown.reason and shown.way == "chat template" and (shown.ends or shown.kept == shown.tokens):
        yield from end_not_trained(shown.ends, end, shown.tokens)


def _dropped_rows(prepared: Prepared) -> Iterator[Advice]:
    for lot in prepared.dropped:
        rare = lot.rows < _MANY * prepared.rows
        yield Advice(
            "nothing-to-train",
            "note" if rare else "warning",
            f"{lot.rows:,} of {prepared.rows:,} rows are left out ({lot.reason}), the first at {lot.places[0]}:"
            f" {lot.example}",
            "counted while the examples were made",
        )


def _endless_examples(prepared: Prepared) -> Iterator[Advice]:
    made = prepared.learn.count + (prepared.held_out.count if prepared.held_out else 0)
    if prepared.endless:
        cut = f" {prepared.cut:,} were cut at the limit, with {prepared.lost:,} tokens." if prepared.cut else ""
        yield Advice(
            "eos-not-trained",
            "warning" if prepared.endless >= _MANY * made else "note",
            f"{prepared.endless:,} of {made:,} examples do not teach where to stop: no end of a reply is trained on."
            f"{cut} Raise the limit, drop longer rows, or use a template that ends its replies.",
            "counted while the examples were made",
        )
