"""A vocabulary as HTML: what a search found, special tokens, what does not fit the model, and what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studio.inspection import Finding
from studio.tokenizer import AddedEntry, Census, Entry, Window
from studio.tokenizer.spelling import Spelling
from studio.ui import sheet, wording
from studio.ui.tokens_view import visible

SCRIPTS_SHOWN = 12
LENGTHS_SHOWN = 16
_FLAGS = {
    "lstrip": "takes the space before it",
    "rstrip": "takes the space behind it",
    "single_word": "whole words only",
    "normalized": "looked for after normalizing",
}


@dataclass(frozen=True, slots=True)
class About:
    """All that is said of a vocabulary without a search."""

    census: Census
    added: tuple[AddedEntry, ...]
    mismatches: tuple[Finding, ...]


def results(found: Window, how: Spelling, *, asked: bool) -> str:
    """A page of tokens, as they are spelled and as they read."""
    if not found.total:
        return wording.done("No token matches.")
    last = found.start + len(found.entries)
    what = "match" if asked else "in all"
    if found.total == 1:
        said = "One token matches." if asked else "One token in all."
    else:
        said = f"{found.total:,} tokens {what}; {found.start + 1:,} to {last:,} are shown."
    rows = [(f"{entry.id:,}", visible(entry.raw), _reads(entry, how), _kind(entry)) for entry in found.entries]
    return wording.done(said) + sheet.table(("Id", "Token", "Reads", "Kind"), rows)


def _reads(entry: Entry, how: Spelling) -> str:
    """The text; the bytes where it is a part of a character."""
    return how.bytes_of(entry.raw).hex(" ").upper() if _partial(entry) else visible(entry.text)


def _partial(entry: Entry) -> bool:
    return "\ufffd" in entry.text and "\ufffd" not in entry.raw


def _kind(entry: Entry) -> str:
    flags = (entry.special and "special", entry.added and "added", _partial(entry) and "part of a character")
    return ", ".join(flag for flag in flags if flag) or "text"


def about(found: About) -> str:
    """What the vocabulary holds, and whether it fits its model."""
    return f'<div class="sheet">{_facts(found.census)}{_fit(found)}{_added(found.added)}{_made_of(found.census)}</div>'


def _facts(census: Census) -> str:
    told = [
        (f"{census.tokens:,}", "tokens"),
        (f"{census.special:,}", "special"),
        (f"{census.added:,}", "added"),
        (f"{census.mean_length:.1f}", "characters a token"),
    ]
    return wording.facts(told)


def _fit(found: About) -> str:
    told = [(finding.severity, finding.message, finding.hint) for finding in found.mismatches]
    good = ("good", "Tokenizer, config.json and generation_config.json agree.", "")
    return sheet.findings(told or [good], label="Does it fit the model?")


def _added(added: Sequence[AddedEntry]) -> str:
    rows = [(f"{entry.id:,}", visible(entry.text), ", ".join(entry.roles), _flags(entry)) for entry in added]
    table = sheet.table(("Id", "Token", "Used as", "How it is looked for"), rows) if rows else wording.done("None.")
    return f"<div><h4>Special and added tokens</h4>{table}</div>"


def _flags(entry: AddedEntry) -> str:
    flags = ["special" if entry.special else "added", *(said for name, said in _FLAGS.items() if getattr(entry, name))]
    return ", ".join(flags)


def _made_of(census: Census) -> str:
    scripts = [(share.name, share.tokens) for share in census.scripts]
    lengths = [(f"{length}", count) for length, count in census.lengths]
    by_script = sheet.counted("By script", _cut(scripts, SCRIPTS_SHOWN, "other"), census.tokens)
    by_length = sheet.counted("By length in characters", _cut(lengths, LENGTHS_SHOWN, "longer"), census.tokens)
    longest = [(f"{entry.id:,}", visible(entry.text), f"{len(entry.text):,}") for entry in census.longest]
    folded = sheet.folded("The longest tokens", sheet.table(("Id", "Token", "Characters"), longest))
    return f'<div class="pair counted">{by_length}{by_script}</div>{folded}'


def _cut(counts: list[tuple[str, int]], most: int, rest: str) -> list[tuple[str, int]]:
    """The first of them, and the rest in one."""
    left = sum(count for _, count in counts[most:])
    return [*counts[:most], *([(rest, left)] if left else [])]
