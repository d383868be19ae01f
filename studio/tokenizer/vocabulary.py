"""All tokens of a tokenizer as people read them, and a search among them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from studio.errors import InputError
from studio.tokenizer.reading import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEARCH_SECONDS = 2.0
"""How long a regular expression may search. A sound one takes half a second for 256,000 tokens."""
LONGEST_QUERY = 200  # characters
LARGEST_WINDOW = 1000  # tokens
By = Literal["text", "id", "pattern"]
_HINT = "Write a regular expression such as ^ing$ or \\d{3}; put a backslash before . * + ? ( ) [ ] to find it itself."


@dataclass(frozen=True, slots=True)
class Entry:
    """A token."""

    id: int
    raw: str
    """As the vocabulary has it, such as "Ġworld"."""
    text: str
    """As it reads, such as " world"; bytes that are no whole character are shown as \ufffd."""
    special: bool
    added: bool


@dataclass(frozen=True, slots=True)
class Window:
    """Some of what was found."""

    entries: tuple[Entry, ...]
    start: int
    total: int
    """How many were found in all."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every token, in the order of the ids; ids that no token has are left out."""

    entries: tuple[Entry, ...]
    folded: tuple[str, ...]
    """Text and raw form of each, without a difference of case, to search in."""
    position: dict[int, int]
    """Id → where its entry stands."""
    size: int
    """What the tokenizer said of its length then."""


def all_tokens(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """All tokens. Made once for a tokenizer, in about a second for 256,000 tokens, and kept as long as it."""
    kept = _KEPT.get(tokenizer)
    if kept is None or kept.size != len(tokenizer):
        kept = _KEPT[tokenizer] = _made(tokenizer)
    return kept


_KEPT: WeakKeyDictionary[Any, Vocabulary] = WeakKeyDictionary()


def search(
    tokenizer: PreTrainedTokenizerBase, query: str, *, by: By = "text", start: int = 0, count: int = 100
) -> Window:
    """A window of the tokens that match; all of them where the query is empty.

    By text those that read exactly so come first, then those the query is made of, then those that contain it, as they
    read or in their raw form, in either case. By id: one, several, or ranges such as 5, 8, 100-120. By a regular
    expression, anywhere in either form, case counts. Raises InputError where the query is none.
    """
    if start < 0 or not 1 <= count <= LARGEST_WINDOW:
        raise InputError(f"There is no window of {count} tokens from {start}.", f"Ask for 1 to {LARGEST_WINDOW}.")
    if len(query) > LONGEST_QUERY:
        message = f"The search has {len(query)} characters, more than {LONGEST_QUERY}."
        raise InputError(message, "Search for less: a token is a word at most.")
    known = all_tokens(tokenizer)
    if not query:
        found: list[int] | range = range(len(known.entries))
    elif by == "id":
        found = list(dict.fromkeys(_by_id(known, query)))
    else:
        found = _by_text(tokenizer, known, query) if by == "text" else list(_by_pattern(known, query))
    return Window(tuple(known.entries[place] for place in found[start : start + count]), start, len(found))


def _by_text(tokenizer: PreTrainedTokenizerBase, known: Vocabulary, query: str) -> list[int]:
    needle = query.casefold()
    contains = [place for place, folded in enumerate(known.folded) if needle in folded]
    read = [place for place in contains if query in (known.entries[place].text, known.entries[place].text.strip())]
    raw = [place for place in contains if query == known.entries[place].raw]
    tokens = encode(tokenizer, query, special_tokens=False)
    made_of = [known.position[token] for token in tokens if token in known.position]
    return list(dict.fromkeys([*read, *raw, *made_of, *contains]))


def _by_id(known: Vocabulary, query: str) -> Iterator[int]:
    for part in query.replace(",", " ").split():
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"{part!r} is no id of a token.", "Write numbers, or a range such as 100-120.")
        low, high = int(first), int(last or first)
        if low == high:
            yield from [known.position[low]] if low in known.position else []
        else:
            yield from (place for place, entry in enumerate(known.entries) if low <= entry.id <= high)


def _by_pattern(known: Vocabulary, query: str) -> Iterator[int]:
    """Python's re cannot be stopped inside of a match; regex, which transformers brings along, can."""
    import regex

    try:
        pattern = regex.compile(query)
    except (regex.error, OverflowError, RecursionError) as error:
        raise InputError(f"This is no regular expression: {error}", _HINT) from error
    end, simple = time.monotonic() + SEARCH_SECONDS, _takes_few_steps(query)
    try:
        for place, entry in enumerate(known.entries):
            for form in (entry.text, entry.raw) if entry.text != entry.raw else (entry.raw,):
                # Each match is given what is left: one alone can take years.
                if pattern.search(form) if simple else pattern.search(form, timeout=max(0.0, end - time.monotonic())):
                    yield place
                    break
    except TimeoutError:
        raise InputError(
            f"The pattern was still searching after {SEARCH_SECONDS:g} seconds.",
            "Write it without a repetition inside of a repetition, such as (a+)+.",
        ) from None


def _takes_few_steps(query: str) -> bool:
    """Whether a pattern repeats but once, and nothing that has a choice in it, so that it needs no clock.

    It then takes as many steps as the square of a token is long, at most. With a clock it takes ten times as long.
    """
    repeats = re.findall(r"[*+?]|\{\d*,?\d*\}", query)
    return not set("(|") & set(query) and len(repeats) <= 1 and query.count("{") == "".join(repeats).count("{")


def _made(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    added, special = tokenizer.added_tokens_decoder, set(tokenizer.all_special_ids)
    entries = []
    for raw, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        flagged = added.get(number)
        text = _read(tokenizer, raw) if flagged is None else raw
        is_special = number in special or (flagged is not None and flagged.special)
        entries.append(Entry(number, raw, text, is_special, flagged is not None))
    folded = tuple(f"{entry.text}\n{entry.raw}".casefold() for entry in entries)
    return Vocabulary(tuple(entries), folded, {entry.id: place for place, entry in enumerate(entries)}, len(tokenizer))


def _read(tokenizer: PreTrainedTokenizerBase, raw: str) -> str:
    """A token as it reads inside of a text: some decoders drop the space of the first token, so another goes ahead."""
    if not tokenizer.is_fast:
        return str(tokenizer.convert_tokens_to_string(["a", raw])).removeprefix("a")
    decoder = tokenizer.backend_tokenizer.decoder
    return raw if decoder is None else str(decoder.decode(["a", raw])).removeprefix("a")
