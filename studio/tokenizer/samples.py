"""Short texts in many languages and of a few kinds, to see how a tokenizer treats each."""

from __future__ import annotations

import json
from dataclasses import dataclass

from studio.settings import ASSETS


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts that belong together, by name: a language, a kind of text, or what a person typed."""

    name: str
    texts: tuple[str, ...]


def bundled() -> tuple[Sample, ...]:
    """The texts that are part of the studio: the same sentences in 16 languages, then code, numbers and emoji."""
    content = json.loads((ASSETS / "samples" / "languages.json").read_text(encoding="utf-8"))
    return tuple(Sample(each["name"], tuple(each["texts"])) for each in content["samples"])
