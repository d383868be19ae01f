"""What can be said of a model without its weights: its tensors, and what each of its layers remembers of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from studio.memory.request import Note

Keeps = Literal["", "fp16", "always"]
Covers = Literal["decoder", "text and vision", "encoder", "encoder-decoder", "headers"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Tensors that are alike: the same place in every layer, the same shape."""

    name: str
    """With the numbers of layers as a star: model.layers.*.self_attn.q_proj.weight"""
    kind: str
    """The class of its module: Linear, Embedding, LlamaRMSNorm."""
    shape: tuple[int, ...]
    """Of a linear layer: outputs, inputs."""
    count: int
    quantizes: bool = False
    """Whether bitsandbytes would hold it in fewer bits."""
    fp32: Keeps = ""
    """Whether its architecture wants it in fp32: always, or where the rest is in fp16."""
    fixed: int = 0
    """Bytes of a number of a buffer where the model is in 16 bit. 0 for a parameter."""

    @property
    def numbers(self) -> int:
        """How many numbers all of them hold."""
        return prod(self.shape) * self.count

    @property
    def parameters(self) -> int:
        """How many of those are parameters."""
        return 0 if self.fixed else self.numbers

    @property
    def module(self) -> str:
        """The last name of its module: q_proj."""
        return self.name.split(".")[-2] if "." in self.name else ""


@dataclass(frozen=True, slots=True)
class Layer:
    """What layers of one kind remember of a sequence."""

    kind: str
    """full, sliding, latent (MLA), linear, hybrid, or shared: it reads what another layer remembers."""
    count: int
    per_token: int = 0
    """Numbers of each token, held as the cache is."""
    state: int = 0
    """Numbers of each sequence however long it is, in 16 bit where the model is."""
    state_bytes: int = 0
    """Bytes of each sequence that are in fp32 whatever the model is in."""
    window: int | None = None
    """It holds the last `window - 1` tokens."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the headers of a checkpoint say."""

    parameters: int
    """Numbers held in floating point; the packed ones of a quantized checkpoint are not among them."""
    bytes: int
    """Of all tensors as they are stored."""
    loaded: int
    """Of all tensors once loaded as they are, floating-point ones in 16 bit."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A model without its weights. Sizes that a model does not have are 0."""

    model_type: str
    covers: Covers
    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    hidden: int = 0
    intermediate: int = 0
    """Of the layers that read a token; with experts, of those that read it together."""
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    vocabulary: int = 0
    context: int = 0
    """Longest text that it was made for; 0 where that is not said."""
    tied: bool = False
    experts: int = 0
    experts_per_token: int = 0
    adapted: tuple[str, ...] = ()
    """Linear modules that an adapter on all of them reaches, by their last name."""
    quantization: str = ""
    """The method that its checkpoint was quantized with."""
    quantization_bits: int = 0
    quantization_group: int = 0
    stored: Stored | None = None
    notes: tuple[Note, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """As config.json has it, for whoever has to build the model."""

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return sum(layer.count for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Exactly, tied ones once; of headers alone what they hold in floating point."""
        if not self.tensors and self.stored:
            return self.stored.parameters
        return sum(tensor.parameters for tensor in self.tensors)

    def of(self, module: str) -> tuple[Tensor, ...]:
        """The matrices of the modules with this last name."""
        return tuple(t for t in self.tensors if t.module == module and len(t.shape) == 2)


def parameters_by_module(facts: Facts) -> dict[str, int]:
    """Parameters by the place of their module, numbers of layers as a star, most first."""
    sums: dict[str, int] = {}
    for tensor in facts.tensors:
        place = tensor.name.rpartition(".")[0]
        sums[place] = sums.get(place, 0) + tensor.parameters
    return dict(sorted(((k, v) for k, v in sums.items() if v), key=lambda pair: -pair[1]))
