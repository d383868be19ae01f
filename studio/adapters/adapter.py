"""What an adapter is, as its two files tell it: plain values, without a weight."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]
PREFIX = "base_model.model."
"""What PEFT puts before every name in the file."""
WRAPPINGS = (".token_adapter.base_layer.", ".base_layer.", ".modules_to_save.")
"""What it puts into the name of a tensor of the base, of which an adapter may bring its own."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def plain(key: str) -> str:
    """What the model calls a tensor that is no update."""
    name = key.removeprefix(PREFIX)
    for wrapping in WRAPPINGS:
        name = name.replace(wrapping, ".")
    return name


@dataclass(frozen=True, slots=True)
class AdaptedModule:
    """A module of the base that has an update of its own, the product of B and A."""

    path: str
    """As the model calls it. Of several parameters of one module the inner ones have `.base_layer` at the end."""
    rank: int
    """Columns of B. Of fused experts, that of all of them together."""
    scaling: float | None
    """What the product is multiplied with; None where the shape of the base has to tell, as for fused experts."""
    a: Shape
    b: Shape
    embedding: bool
    dora: bool
    bias: bool
    """Whether it has an update of the bias too."""
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WholeTensor:
    """A tensor that takes the place of one of the base: of a module that was saved whole, a bias, a larger table."""

    name: str
    """As the model calls it."""
    key: str
    """As the file calls it."""
    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows of an embedding or a head that take the place of those of the base."""

    path: str
    key: str
    rows: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in a folder."""

    folder: str
    type: str
    """LORA, or another word of PEFT; of another type only what is counted is known."""
    base: str
    """The name of its base as its config has it; empty where it has none."""
    revision: str
    peft_version: str
    rank: int
    alpha: float
    rslora: bool
    dora: bool
    start: str
    """How it began: default, gaussian, pissa, or another word of PEFT."""
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    targets: tuple[str, ...]
    target_parameters: tuple[str, ...]
    ties: bool
    """Whether embedding and head are to stay one weight, whatever was trained of them."""
    features: tuple[str, ...]
    """Settings of its config, by name, with which an update is more than a product that is added."""
    modules: tuple[AdaptedModule, ...]
    whole: tuple[WholeTensor, ...]
    tokens: tuple[TokenRows, ...]
    tensors: int
    parameters: int
    bytes: int
    """Of the tensors."""
