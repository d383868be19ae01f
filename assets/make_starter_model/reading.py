"""Read a story back with the grammar: which plot it follows, and whether its cast stays the same to the end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from stories import FEELINGS, HOMES, NAMES, PLACES, Plot, read_grammar

_NOUN = "[a-z]+"
_PATTERNS = {
    "A": "|".join(NAMES), "B": "|".join(NAMES), "p": "|".join(PLACES), "feel": "|".join(FEELINGS),
    "home": "|".join(HOMES), "Home": "|".join(home[0].upper() + home[1:] for home in HOMES),
    "s": _NOUN, "o": _NOUN, "t": _NOUN, "adj": _NOUN, "adj2": _NOUN,
}  # fmt: skip
_WITH_ARTICLE = {"an_s": "s", "an_t": "t", "an_adj": "adj"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a story turned out to be about; the subject is empty where the plot never says it."""

    plot: str
    subject: str
    hero: str
    helper: str


def read_story(text: str) -> Reading | None:
    """The reading of a story that follows one plot with one cast, or nothing."""
    lists, plots = read_grammar()
    for plot in plots:
        for cast, rest in _after(text, lists[f"{plot.kind} opening"], {}):
            for found, remainder in _follow(rest, plot, cast):
                if not remainder.strip() or remainder.strip() in lists["closing"]:
                    return Reading(plot.title, found.get("s", ""), found.get("A", ""), found.get("B", ""))
    return None


def _follow(text: str, plot: Plot, cast: dict[str, str], place: int = 0) -> list[tuple[dict[str, str], str]]:
    """All ways to read the sentences of a plot, from one sentence on; what is left over stands beside each."""
    if place == len(plot.sentences):
        return [(cast, text)]
    ways = _after(text, plot.sentences[place], cast)
    return [result for found, rest in ways for result in _follow(rest, plot, found, place + 1)]


def _after(text: str, choices: tuple[str, ...], cast: dict[str, str]) -> list[tuple[dict[str, str], str]]:
    ways = []
    for choice in choices:
        match = _pattern(choice).match(text)
        if match:
            found = {name.removeprefix("an_"): value for name, value in match.groupdict().items()}
            if all(cast.get(name, value) == value for name, value in found.items()):
                ways.append(({**cast, **found}, text[match.end() :].lstrip()))
    return ways


@cache
def _pattern(sentence: str) -> re.Pattern[str]:
    seen: set[str] = set()

    def place(match: re.Match[str]) -> str:
        name = match[1]
        article = "an? " if name in _WITH_ARTICLE else ""
        key = _WITH_ARTICLE.get(name, name)
        if key in seen:
            return f"{article}(?P={key})"
        seen.add(key)
        return f"{article}(?P<{key}>{_PATTERNS[key]})"

    escaped = re.escape(sentence).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"\{(\w+)\}", place, escaped))
