"""Which tensor of a checkpoint becomes which parameter of the model, by transformers' own rules, without a weight."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.adapters.base_weights import BaseWeights
from studio.errors import Damaged, Unsupported
from studio.loading.outlook import read_config, unbuildable
from studio.loading.skeleton import held_dtypes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of the checkpoint, as a part of a parameter or all of it."""

    tensor: str
    expert: int | None = None
    """Which of the fused experts it belongs to; None where they are not apart in the checkpoint."""
    first: int = 0
    """The row of the parameter, or of this expert, at which it begins."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the model."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    """What it is held in by a model of the dtype that was asked for."""
    flipped: bool = False
    """Whether it has its inputs first: Conv1D."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A model and how its checkpoint is spelled."""

    model: PreTrainedModel
    """On the meta device."""
    parameters: Mapping[str, Parameter]
    pieces: Mapping[str, tuple[Piece, ...]]
    """Parameter → where its numbers are. Absent: tied ones that the checkpoint has under the other name, and those
    that are put together in a way that is not known here."""
    puzzles: frozenset[str]
    """Parameters that transformers puts together from the checkpoint in another way than side by side."""
    tied: Mapping[str, str]
    """Parameter → the one whose weight it shares."""
    embedding: str
    head: str
    """The names of their weights; the head is empty where there is none."""
    rename: Any
    """A name of the checkpoint → the parameter that it becomes, or its first one."""


def lay_out(folder: Path, weights: BaseWeights, dtype: torch.dtype, **changes: Any) -> Layout:
    """Build the model of a folder without its weights, with `changes` to its config, and find its tensors.

    Raises Unsupported for what is no causal language model, Damaged where the weights do not suit the config.
    """
    model = build(folder, dtype, **changes)
    names = _Names(model)
    groups: dict[str, dict[str, list[str]]] = {}
    for tensor in sorted(weights.tensors, key=names.order):
        parameter, pattern = names.of(tensor)
        groups.setdefault(parameter, {}).setdefault(pattern or tensor, []).append(tensor)
    state = model.state_dict()
    pieces: dict[str, tuple[Piece, ...]] = {}
    puzzles: set[str] = set()
    for parameter, sources in groups.items():
        if parameter not in state:
            continue
        found = _side_by_side(names, sources, weights)
        if found is None:
            puzzles |= {name for name in names.targets(parameter, next(iter(sources))) if name in state}
        else:
            pieces[parameter] = found
    layout = Layout(
        model=model,
        parameters=_parameters(model, dtype),
        pieces=pieces,
        puzzles=frozenset(puzzles),
        tied=dict(model.all_tied_weights_keys),
        embedding=_name(model, model.get_input_embeddings()),
        head=_name(model, model.get_output_embeddings()),
        rename=lambda tensor: names.of(tensor)[0],
    )
    _check_whole(layout, weights)
    return layout


def build(folder: Path, dtype: torch.dtype, **changes: Any) -> PreTrainedModel:
    """The model of a folder on the meta device, as if nothing were quantized, with `changes` to its config."""
    import torch
    from transformers import AutoModelForCausalLM

    config = copy(read_config(folder))
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for name, value in changes.items():
        for part in {id(part): part for part in (config, config.get_text_config())}.values():
            if hasattr(part, name):
                setattr(part, name, value)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except ImportError as error:
        raise Unsupported(f"This model needs more than is installed: {error}", "Install what it names.") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise unbuildable(error) from error
    model.tie_weights()
    return model


class _Names:
    """The names of a checkpoint as transformers reads them, by two of its functions that loading goes through."""

    def __init__(self, model: PreTrainedModel) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key

        mapping = get_model_conversion_mapping(model)
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self._by_pattern = {pattern: entry for entry in self._converters for pattern in entry.source_patterns}
        self._prefix, self._state = model.base_model_prefix, model.state_dict()
        self.order = dot_natural_key
        """The order in which tensors of one parameter are taken."""

    def of(self, tensor: str) -> tuple[str, str | None]:
        """The parameter that a tensor becomes, or the first of several, and the pattern of what converts it."""
        from transformers.core_model_loading import rename_source_key

        found: tuple[str, str | None] = rename_source_key(
            tensor, self._renamings, self._converters, self._prefix, self._state
        )
        if found[0] not in self._state and tensor in self._state:
            found = rename_source_key(tensor, [], [], self._prefix, self._state)
        return found

    def converter(self, pattern: str) -> Any:
        """What converts the tensors of a pattern; None for the name of a tensor itself."""
        return self._by_pattern.get(pattern)

    def targets(self, parameter: str, pattern: str) -> list[str]:
        """All parameters that come out of a conversion, of which one is known."""
        patterns = self._by_pattern[pattern].target_patterns
        return [parameter.replace(patterns[0], target) for target in patterns]


def _side_by_side(names: _Names, sources: dict[str, list[str]], weights: BaseWeights) -> tuple[Piece, ...] | None:
    """The tensors of a parameter as parts of it; None where it is more than putting them side by side."""
    converter = names.converter(next(iter(sources)))
    if converter is None:
        tensors = [tensor for some in sources.values() for tensor in some]
        return (Piece(tensors[0]),) if len(tensors) == 1 else None
    steps = [(type(step).__name__, getattr(step, "dim", None)) for step in converter.operations]
    fuses = steps[:1] == [("MergeModulelist", 0)]
    joins = steps[1:] if fuses else steps
    if joins not in ([], [("Concatenate", 1 if fuses else 0)]) or len(converter.target_patterns) > 1:
        return None
    pieces, first = [], 0
    for pattern in converter.source_patterns:
        tensors = sources.get(pattern, [])
        if not tensors or (not fuses and len(tensors) > 1):
            return None
        pieces += [Piece(tensor, index if fuses else None, first) for index, tensor in enumerate(tensors)]
        first += weights.tensors[tensors[0]].shape[0]
    return tuple(pieces)


def _parameters(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Parameter]:
    from transformers.pytorch_utils import Conv1D

    flipped = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    held = held_dtypes(model, dtype)
    return {
        name: Parameter(tuple(parameter.shape), held[name], name in flipped)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _name(model: PreTrainedModel, module: Any) -> str:
    """The name of the weight of a module; empty where there is none."""
    return next((f"{name}.weight" for name, other in model.named_modules() if other is module and module), "")


def _check_whole(layout: Layout, weights: BaseWeights) -> None:
    """Raise Damaged where a parameter has no numbers, or too few or too many of them."""
    twins = {**layout.tied, **{source: twin for twin, source in layout.tied.items()}}
    for name, parameter in layout.parameters.items():
        there = name in layout.pieces or name in layout.puzzles
        if not there and twins.get(name) not in layout.pieces:
            raise Damaged(f"The base has no {name}, which its config calls for.", "Download the model again.")
        pieces = layout.pieces.get(name, ())
        if pieces and not _adds_up(parameter, pieces, weights):
            shapes = [list(weights.tensors[piece.tensor].shape) for piece in pieces[:2]]
            raise Damaged(
                f"{pieces[0].tensor} has the shape {shapes[0]}, and the config calls for {list(parameter.shape)}.",
                "The config belongs to other weights. Download the model again.",
            )


def _adds_up(parameter: Parameter, pieces: tuple[Piece, ...], weights: BaseWeights) -> bool:
    shapes = [weights.tensors[piece.tensor].shape for piece in pieces]
    if len(pieces) == 1 and pieces[0].expert is None:
        quantized = bool(weights.tensors[pieces[0].tensor].parts)
        return shapes[0] == (parameter.shape[::-1] if parameter.flipped and quantized else parameter.shape)
    experts = {piece.expert for piece in pieces}
    inner = parameter.shape if None in experts else parameter.shape[1:]
    if None not in experts and experts != set(range(parameter.shape[0])):
        return False
    rows = sum(shape[0] for shape in shapes)
    return rows == inner[0] * len(experts) and all(shape[1:] == inner[1:] for shape in shapes)
