"""A text on its way to the model: added tokens taken out, the rest normalized and cut into parts, with its offsets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the text, as it is at some point of its way; `start` and `end` are those of the original."""

    text: str
    start: int
    end: int
    id: int | None = None
    """The id of an added token; None for what is left to the model."""


def added_tokens(backend: Any, text: str) -> tuple[Span, ...]:
    """The added tokens in a text, as the tokenizer itself finds them. May raise what `refusals` is for."""
    known = backend.get_added_tokens_decoder()
    encoding = backend.encode(text, add_special_tokens=False)
    found = []
    for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        # The unknown token mostly is an added one too, and stands for other text where the model itself took it.
        if id in known and _is(backend, known[id], text[start:end]):
            found.append(Span(text[start:end], start, end, id))
    return tuple(found)


def _is(backend: Any, token: Any, covered: str) -> bool:
    if covered.strip() == token.content.strip():
        return True
    if not token.normalized or backend.normalizer is None:
        return False
    normalize = backend.normalizer.normalize_str
    return bool(normalize(covered).strip() == normalize(token.content).strip())


def parts(
    backend: Any, text: str, added: tuple[Span, ...], *, normalizers: list[Any], pre_tokenizers: list[Any]
) -> tuple[Span, ...]:
    """The text after some of its normalizers and then some of its pre-tokenizers, its added tokens among the rest."""
    known = backend.get_added_tokens_decoder()
    # Tokens that are not normalized are cut out of the text as it stands, the others out of what is normalized.
    outer = [token for token in added if not known[token.id].normalized]
    spans: list[Span] = []
    at = 0
    for stop in [*outer, Span("", len(text), len(text))]:
        if at < stop.start:
            stretch = _Stretch(text, at, stop.start, normalizers)
            inner = [token for token in added if at <= token.start < stop.start and known[token.id].normalized]
            spans += stretch.parts(inner, pre_tokenizers)
        if stop.id is not None:
            spans.append(stop)
        at = stop.end
    return tuple(spans)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A stretch of a text without added tokens, but for those that are found in what is normalized.

    It is always cut out of the whole text: some pre-tokenizers treat the beginning of a text in another way.
    """

    text: str
    start: int
    end: int
    normalizers: list[Any]

    def parts(self, added: list[Span], pre_tokenizers: list[Any]) -> list[Span]:
        normalized = self._normalized()
        spans: list[Span] = []
        at = 0
        for token in added:
            content = _applied(self.normalizers, token.text)
            if content and (stop := normalized.find(content, at)) >= 0:
                spans += self._cut(at, stop, pre_tokenizers)
                spans.append(token)
                at = stop + len(content)
        return spans + self._cut(at, len(normalized), pre_tokenizers)

    def _cut(self, start: int, end: int, pre_tokenizers: list[Any]) -> list[Span]:
        """From `start` to `end` of what is normalized, through the pre-tokenizers."""
        if start >= end:
            return []
        seen = self._seen()
        seen.split(lambda _, part: [part.slice((start, end))])
        for step in pre_tokenizers:
            step.pre_tokenize(seen)
        return [Span(text, *where) for text, where, _ in seen.get_splits("original", "char")]

    def _normalized(self) -> str:
        texts: list[str] = []

        def look(_: int, part: Any) -> list[Any]:
            texts.append(part.normalized)
            return [part]

        self._seen().split(look)
        return "".join(texts)

    def _seen(self) -> Any:
        from tokenizers import PreTokenizedString

        seen = PreTokenizedString(self.text)
        seen.split(lambda _, part: [part.slice((self.start, self.end))])
        for step in self.normalizers:
            seen.normalize(partial(_normalize, step))
        return seen


def _normalize(step: Any, part: Any) -> None:
    step.normalize(part)


def _applied(normalizers: list[Any], text: str) -> str:
    for step in normalizers:
        text = step.normalize_str(text)
    return text
