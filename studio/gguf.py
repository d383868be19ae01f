"""GGUF files: what one holds, read from its header alone, and how transformers opens it.

Format: a magic, a version, two counts, key-value pairs, one entry a tensor, and the tensors. All little-endian.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import IO, Any

from studio.errors import Damaged, Unsupported

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_TEXT, _LIST = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT_LIMIT = 16_000_000  # bytes; the longest texts are chat templates of some ten thousand
_PAIRS_LIMIT, _TENSORS_LIMIT, _LIST_LIMIT, _DIMENSIONS_LIMIT = 100_000, 1_000_000, 10_000_000, 8
# Type number → name, values a block, bytes a block.
_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
# What general.file_type says of the whole file.
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
}
# No code of transformers or the gguf package unpacks these into weights.
_UNREADABLE = {"Q8_1", "Q8_K", "Q1_0", "I8", "I16", "I32", "I64", "F64"}
_TOKENIZERS = ("gpt2", "llama", "t5", "gemma4")
_AGAIN = "Download the file again."


@dataclass(frozen=True, slots=True)
class TensorType:
    """How many tensors of a file are of one type, and their bytes in the file."""

    name: str
    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a GGUF file says of itself."""

    architecture: str
    name: str
    parameters: int
    context: int | None
    layers: int | None
    types: tuple[TensorType, ...]
    """Largest first."""
    quantization: str
    """In the words of its makers, such as Q4_K_M."""
    has_chat_template: bool
    largest: int
    """Weights of the largest tensor: while it is unpacked, it takes about 10 bytes a weight more."""
    bytes: int
    """Of the file."""
    supported: bool
    """Whether transformers opens it as a model that generates text."""
    why_not: str
    caveats: tuple[str, ...]
    """What transformers will read differently from the program that the file was made for."""

    def dequantized_bytes(self, bytes_per_weight: float) -> int:
        """Bytes of the weights in memory: transformers unpacks all of them, whatever the file saves on the disk."""
        return int(self.parameters * bytes_per_weight)


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    values: int
    type: str
    offset: int
    bytes: int


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == _MAGIC


def found(path: Path) -> Path | None:
    """The GGUF file that a path is, or that is the only weights of a folder; None where there is none such."""
    if path.is_file():
        return path if is_gguf(path) else None
    files = sorted(path.glob("*.gguf"))
    return files[0] if len(files) == 1 and not any(path.glob("*.safetensors")) else None


def read_gguf(path: Path) -> GgufFacts:
    """What the header of a GGUF file says; nothing else is read.

    Raises Unsupported for a version of the format that is not known, Damaged for a file that is none or not whole.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = _Header(path, stream, size)
        tensor_count, pair_count = header.begin()
        pairs = dict(header.pair() for _ in range(pair_count))
        tensors = [header.tensor() for _ in range(tensor_count)]
        alignment = pairs.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise header.broken(f"its alignment is {alignment!r}")
        start = -(-stream.tell() // alignment) * alignment
    if not isinstance(architecture := pairs.get("general.architecture"), str) or not architecture:
        raise header.broken("it names no architecture")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise header.broken("two tensors have the same name")
    end = max((start + tensor.offset + tensor.bytes for tensor in tensors), default=start)
    if size < end:
        raise header.broken(f"it has {size:,} bytes of {end:,}")
    why_not = _why_not(architecture, pairs, tensors)
    return GgufFacts(
        architecture=architecture,
        name=_text(pairs, "general.name") or path.stem,
        parameters=sum(tensor.values for tensor in tensors),
        context=_number(pairs, f"{architecture}.context_length"),
        layers=_number(pairs, f"{architecture}.block_count"),
        types=_types(tensors),
        quantization=_quantization(pairs, tensors),
        has_chat_template=bool(_text(pairs, "tokenizer.chat_template")),
        largest=max((tensor.values for tensor in tensors), default=0),
        bytes=size,
        supported=not why_not,
        why_not=why_not,
        caveats=_caveats(architecture, pairs, tensors),
    )


def load_options(path: Path) -> dict[str, Any]:
    """What from_pretrained of AutoConfig and AutoTokenizer need besides the folder of the file."""
    return {"gguf_file": path.name}


def weight_options(path: Path) -> dict[str, Any]:
    """What from_pretrained of a model needs besides the folder of the file: the weights unpacked, in plain layers.

    Without the second of them transformers fetches code for packed weights from the Hub where it can, and leaves a
    quantization in the config that the model does not have.
    """
    import transformers

    if not hasattr(transformers, "GgufConfig"):
        return load_options(path)  # transformers 5.20 knows no packed weights
    return load_options(path) | {"quantization_config": transformers.GgufConfig(dequantize=True)}


class _Header:
    """Reads a header from its start. Every length is held against what is left of the file before it is read."""

    def __init__(self, path: Path, stream: IO[bytes], size: int) -> None:
        self.path, self.stream, self.size = path, stream, size

    def broken(self, why: str) -> Damaged:
        return Damaged(f"{self.path.name} is damaged: {why}.", _AGAIN)

    def begin(self) -> tuple[int, int]:
        """How many tensors and how many key-value pairs follow."""
        start = self.stream.read(4)
        if start != _MAGIC:
            raise self.broken(f"it begins with {start!r} and not with GGUF")
        version = self.number("I")
        if version not in _VERSIONS:
            raise Unsupported(
                f"{self.path.name} is of version {version} of GGUF, and 2 and 3 can be read.",
                "Choose a newer file of this model. Files for big-endian machines cannot be read.",
            )
        tensors, pairs = self.number("Q"), self.number("Q")
        if tensors > _TENSORS_LIMIT or pairs > _PAIRS_LIMIT:
            raise self.broken(f"it claims {tensors:,} tensors and {pairs:,} entries")
        return tensors, pairs

    def pair(self) -> tuple[str, Any]:
        return self.text(), self.value(self.number("I"))

    def tensor(self) -> _Tensor:
        name = self.text()
        dimensions = self.number("I")
        if dimensions > _DIMENSIONS_LIMIT:
            raise self.broken(f"{name} has {dimensions:,} dimensions")
        shape = [self.number("Q") for _ in range(dimensions)]
        kind, offset = self.number("I"), self.number("Q")
        if kind not in _TYPES:
            raise Unsupported(
                f"{name} in {self.path.name} is of type {kind}, which is newer than the studio.",
                "Choose another file of this model, for example Q8_0.",
            )
        type_name, block, block_bytes = _TYPES[kind]
        values = prod(shape)
        if values % block or (shape and shape[0] % block):
            raise self.broken(f"{name} has {values:,} values, which are no whole blocks of {block}")
        return _Tensor(name, values, type_name, offset, values // block * block_bytes)

    def value(self, kind: int) -> Any:
        """A number, a text, or how long a list is; lists hold vocabularies, which nobody here reads."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            raise self.broken(f"it has an entry of type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if count > _LIST_LIMIT:
            raise self.broken(f"it has a list of {count:,} entries")
        if inner in _NUMBERS:
            self.skip(count * struct.calcsize(_NUMBERS[inner]))
        elif inner == _TEXT:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise self.broken(f"it has a list of type {inner}")
        return [count]

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        length = self.number("Q")
        if length > _TEXT_LIMIT:
            raise self.broken(f"it has a text of {length:,} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.broken("it has a text that is none") from error

    def take(self, count: int) -> bytes:
        content = self.stream.read(count)
        if len(content) < count:
            raise self.broken(f"it ends within its header, after {self.size:,} bytes")
        return content

    def skip(self, count: int) -> None:
        if self.stream.tell() + count > self.size:
            raise self.broken(f"it ends within its header, after {self.size:,} bytes")
        self.stream.seek(count, 1)


def _text(pairs: dict[str, Any], key: str) -> str:
    return value if isinstance(value := pairs.get(key), str) else ""


def _number(pairs: dict[str, Any], key: str) -> int | None:
    return value if isinstance(value := pairs.get(key), int) else None


def _types(tensors: list[_Tensor]) -> tuple[TensorType, ...]:
    counts, sizes = Counter(tensor.type for tensor in tensors), Counter[str]()
    for tensor in tensors:
        sizes[tensor.type] += tensor.bytes
    return tuple(TensorType(name, counts[name], size) for name, size in sizes.most_common())


def _quantization(pairs: dict[str, Any], tensors: list[_Tensor]) -> str:
    said = _number(pairs, "general.file_type")
    types = _types(tensors)
    if said in _FILE_TYPES:
        return _FILE_TYPES[said]
    return types[0].name if types else "none"


def _why_not(architecture: str, pairs: dict[str, Any], tensors: list[_Tensor]) -> str:
    """Why transformers does not make a model of this file; empty where it does."""
    kind, parts = _text(pairs, "general.type"), _number(pairs, "split.count") or 1
    tokenizer = _text(pairs, "tokenizer.ggml.model")
    unreadable = sorted({tensor.type for tensor in tensors} & _UNREADABLE)
    if kind not in ("", "model"):
        return f"it is no model but its {kind}"
    if parts > 1:
        return f"it is one of {parts} parts, and transformers reads one file"
    if not tensors:
        return "it holds no tensors"
    if not tokenizer:
        return "it has no tokenizer"
    if tokenizer not in _TOKENIZERS:
        return f"transformers cannot read its tokenizer ({tokenizer})"
    if unreadable:
        return f"transformers cannot unpack {' and '.join(unreadable)}"
    return _unknown(architecture, {tensor.type for tensor in tensors})


def _unknown(architecture: str, types: set[str]) -> str:
    """Why transformers cannot open this architecture; empty where it can."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # The list of transformers holds two sections of the header as well, and the architecture under its own name.
    own = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "minimax-m2": "minimax_m2"}
    own |= {"t5encoder": "t5"}
    model = own.get(architecture, architecture)
    if (readable := _newer_reader(architecture)) is not None:
        others = sorted(types - readable)
        return f"transformers cannot unpack {' and '.join(others)} of {architecture}" if others else ""
    if model not in set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer"}:
        return f"transformers does not open {architecture} models from GGUF"
    text_model = {"gemma3": "gemma3_text", "gemma4": "gemma4_text"}.get(model, model)
    if text_model not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"{architecture} is no model of transformers that generates text"
    return "" if find_spec("gguf") else "the gguf package is not installed"


def _newer_reader(architecture: str) -> set[str] | None:
    """The types that the newer reader of transformers unpacks; None where it has the architecture not, or not yet."""
    try:
        from transformers.integrations.gguf import GGUF_ARCHS
        from transformers.integrations.gguf.dequant import GGML_NAME
    except ImportError:
        return None  # transformers 5.20 has the older reader alone
    return {"F32", "F16", "BF16", *GGML_NAME.values()} if architecture in GGUF_ARCHS else None


def _caveats(architecture: str, pairs: dict[str, Any], tensors: list[_Tensor]) -> tuple[str, ...]:
    found = []
    scaling = _text(pairs, f"{architecture}.rope.scaling.type")
    if any(tensor.name == "rope_freqs.weight" for tensor in tensors):
        scaling = scaling or "llama3"
    if scaling not in ("", "none") and architecture != "gpt-oss":
        found.append(f"transformers leaves out the scaling of positions ({scaling}), so long prompts suffer")
    return tuple(found)
