"""The Rust half of a tokenizer, where it has one: a copy for each use, its parts, and its errors in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from studio.errors import InputError
from studio.tokenizer.reading import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Component = dict[str, Any]
"""A normalizer, pre-tokenizer, post-processor or decoder as tokenizer.json describes it; `type` says which."""


def own_backend(tokenizer: PreTrainedTokenizerBase) -> Any | None:
    """A copy of the Rust half that the caller may change, without truncation and padding; None without a Rust half.

    transformers sets truncation and padding on the one object that everybody shares, so whoever encodes with that
    object may get the settings of another thread. The copy shares the vocabulary: it takes 0.3 ms, or 3 ms with 3,000
    added tokens.
    """
    from tokenizers import Tokenizer

    shared = getattr(tokenizer, "backend_tokenizer", None)
    if shared is None:
        return None
    own = Tokenizer(shared.model)
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (component := getattr(shared, name)) is not None:
            setattr(own, name, component)
    added = shared.get_added_tokens_decoder()
    # In the order of their ids, by which they get the same ones again.
    for special, run in groupby((added[id] for id in sorted(added)), key=lambda token: token.special):
        (own.add_special_tokens if special else own.add_tokens)(list(run))
    if own.get_added_tokens_decoder() != added:
        own = Tokenizer.from_str(shared.to_str())  # ids with holes; takes a second with a large vocabulary
        own.no_truncation()
        own.no_padding()
    own.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return own


def described(component: Any | None) -> list[Component]:
    """What a normalizer, pre-tokenizer, post-processor or decoder consists of, in order; empty where there is none."""
    if component is None:
        return []
    described: Component = json.loads(component.__getstate__())
    return _flat(described)


def _flat(component: Component) -> list[Component]:
    return [step for part in _inner(component) for step in _flat(part)] if _is_row(component) else [component]


def _is_row(component: Component) -> bool:
    return str(component["type"]) == "Sequence"


def _inner(component: Component) -> list[Component]:
    """What a sequence is of: normalizers, pretokenizers, processors or decoders."""
    return next(value for value in component.values() if isinstance(value, list))


def steps(component: Any | None) -> list[Any]:
    """A normalizer or pre-tokenizer as the single ones that it consists of, in order."""
    if component is None:
        return []
    told: Component = json.loads(component.__getstate__())
    # By its description: that of pre-tokenizers has an index but no length.
    return [step for at in range(len(_inner(told))) for step in steps(component[at])] if _is_row(told) else [component]


@contextmanager
def refusals() -> Iterator[None]:
    """Raise InputError where the Rust half cannot encode: it has no class of its own for that."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise InputError(
            f"The tokenizer cannot encode this text: {first_line(error)}",
            "Leave out the characters that it does not know, or choose another model.",
        ) from error
