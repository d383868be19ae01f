"""What examples are made from, as one short text: two that are equal are the same examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from threading import Event
from typing import TYPE_CHECKING, Any

from studio.dataset.counting import uncut
from studio.dataset.formats import ColumnMapping
from studio.dataset.preparation import Preparation
from studio.dataset.rows import Rows
from studio.dataset.stopping import Stopped, patiently

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERSION = 1  # of what is made; another number makes everything anew
_CHUNK = 1 << 20


def fingerprint(
    sources: Sequence[tuple[Rows, ColumnMapping, float]],
    tokenizer: PreTrainedTokenizerBase,
    preparation: Preparation,
    stop: Event,
) -> str:
    """SHA-256 over all of it, the rows by their content. Takes a second for a gigabyte. Raises Stopped."""
    said = [
        _VERSION,
        [[_of_rows(rows, stop), asdict(mapping), weight] for rows, mapping, weight in sources],
        patiently(lambda: _of_tokenizer(tokenizer), stop),
        asdict(preparation),
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _of_rows(rows: Rows, stop: Event) -> list[Any]:
    digest = hashlib.sha256()
    with rows.file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            if stop.is_set():
                raise Stopped
            digest.update(chunk)
    return [rows.name, [asdict(part) for part in rows.parts], digest.hexdigest()]


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """All that decides which ids a text has; how long it may be and how it is padded does not."""
    backend = uncut(getattr(tokenizer, "backend_tokenizer", None))
    inside = repr(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    digest = hashlib.sha256(inside.encode(errors="surrogatepass")).hexdigest()
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    added = {str(id_): [token.content, token.special] for id_, token in tokenizer.added_tokens_decoder.items()}
    return [type(tokenizer).__name__, digest, special, added, tokenizer.chat_template]
