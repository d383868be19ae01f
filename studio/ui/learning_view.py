"""What a trained tokenizer became, as HTML: its size and why, its files, and a text in its tokens."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from studio.tokenizer import Comparison, Learned
from studio.tokenizer.pieces import Piece
from studio.ui import sheet, tokens_view, wording


def learned(found: Learned, current: str, pieces: Sequence[Piece], total: int) -> str:
    """The outcome of a training; `current` is the model it was compared with, `pieces` the beginning of a text."""
    whole = found.vocabulary == found.asked
    size = f"{found.vocabulary:,} tokens" if whole else f"{found.vocabulary:,} of {found.asked:,} tokens"
    head = sheet.headline(
        f"Learned {size} in {wording.duration(found.seconds)}",
        f"{found.folder}, {wording.size(found.weight)}. {_better(found.comparison, current)}",
        good=True,
    )
    facts = [
        (f"{found.texts:,}", "texts read"),
        (f"{found.characters:,}", "characters"),
        (f"{found.held_out:,}", "pieces held out"),
        (f"{found.came_back:,} of {found.held_out:,}", "of them come back the same"),
    ]
    warnings = "".join(wording.caution(warning) for warning in found.warnings)
    parts = [head, wording.facts(facts), warnings, _comparison(found.comparison, current), _files(Path(found.folder))]
    return f'<div class="sheet">{"".join(parts)}</div>{_sample(pieces, total)}'


def _better(comparison: Comparison | None, current: str) -> str:
    """How many tokens it needs against the other one."""
    if comparison is None:
        return "No text was held out, so that there is nothing to compare it on."
    ours, theirs = (sum(row.counts[place].tokens for row in comparison.rows) for place in (0, 1))
    if ours == theirs or not theirs:
        return f"On held-out text it needs as many tokens as {current}."
    word = "fewer" if ours < theirs else "more"
    return f"On held-out text it needs {abs(1 - ours / theirs):.0%} {word} tokens than {current}.".replace("%", " %")


def _comparison(comparison: Comparison | None, current: str) -> str:
    if comparison is None:
        return ""
    names = ("This one", current)
    rows = [
        (
            name,
            f"{contender.vocabulary:,}",
            f"{counts.tokens:,}",
            _ratio(counts.tokens_per_word),
            _ratio(counts.bytes_per_token),
            f"{counts.unknown:,}",
        )
        for row in comparison.rows
        for name, contender, counts in zip(names, comparison.tokenizers, row.counts, strict=True)
    ]
    head = ("On held-out text", "Vocabulary", "Tokens", "Tokens a word", "Bytes a token", "Unknown")
    return sheet.table(head, rows)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _files(folder: Path) -> str:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    rows = [(file.name, wording.size(file.stat().st_size)) for file in files]
    return sheet.folded(f"{len(files)} files", sheet.table(("File", "Size"), rows))


def _sample(pieces: Sequence[Piece], total: int) -> str:
    if not pieces:
        return ""
    part = f", the first {len(pieces):,} of {total:,} tokens" if len(pieces) < total else f", {total:,} tokens"
    title = html.escape(f"The text above in its tokens{part}")
    return f'<h4 class="sample">{title}</h4>{tokens_view.tokens(pieces, total=total)}'
