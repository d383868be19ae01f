"""An adapter held against a base, by name and shape: PEFT itself says what it would do, on tensors without content."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.adapters.adapter import PREFIX, WEIGHTS, AdaptedModule, Adapter, Shape
from studio.adapters.base_weights import BaseWeights, open_base
from studio.adapters.layout import Layout, lay_out
from studio.adapters.sketch import another_base, sketch
from studio.adapters.stored import places
from studio.errors import InputError, Unsupported

if TYPE_CHECKING:
    import torch

_MOST_TOKENS = 1 << 20
"""No vocabulary is larger; a number beyond comes from a file that is damaged."""


@dataclass(frozen=True, slots=True)
class Match:
    """An adapted module and what it meets in the base."""

    module: str
    """As in `AdaptedModule.path`."""
    parameter: str
    """The parameter of the model that it updates."""
    tensors: tuple[str, ...]
    """Where its numbers are in the checkpoint; several for fused experts. Empty where that is not known."""
    shape: Shape
    rank: int
    """Of fused experts, that of one."""
    scaling: float
    experts: int
    """How many there are; 1 where nothing is fused."""
    flipped: bool
    """Whether the parameter has its inputs first: an embedding, Conv1D, the experts of some architectures."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """A tensor of the adapter that takes the place of a parameter, or of some of its rows."""

    parameter: str
    key: str
    """What the file of the adapter calls it."""
    shape: Shape
    rows: tuple[int, ...] | None = None
    """The rows that it has; None where it has all of them."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What an adapter finds in a base."""

    matches: tuple[Match, ...]
    replaced: tuple[Replaced, ...]
    vocabulary: int
    """Rows of the embedding once the adapter is on: more than the base has where it brings tokens."""
    missing: tuple[str, ...]
    """What the config asks for and the file does not have."""
    unexpected: tuple[str, ...]
    """What the file has and the base has no place for, or the config does not ask for."""
    mismatched: tuple[str, ...]
    """What has another shape there, each in words."""
    foreign: str
    """Why this is not the base that it was trained on; empty where it is, or where nothing recorded tells."""
    older: bool
    """Whether its names are from before transformers 5, and mean something once PEFT has converted them."""

    @property
    def fits(self) -> bool:
        """Whether nothing is left over on either side."""
        return not (self.missing or self.unexpected or self.mismatched or self.foreign)


def fit(adapter: Adapter, base_folder: Path) -> Fit:
    """Hold an adapter against the base in a folder. Takes seconds, and reads a few rows of the embedding.

    Raises Unsupported or Damaged for a base that cannot be opened, InputError where PEFT does not put this on it.
    """
    import torch

    weights = open_base(base_folder)
    return fit_to(adapter, weights, lay_out(base_folder, weights, torch.bfloat16))


def fit_to(adapter: Adapter, weights: BaseWeights, layout: Layout) -> Fit:
    """The same with what is known of the base. PEFT takes the model of the layout for its own: it is used up."""
    vocabulary = _vocabulary(adapter, layout)
    rows = layout.parameters[layout.embedding].shape[0]
    model = layout.model
    if vocabulary != rows:
        with quiet():
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
    adapted = _with_peft(model, adapter)
    held = _shapes(Path(adapter.folder))
    expected = _expected(adapted)
    unexpected = sorted(held.keys() - expected.keys() - _beside(adapter, layout))
    older = bool(unexpected) and adapter.type == "LORA" and _are_older(unexpected, layout)
    return Fit(
        matches=() if older else tuple(_matches(adapter, adapted, layout)),
        replaced=tuple(_replaced(adapter)),
        vocabulary=vocabulary,
        missing=() if older else tuple(sorted(expected.keys() - held.keys())),
        unexpected=() if older else tuple(key.removeprefix(PREFIX) for key in unexpected),
        mismatched=tuple(_mismatched(held, expected)),
        foreign=another_base(Path(adapter.folder), sketch_of(weights, layout)),
        older=older,
    )


def _vocabulary(adapter: Adapter, layout: Layout) -> int:
    """How many rows embedding and head are to have. Raises InputError where that cannot be."""
    rows = layout.parameters[layout.embedding].shape[0]
    tables = (layout.embedding, layout.head)
    whole = max((each.shape[0] for each in adapter.whole if each.name in tables and len(each.shape) == 2), default=rows)
    highest = max((max(each.rows, default=0) for each in adapter.tokens), default=0)
    if highest >= _MOST_TOKENS:
        raise InputError(f"The adapter has trained token {highest:,}, which no vocabulary has.", "Choose another one.")
    return max(whole, rows, highest + 1) if whole >= rows else whole


@contextmanager
def quiet() -> Iterator[None]:
    """Without what PEFT and transformers warn of, which is looked at here in other ways."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _with_peft(model: Any, adapter: Adapter) -> Any:
    """The model with an empty adapter on it, as PEFT understands the config, on the meta device."""
    import torch
    from peft import PeftConfig, get_peft_model

    try:
        with quiet(), torch.device("meta"):
            config = PeftConfig.from_pretrained(adapter.folder)
            if adapter.type == "LORA":
                config.init_lora_weights = False  # or it would look at the weights of the base
            return get_peft_model(model, config, low_cpu_mem_usage=True)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, NotImplementedError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(
            f"The adapter does not go on this base: {words}", "Choose the base model that it was trained on."
        ) from error


def _beside(adapter: Adapter, layout: Layout) -> set[str]:
    """What PEFT adds to a file unasked where the vocabulary was enlarged, and reads again without a word."""
    tables = {layout.embedding, layout.head}
    tables_saved = {each.key for each in adapter.whole if each.name in tables}
    tied = {each.key for each in adapter.tokens if f"{each.path}.weight" in layout.tied}
    return tables_saved | tied


def _shapes(folder: Path) -> dict[str, Shape]:
    return {name: place.shape for name, place in places([folder / WEIGHTS]).items()}


def _expected(adapted: Any) -> dict[str, Shape]:
    from peft import get_peft_model_state_dict

    with quiet():
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _are_older(keys: Sequence[str], layout: Layout) -> bool:
    """Whether what the base has no place for would have one if it were a tensor of an older checkpoint."""
    paths = {key.removeprefix(PREFIX).partition(".lora_")[0] for key in keys}
    return all(
        f"{path}.weight" not in layout.parameters and layout.rename(f"{path}.weight") in layout.parameters
        for path in paths
    )


def _matches(adapter: Adapter, adapted: Any, layout: Layout) -> Iterator[Match]:
    layers = dict(adapted.base_model.model.named_modules())
    for module in adapter.modules:
        layer = layers.get(module.path)
        if layer is not None and hasattr(layer, "scaling"):
            yield _match(module, layer, layout)


def _match(module: AdaptedModule, layer: Any, layout: Layout) -> Match:
    own = getattr(layer, "parameter_name", None)
    inside = module.path
    while own and inside.endswith(".base_layer"):
        inside = inside.removesuffix(".base_layer")
    parameter = f"{inside}.{own or 'weight'}"
    if parameter not in layout.parameters:
        raise Unsupported(f"{module.path} is adapted, and it has no weight.", "Choose another adapter.")
    shape = layout.parameters[parameter].shape
    experts = shape[0] if len(shape) == 3 else 1
    turned = getattr(layer.get_base_layer(), "is_transposed", False) if len(shape) == 3 else layer.fan_in_fan_out
    return Match(
        module=module.path,
        parameter=parameter,
        tensors=tuple(piece.tensor for piece in layout.pieces.get(stored_name(parameter, layout), ())),
        shape=shape,
        rank=int(layer.r["default"]),
        scaling=float(layer.scaling["default"]),
        experts=experts,
        flipped=bool(turned) or module.embedding,
    )


def stored_name(parameter: str, layout: Layout) -> str:
    """The name under which the checkpoint has a parameter: of two that share a weight it may have one."""
    if parameter in layout.pieces:
        return parameter
    twins = {**layout.tied, **{source: twin for twin, source in layout.tied.items()}}
    return twins.get(parameter, parameter)


def _replaced(adapter: Adapter) -> Iterator[Replaced]:
    for whole in adapter.whole:
        yield Replaced(whole.name, whole.key, whole.shape)
    for some in adapter.tokens:
        yield Replaced(f"{some.path}.weight", some.key, some.shape, some.rows)


def _mismatched(held: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Iterator[str]:
    for key in sorted(held.keys() & expected.keys()):
        if held[key] != expected[key]:
            yield f"{key.removeprefix(PREFIX)} is {list(held[key])} and would be {list(expected[key])}"


def sketch_of(weights: BaseWeights, layout: Layout) -> tuple[float, ...]:
    """The sketch of a base, where its checkpoint has the embedding in one piece; else empty."""
    pieces = layout.pieces.get(stored_name(layout.embedding, layout), ())
    if len(pieces) != 1:
        return ()
    count = min(256, layout.parameters[layout.embedding].shape[0])
    first: torch.Tensor = weights.read(pieces[0].tensor, 0, count)
    return sketch(first)
