"""A GGUF file, read back and held against the folder that it was made from: every weight, every word of its head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import Damaged
from studio.exporting.shape import Pairs, Shape
from studio.exporting.splits import SPLITS, as_read
from studio.exporting.vocabulary import Vocabulary, normal_forms, own_ids
from studio.exporting.writing import BLOCK, Placed, pieces

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

# Half a step between two values of a block, as a share of what tells the step: the largest value, or the range. In Q4_0
# and Q5_0 the other end of the scale is a whole step short.
_LARGEST = {"Q8_0": 0.5 / 127, "Q4_0": 1 / 8, "Q5_0": 1 / 16}
_RANGE = {"Q4_1": 0.5 / 15, "Q5_1": 0.5 / 31}
_ROUNDED = {"F32": 0.0, "F16": 2**-11, "BF16": 2**-8}
_SCALE = 2**-10  # what a scale in 16 bit is off by at most, twice for safety
_LEAST = 2**-19  # what the smallest scale in 16 bit can be off by, times the largest count of steps


def check_weights(reader: Any, tensors: list[Placed], done: Callable[[int], None]) -> float:
    """Compare every weight; return the norm of what the format changed, relative to that of the weights.

    `done` is told after each piece how many tensors are through, and may raise. Raises Damaged where a weight is
    further off than its format explains.
    """
    import numpy as np

    held = {tensor.name: tensor for tensor in reader.tensors}
    changed = whole = 0.0
    for number, tensor in enumerate(tensors):
        there = held.get(tensor.name)
        if there is None or there.tensor_type.name != tensor.kind or tuple(reversed(there.shape)) != tensor.shape:
            raise differs(tensor.name)
        begin = 0
        for values in pieces(tensor):
            part = unpacked(there, slice(begin, begin + len(values)))
            off = np.abs(part.reshape(values.shape) - values)
            if not (off <= _bound(values, tensor.kind)).all():
                raise differs(tensor.name)
            changed += float(np.square(off, dtype=np.float64).sum())
            whole += float(np.square(values, dtype=np.float64).sum())
            begin += len(values)
            done(number)
    return float((changed / whole) ** 0.5) if whole else 0.0


def unpacked(tensor: Any, rows: slice) -> np.ndarray[Any, Any]:
    """Rows of a tensor that a reader of the gguf package has, in fp32."""
    import gguf

    values: np.ndarray[Any, Any] = gguf.quants.dequantize(tensor.data[rows], tensor.tensor_type)
    return values


def _bound(values: np.ndarray[Any, Any], kind: str) -> Any:
    """The most that each weight may be off."""
    import numpy as np

    if kind in _ROUNDED:
        return np.abs(values) * _ROUNDED[kind] + (2**-24 if kind == "F16" else 0)
    blocks = values.reshape(-1, BLOCK)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    if kind in _LARGEST:
        bound = largest * (_LARGEST[kind] + _SCALE) + _LEAST
    else:
        spread = blocks.max(axis=1, keepdims=True) - blocks.min(axis=1, keepdims=True)
        bound = spread * (_RANGE[kind] + _SCALE) + largest * _SCALE + _LEAST
    return np.broadcast_to(bound, blocks.shape).reshape(values.shape)


def check_head(reader: Any, shape: Shape, vocabulary: Vocabulary, said: Pairs) -> None:
    """Raise Damaged where the file says anything else than was meant."""
    import numpy as np

    for key, value in (said | shape.pairs | vocabulary.pairs).items():
        meant = float(np.float32(value)) if isinstance(value, float) else value
        if _read(reader, key) != meant:
            raise differs(key)
    if reader.fields["general.architecture"].contents() != shape.architecture:
        raise differs("the architecture")
    lists = {"tokens": vocabulary.tokens, "token_type": vocabulary.types, "merges": vocabulary.merges}
    for key, values in lists.items():
        if tuple(_read(reader, f"tokenizer.ggml.{key}")) != values:
            raise differs(f"the {key} of the tokenizer")
    held = next((tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), ())
    if [float(value) for value in held] != [float(np.float32(value)) for value in shape.frequencies]:
        raise differs("the scaling of positions")


def check_texts(reader: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> int:
    """Make tokens of all texts with what the file holds; return how many there were. Raises Damaged otherwise."""
    tokens, types, merges = (_read(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "merges"))
    read = as_read(tokens, types, merges, SPLITS[str(_read(reader, "tokenizer.ggml.pre"))])
    texts = normal_forms(tokenizer, texts)
    theirs = [each.ids for each in read.encode_batch(texts, add_special_tokens=False)]
    for text, one, other in _beside(texts, own_ids(tokenizer, texts), theirs):
        if one != other:
            raise differs(f"the tokens of {text[:40]!r}")
    return len(texts)


def _beside(*lists: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    return zip(*lists, strict=True)


def _read(reader: Any, key: str) -> Any:
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def differs(what: str) -> Damaged:
    """The file is not what was meant to be written."""
    return Damaged(
        f"What was written does not read back as what the folder holds: {what}.",
        "Nothing was kept. Check the disk, or choose a folder on another one, and try again.",
    )


def opened(file: Path) -> Any:
    """The file for the gguf package, mapped and not read."""
    import gguf

    return gguf.GGUFReader(file)
