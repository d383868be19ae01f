"""A text into tokens: columns of numbers for all of it, and pieces with everything about a token where one looks."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from studio.errors import InputError
from studio.tokenizer.backend import own_backend, refusals
from studio.tokenizer.coverage import Coverage, coverage
from studio.tokenizer.spelling import Spelling, spelling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT_BYTES = 10_000_000
"""How much text is taken at once, in bytes of UTF-8. That much takes 4 seconds and half a gigabyte for a moment."""

Kind = Literal["text", "special", "added", "byte", "unknown"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a text."""

    index: int
    id: int
    token: str
    """As the vocabulary has it, with its glyphs."""
    text: str
    """The characters of the text that it covers; several tokens may cover the same one."""
    utf8: tuple[int, ...]
    """The bytes that it stands for; empty where that is not known and for an unknown one."""
    start: int | None
    """Its first character in the text; None where the tokenizer keeps no offsets or the token is not of the text."""
    end: int | None
    word: int | None
    """Which part of the pre-tokenizer it belongs to. Some make one part of a whole text."""
    kind: Kind
    """`special` and `added`: taken whole, before the model. `byte`: a part of a character, or a byte fallback."""
    shared: bool
    """Whether a piece before it covers some of the same characters."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much text and how many tokens. `words` are what stands between spaces, whatever the tokenizer thinks."""

    characters: int
    bytes: int
    words: int
    tokens: int
    """All of them; those that the tokenizer puts around a text are `around`."""
    around: int
    unknown: int
    byte_tokens: int

    @property
    def tokens_per_word(self) -> float | None:
        """Tokens of the text for each of its words; None without words."""
        return (self.tokens - self.around) / self.words if self.words else None


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text and its tokens, in columns: `ids[i]` is the id of token i, and `starts[i]` where it begins in the text.

    Without offsets, the columns but for `ids` and `special` are empty.
    """

    text: str
    ids: array[int]
    starts: array[int]
    ends: array[int]
    special: bytes
    """1 where the tokenizer put the token around the text."""
    tokens: dict[int, str]
    """Id → token as the vocabulary has it, for the ids of this text."""
    kinds: dict[int, Kind]
    """Id → kind, where it is not `text`."""
    spelling: Spelling | None
    covers: Coverage
    counts: Counts
    encoding: Any = field(default=None, compare=False, repr=False)
    """What the Rust half made of it, which is asked for the words of the tokens one looks at; None without one."""

    def window(self, start: int, count: int) -> tuple[Piece, ...]:
        """`count` pieces from `start` on; fewer at the end of the text."""
        first = max(start, 0)
        return tuple(self._piece(index) for index in range(first, min(first + max(count, 0), len(self.ids))))

    def _piece(self, index: int) -> Piece:
        id = self.ids[index]
        token = self.tokens[id]
        placed = bool(self.starts) and not self.special[index]
        start, end = (self.starts[index], self.ends[index]) if placed else (None, None)
        text = self.text[start:end] if placed else ""
        kind = self.kinds.get(id, "text")
        if kind == "unknown" and text.strip() == token:
            kind = "special"  # somebody wrote it
        known = kind != "unknown" and self.spelling is not None
        return Piece(
            index=index,
            id=id,
            token=token,
            text=text,
            utf8=tuple(self._bytes(token, kind)) if known else (),
            start=start,
            end=end,
            word=self.encoding.token_to_word(index) if placed else None,
            kind=kind,
            shared=start is not None and start < self._end_before(index),
        )

    def _bytes(self, token: str, kind: Kind) -> bytes:
        assert self.spelling is not None
        return token.encode() if kind in ("special", "added") else self.spelling.bytes_of(token)

    def _end_before(self, index: int) -> int:
        for before in range(index - 1, -1, -1):
            if self.ends[before] > self.starts[before]:
                return self.ends[before]
        return 0


def check_text(text: str) -> int:
    """The length of a text in UTF-8. Raises InputError for one that is too long or holds half a character."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InputError(
            f"Character {error.start + 1} of the text is half a character (U+{ord(text[error.start]):04X}): "
            "it is not text, and no tokenizer can read it.",
            "Delete it and type it anew; it often is an emoji that was cut in two.",
        ) from error
    if size > TEXT_BYTES:
        raise too_long(f"{size / 1e6:,.1f} MB")
    return size


def too_long(size: str) -> InputError:
    """Why a text is refused that has so much, in words."""
    return InputError(
        f"The text has {size}; at most {TEXT_BYTES / 1e6:g} MB are taken at once.",
        "Take a part of it: the first megabyte shows how a text is read as well as all of it.",
    )


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, *, special_tokens: bool = True) -> Tokenized:
    """The tokens of a text, with those that the tokenizer puts around it unless `special_tokens` is off.

    Raises InputError for a text that is too long or is none, and where the tokenizer itself refuses it.
    """
    size = check_text(text)
    backend = own_backend(tokenizer)
    if backend is None:
        return _without_offsets(tokenizer, text, size, special_tokens)
    with refusals():
        encoding = backend.encode(text, add_special_tokens=special_tokens)
    ids = array("i", encoding.ids)
    around = special_tokens and backend.num_special_tokens_to_add(False)
    special = bytes(encoding.special_tokens_mask if around else len(ids))
    starts, ends = _offset_columns(encoding, special)
    tokens = {id: backend.id_to_token(id) for id in _distinct(ids)}
    how = spelling(backend)
    kinds = _kinds(backend, how, tokens, unknown_id(backend))
    if how.byte_level:
        for id in _distinct(_overlapping(ids, starts, ends)):
            if id not in kinds and not _is_text(how.bytes_of(tokens[id])):
                kinds[id] = "byte"
    return Tokenized(
        text=text,
        ids=ids,
        starts=starts,
        ends=ends,
        special=special,
        encoding=encoding,
        tokens=tokens,
        kinds=kinds,
        spelling=how,
        covers=coverage(backend, text, starts, ends),
        counts=_counts(text, size, ids, special, kinds, _written(text, starts, ends, ids, tokens, kinds)),
    )


def _without_offsets(tokenizer: PreTrainedTokenizerBase, text: str, size: int, special_tokens: bool) -> Tokenized:
    encoded = tokenizer(text, add_special_tokens=special_tokens, return_special_tokens_mask=True, verbose=False)
    ids, special = array("i", encoded["input_ids"]), bytes(encoded["special_tokens_mask"])
    tokens = {id: str(tokenizer.convert_ids_to_tokens(id)) for id in _distinct(ids)}
    around = set(tokenizer.all_special_ids)
    kinds: dict[int, Kind] = {
        id: "special" if id in around else "added" for id in tokenizer.added_tokens_decoder if id in tokens
    }
    if (unknown := tokenizer.unk_token_id) in tokens:
        kinds[unknown] = "unknown"
    nothing = array("i")
    return Tokenized(
        text=text,
        ids=ids,
        starts=nothing,
        ends=nothing,
        special=special,
        tokens=tokens,
        kinds=kinds,
        spelling=None,
        covers=Coverage.unknown(),
        counts=_counts(text, size, ids, special, kinds, 0),
    )


def unknown_id(backend: Any) -> int | None:
    """The id for what the vocabulary does not have, as the model itself holds it; None where it has none."""
    model = backend.model
    if hasattr(model, "unk_token"):
        named: int | None = backend.token_to_id(model.unk_token) if model.unk_token else None
        return named
    try:  # a Unigram does not tell, but shows it for what is no character at all
        with refusals():
            shown = model.tokenize("\U0010ffff")
    except InputError:
        return None
    return int(shown[0].id) if len(shown) == 1 and backend.id_to_token(shown[0].id) != "\U0010ffff" else None


def _kinds(backend: Any, how: Spelling, tokens: dict[int, str], unknown: int | None) -> dict[int, Kind]:
    added = backend.get_added_tokens_decoder()
    kinds: dict[int, Kind] = {
        id: "special" if token.special else "added" for id, token in added.items() if id in tokens
    }
    if how.byte_fallback:
        for value in range(256):
            if (id := backend.token_to_id(f"<0x{value:02X}>")) in tokens:
                kinds.setdefault(id, "byte")
    if unknown in tokens:
        kinds[unknown] = "unknown"
    return kinds


def _offset_columns(encoding: Any, special: bytes) -> tuple[array[int], array[int]]:
    """Where each token begins and ends. Those around the text, which are nowhere in it, have 0 and 0.

    One token after the other: the list of all of them is 120 MB for 1 MB in characters, and takes half as long again.
    """
    import numpy as np

    both = np.zeros((len(special), 2), dtype=np.int32)
    for run in _runs(special):
        flat = chain.from_iterable(map(encoding.token_to_chars, run))
        both[run.start : run.stop] = np.fromiter(flat, dtype=np.int32, count=2 * len(run)).reshape(-1, 2)
    return array("i", both[:, 0].tobytes()), array("i", both[:, 1].tobytes())


def _runs(special: bytes) -> Iterator[range]:
    """The tokens of the text: what is between those that were put around it."""
    begin = 0
    while (end := special.find(1, begin)) >= 0:
        yield range(begin, end)
        begin = end + 1
    yield range(begin, len(special))


def _distinct(ids: Any) -> list[int]:
    import numpy as np

    distinct: list[int] = np.flatnonzero(np.bincount(ids)).tolist()
    return distinct


def _overlapping(ids: array[int], starts: array[int], ends: array[int]) -> Any:
    """The ids of the tokens that cover a character that the one before or after them covers too."""
    import numpy as np

    first, last = np.asarray(starts), np.asarray(ends)
    before = (first[1:] < last[:-1]) & (last[1:] > first[1:])
    mask = np.zeros(len(first), dtype=bool)
    mask[1:] |= before
    mask[:-1] |= before
    return np.asarray(ids)[mask]


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _written(
    text: str, starts: array[int], ends: array[int], ids: array[int], tokens: dict[int, str], kinds: dict[int, Kind]
) -> int:
    """How many of the unknown tokens are the name of the unknown token itself, written in the text."""
    import numpy as np

    unknown = next((id for id, kind in kinds.items() if kind == "unknown"), None)
    if unknown is None or tokens[unknown] not in text:
        return 0
    found = np.flatnonzero(np.asarray(ids) == unknown).tolist()
    return sum(text[starts[index] : ends[index]].strip() == tokens[unknown] for index in found)


def _counts(text: str, size: int, ids: array[int], special: bytes, kinds: dict[int, Kind], written: int) -> Counts:
    import numpy as np

    often = np.bincount(np.asarray(ids))
    of_kind = {kind: int(sum(often[id] for id, one in kinds.items() if one == kind)) for kind in ("unknown", "byte")}
    return Counts(
        characters=len(text),
        bytes=size,
        words=_words(text),
        tokens=len(ids),
        around=special.count(1),
        unknown=of_kind["unknown"] - written,
        byte_tokens=of_kind["byte"],
    )


def _words(text: str) -> int:
    """As many as `text.split()` gives, three times as fast: with it, 1 MB took 1 % longer in all."""
    import numpy as np

    characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    blank = _blanks()[np.minimum(characters, _LAST_BLANK + 1)]
    begins = ~blank
    begins[1:] &= blank[:-1]
    return int(np.count_nonzero(begins))


_LAST_BLANK = 0x3000
"""The last character of Unicode that is a space, the ideographic one."""


@cache
def _blanks() -> Any:
    import numpy as np

    return np.array([chr(code).isspace() for code in range(_LAST_BLANK + 2)])
