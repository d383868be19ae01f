"""Weights into a GGUF file, some rows in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checkpoint import read_header, weight_files
from studio.errors import Damaged, Unsupported
from studio.exporting.shape import Pairs, Shape
from studio.exporting.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np

CHUNK = 1 << 24
"""Weights in memory at a time: 64 MB in fp32, and about as much again while they are packed."""
BLOCK = 32
"""Weights that a packed block holds."""
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}
_FREQUENCIES = "rope_freqs.weight"
# llama.cpp keeps the scores of all tokens in a wider format than the rest too: an error here is in every token.
_WIDER = ("token_embd.weight", "output.weight")
_SMALL = ("Q5_1", "Q5_0", "Q4_1", "Q4_0")


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor of the folder and its place in the file."""

    name: str
    source: str
    file: Path
    shape: tuple[int, ...]
    kind: str
    head_rows: int
    """Rows of a head, whose order changes; 0 where no order does."""

    @property
    def bytes(self) -> int:
        """In the file, without the gap behind it."""
        return packed_bytes(self.shape, self.kind)

    @property
    def rows(self) -> int:
        """How many there are in memory at a time: whole heads, where their order changes."""
        most = max(1, CHUNK // self.shape[-1])
        return most // self.head_rows * self.head_rows or self.head_rows if self.head_rows else most


def placed(folder: Path, shape: Shape, kind: str) -> list[Placed]:
    """Every tensor of the file, in its order. Raises Damaged where the folder has others than the config says."""
    found = {
        name: (file, tuple(entry["shape"]))
        for file in weight_files(folder)
        for name, entry in read_header(file).items()
        if name != "__metadata__"
    }
    names = shape.names()
    if missing := sorted(names.keys() - found.keys()):
        raise Damaged(
            f"{len(missing)} weights that the config asks for are not in the files, the first is {missing[0]}.",
            "The config belongs to another model, or the files are not complete. Download the model again.",
        )
    known = names.keys() | {"lm_head.weight"}
    if strange := sorted(name for name in found.keys() - known if not name.endswith("rotary_emb.inv_freq")):
        raise Unsupported(
            f"The files hold {strange[0]}, for which a {shape.architecture} of llama.cpp has no place.",
            "Choose a model without it, or let llama.cpp convert it.",
        )
    tensors = []
    for source, name in names.items():
        file, size = found[source]
        turned = shape.interleaved and name.endswith(("attn_q.weight", "attn_k.weight"))
        tensors.append(Placed(name, source, file, size, _kind(name, size, kind), shape.head_dim if turned else 0))
    return tensors


def _kind(name: str, shape: tuple[int, ...], kind: str) -> str:
    """What a tensor is held as: single numbers whole, and what is in no whole blocks in 16 bit, as llama.cpp does."""
    if len(shape) < 2:
        return "F32"
    if kind in _SMALL and name in _WIDER:
        kind = "Q8_0"
    return "F16" if kind.startswith("Q") and shape[-1] % BLOCK else kind


def packed_bytes(shape: tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor of this shape."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    count = 1
    for number in shape:
        count *= number
    return int(count // block * size)


def write(
    file: Path,
    shape: Shape,
    vocabulary: Vocabulary,
    tensors: list[Placed],
    said: Pairs,
    moved: Callable[[int], None],
) -> None:
    """Write the whole file. `moved` is told the bytes of each piece and may raise, to end it."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(file, shape.architecture)
    try:
        for key, value in (said | shape.pairs | vocabulary.pairs).items():
            _add(writer, key, value)
        writer.add_token_list(list(vocabulary.tokens))
        writer.add_token_types(list(vocabulary.types))
        writer.add_token_merges(list(vocabulary.merges))
        divisors = np.array(shape.frequencies, dtype=np.float32)
        if shape.frequencies:
            kind = gguf.GGMLQuantizationType.F32
            writer.add_tensor_info(_FREQUENCIES, divisors.shape, divisors.dtype, divisors.nbytes, kind)
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType[tensor.kind]
            # float32 and not bytes: of bytes the writer would work out another shape.
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    with file.open("ab") as stream:
        _pad(stream)
        if shape.frequencies:
            stream.write(divisors.tobytes())
            _pad(stream)
        for tensor in tensors:
            for piece in pieces(tensor):
                packed = pack(tensor, piece)
                stream.write(packed.data)
                moved(packed.nbytes)
            _pad(stream)
        stream.flush()
        os.fsync(stream.fileno())


def general(name: str, kind: str) -> Pairs:
    """What the file says of itself, whatever it holds."""
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": _FILE_TYPES[kind],
        "general.quantization_version": 2,
    }


def _add(writer: Any, key: str, value: str | int | float | bool) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)


def _pad(stream: Any) -> None:
    stream.write(bytes(-stream.tell() % 32))


def pieces(tensor: Placed) -> Iterator[np.ndarray[Any, Any]]:
    """The weights of a tensor in fp32 and in the order of the file, some rows at a time.

    Raises Damaged where they are no numbers.
    """
    import numpy as np
    import torch
    from safetensors import safe_open

    with ExitStack() as stack:
        weights = stack.enter_context(safe_open(tensor.file, "pt")).get_slice(tensor.source)
        for begin in range(0, tensor.shape[0], tensor.rows if len(tensor.shape) > 1 else tensor.shape[0]):
            part = weights[begin : begin + tensor.rows] if len(tensor.shape) > 1 else weights[:]
            values = part.to(torch.float32).numpy()
            if not np.isfinite(values).all():
                raise Damaged(
                    f"{tensor.source} holds values that are not numbers.",
                    "Its training broke, or the file did. Choose another revision or another model.",
                )
            yield _neighbours(values, tensor.head_rows) if tensor.head_rows else values


def _neighbours(values: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    """The rows of each head with those beside each other that are turned together: 0, n/2, 1, n/2 + 1 and so on."""
    return values.reshape(-1, 2, rows // 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)


def pack(tensor: Placed, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weights as the file holds them. Raises Unsupported where they are too large for the format."""
    import gguf
    import numpy as np

    # A number that is too large for 16 bit becomes infinite, which is looked for below.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType[tensor.kind])
    if tensor.kind == "F16" and not np.isfinite(packed).all():
        raise Unsupported(
            f"{tensor.source} holds {float(np.abs(values).max()):.3g}, and F16 ends at 65,504.", "Choose BF16 or F32."
        )
    return np.ascontiguousarray(packed)
