"""A dataset in tokens as HTML and as bars. Every text of the data is escaped."""

from __future__ import annotations

from typing import Any

from studio.dataset import Collision, CutOff, FailedRow, Lengths, Split
from studio.jobs import Measured, Offer
from studio.ui import sheet, wording

LEAST_SURE = 0.7
"""Below this a person is asked to look at what was recognised."""


def what_is_there(offer: Offer, split: Split) -> str:
    """What was chosen and what it takes, before anything is downloaded or read."""
    rows = f", {split.rows:,} rows by its card" if split.rows is not None else ""
    fetched = offer.to_download(split)
    size = f"{wording.size(fetched)} to download" if fetched else wording.size(split.bytes)
    name = f"{offer.name}, {split.name}" if len(offer.layout.splits) > 1 else offer.name
    return wording.done(f"{name}: {size}{rows}.")


def summary(measured: Measured) -> str:
    """How many tokens, how they were read, and how long the rows are."""
    lengths, recognition = measured.lengths, measured.recognition
    read = lengths.rows - lengths.failed
    told = [(f"{tokens:,}", _share(share)) for share, tokens in lengths.percentiles]
    head = sheet.headline(
        f"{_rows(read)}, {lengths.tokens:,} tokens for {measured.model}",
        f"Read as {recognition.mapping.format}. {recognition.why.rstrip('.')}.",
        good=recognition.confidence >= LEAST_SURE,
    )
    return f'<div class="sheet">{head}{wording.facts([*told, (f"{lengths.tokens / read:,.1f}", "on average")])}</div>'


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _share(percent: int) -> str:
    names = {50: "tokens at most in half of the rows", 100: "in the longest"}
    return names.get(percent, f"in {percent} %")


def histogram(lengths: Lengths) -> dict[str, Any]:
    """What makes a bar plot of the lengths."""
    import pandas

    bins = lengths.histogram
    first = next(place for place, each in enumerate(bins) if each.rows)
    width = next(each.end - each.start for each in bins if each.end is not None)
    value = pandas.DataFrame(
        {"tokens": [each.start for each in bins[first:]], "rows": [each.rows for each in bins[first:]]}
    )
    last = bins[-1]
    return {
        "value": value,
        "x_bin": width,
        "x_lim": [bins[first].start, last.start + width],
        "label": f"Rows by length, {width:,} token{'' if width == 1 else 's'} a bar",
    }


def beyond(lengths: Lengths) -> str:
    """What the last bar stands for where a few rows are longer than all others."""
    last = lengths.histogram[-1]
    if last.end is not None:
        return ""
    return wording.done(f"The last bar is for {last.start:,} tokens and more: {_rows(last.rows)}.")


def cut_off(cut: CutOff) -> str:
    """What a limit costs and saves."""
    if cut.truncated:
        rows = f"{_percent(cut.truncated_share)} of the rows are cut ({cut.truncated:,})"
        cost = f"{rows}, {_percent(cut.lost_share)} of the tokens are lost"
    else:
        cost = "no row is cut"
    batch = cut.saved_against_batch
    other = f"{_percent(abs(batch))} {'less' if batch >= 0 else 'more'} than with batches padded to their longest row"
    return wording.done(
        f"At {cut.limit:,}: {cost}. Packing saves {_percent(cut.saved_against_limit)} of the tokens computed, against "
        f"rows padded to the limit: {cut.bins:,} sequences in all, {other}."
    )


def _percent(share: float) -> str:
    """With a digit behind the point where that is not nothing."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{share:.0%}".replace("%", " %") if share >= 0.1 or not share else f"{share:.1%}".replace("%", " %")


def details(measured: Measured) -> str:
    """What stands out: rows that failed, special tokens in the text, and the longest rows."""
    lengths = measured.lengths
    parts = []
    if lengths.failed:
        parts.append(_failures(lengths.failures, lengths.failed))
    if lengths.colliding:
        parts.append(_collisions(lengths.collisions, lengths.colliding))
    longest = [(row.place, f"{row.tokens:,}", row.beginning) for row in lengths.longest]
    parts.append(sheet.folded(f"The {len(longest)} longest rows", sheet.table(("Row", "Tokens", "Begins"), longest)))
    return f'<div class="sheet outstanding">{"".join(parts)}</div>'


def _failures(failures: tuple[FailedRow, ...], count: int) -> str:
    shown = f", the first {len(failures)}" if count > len(failures) else ""
    head = wording.caution(f"Left out, as it cannot be read: {_rows(count)}{shown}.")
    return head + sheet.table(("Why",), [(each.reason,) for each in failures])


def _collisions(collisions: tuple[Collision, ...], count: int) -> str:
    shown = f", the first {len(collisions)}" if count > len(collisions) else ""
    head = wording.caution(f"A special token is spelled out in {_rows(count)}, and read as the token itself{shown}.")
    rows = [(each.place, each.column, each.token, each.around) for each in collisions]
    return head + sheet.table(("Row", "Column", "Token", "Text around it"), rows)
