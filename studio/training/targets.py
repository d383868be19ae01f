"""Which modules of a model can have an adapter, what each would cost, and why some cannot. Needs no weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from studio.errors import InputError
from studio.training.plan import ALL_LINEAR

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Kind = Literal["linear", "conv1d", "experts", "router", "embedding", "head"]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Modules of one name: the q_proj of every layer."""

    name: str
    """q_proj; of experts, whose weights are parameters of one module, experts.gate_up_proj."""
    kind: Kind
    paths: tuple[str, ...]
    """Modules by their whole names; of experts and routers the parameters."""
    shapes: tuple[Shape, ...]
    """Of each: outputs and inputs; of experts their number and both sides."""
    refused: str = ""
    """Why none of them can have an adapter; empty where they can."""
    usual: bool = False
    """Part of all-linear."""

    @property
    def count(self) -> int:
        """How many there are; fused experts of one layer are one."""
        return len(self.paths)

    @property
    def smallest(self) -> int:
        """The shorter side of the smallest of them: a higher rank says nothing more."""
        return min(min(shape[-2:]) for shape in self.shapes)

    @property
    def sizes(self) -> tuple[tuple[Shape, int], ...]:
        """The shapes that there are, and how many have each."""
        return tuple(Counter(self.shapes).items())

    @property
    def weights(self) -> int:
        """Parameters that all of them have."""
        return sum(map(prod, self.shapes))

    def parameters(self, rank: int, *, dora: bool = False) -> int:
        """Those of a LoRA adapter of a rank on all of them."""
        return sum(_adapter(shape, rank, dora=dora) for shape in self.shapes)


@dataclass(frozen=True, slots=True)
class Targets:
    """What a model has to put adapters on."""

    groups: tuple[Group, ...]
    weights: int
    """Parameters of the model, tied ones once."""
    model_type: str

    def chosen(self, wish: str = ALL_LINEAR) -> tuple[Group, ...]:
        """What `TrainingSettings.targets` comes to, in the order of the model. Raises InputError that names others.

        A group of which a part is meant has that part only.
        """
        if wish == ALL_LINEAR:
            found = tuple(group for group in self.groups if group.usual)
            if not found:
                raise InputError("Nothing in this model takes an adapter.", "Choose the method full, or another model.")
            return found
        meant = [(name, self._named(name)) for name in _split(wish)]
        for name, paths in meant:
            if not paths:
                raise self._stranger(name)
        wanted = {path for _, paths in meant for path in paths}
        chosen = tuple(part for group in self.groups if (part := _part(group, wanted)))
        for group in chosen:
            if group.refused:
                raise InputError(f"{group.name} cannot have an adapter: {group.refused}.", _INSTEAD[group.kind])
        return chosen

    def parameters(self, wish: str, rank: int, *, dora: bool = False) -> int:
        """Those of an adapter on what is wished."""
        return sum(group.parameters(rank, dora=dora) for group in self.chosen(wish))

    def bytes(self, wish: str, rank: int, *, dora: bool = False) -> int:
        """Of its file: adapters are held and saved in fp32."""
        return 4 * self.parameters(wish, rank, dora=dora)

    def _named(self, name: str) -> set[str]:
        return {path for group in self.groups for path in group.paths if means(name, path)}

    def _stranger(self, name: str) -> InputError:
        known = list(dict.fromkeys(group.name for group in self.groups if not group.refused))
        close = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"It has {', '.join(known)}."
        return InputError(f"No module that takes an adapter is called {name!r}.", hint)


_INSTEAD = {
    "linear": "Leave it out, or name the attention modules.",
    "conv1d": "Leave it out.",
    "experts": "Leave them out, or name the attention modules.",
    "router": "Leave it out: all-linear does.",
    "embedding": "Leave it out; to teach new words, add new tokens or name it among the whole modules.",
    "head": "Leave it out; name it among the whole modules, where it is trained together with the embedding.",
}
_TIED = "head and embedding share one weight, and an adapter on one of them is merged wrong without a word"
_TAKEN = "PEFT takes its name for that of the fused experts"
_PASSED = "the fast kernels of Mamba read its weight and go past the adapter"
_MAMBAS = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")


def targets_of(model: PreTrainedModel) -> Targets:
    """Look at a model, or at its skeleton on the meta device. Takes milliseconds; seconds for one with fused experts.

    A quantized model answers as it would in 16 bit.
    """
    from torch.nn import Conv1d, Embedding
    from transformers.pytorch_utils import Conv1D

    modules = dict(model.named_modules())
    tied = {name.rpartition(".")[0] for name in _tied(model)}
    head = model.get_output_embeddings()
    found: dict[tuple[str, Kind], list[tuple[str, Shape]]] = {}

    def note(name: str, kind: Kind, path: str, shape: Sequence[int]) -> None:
        found.setdefault((name, kind), []).append((path, tuple(shape)))

    for path, module in modules.items():
        last = path.rpartition(".")[2]
        if is_linear(module):
            note(last, "head" if module is head else "linear", path, (module.out_features, module.in_features))
        elif isinstance(module, Conv1D):
            note(last, "head" if module is head else "conv1d", path, tuple(module.weight.shape)[::-1])
        elif isinstance(module, Embedding):
            note(last, "embedding", path, module.weight.shape)
        elif not isinstance(module, Conv1d):
            _note_parameters(path, last, module, note)
    taken = _taken_by_experts(model, found) if any(kind == "experts" for _, kind in found) else set()
    groups = []
    for (name, kind), places in found.items():
        refused = _refusal(kind, {path for path, _ in places} & tied, name in taken)
        if name == "out_proj" and model.config.model_type in _MAMBAS:
            refused = _PASSED
        groups.append(
            Group(
                name=name,
                kind=kind,
                paths=tuple(path for path, _ in places),
                shapes=tuple(shape for _, shape in places),
                refused=refused,
                usual=not refused and kind in ("linear", "conv1d", "experts"),
            )
        )
    return Targets(tuple(groups), _weights(model), model.config.model_type)


def is_linear(module: Any) -> bool:
    """Whether a module is a linear layer, quantized by bitsandbytes or not: those are subclasses."""
    from torch.nn import Linear

    return isinstance(module, Linear)


def short_names(paths: Iterable[str], model: PreTrainedModel) -> list[str]:
    """The shortest names that mean these modules and no others: q_proj where every q_proj is among them.

    They are what goes into the adapter's config, where other programs read them.
    """
    wanted = set(paths)
    by_last: dict[str, set[str]] = {}
    for path, _ in model.named_modules():
        by_last.setdefault(path.rpartition(".")[2], set()).add(path)
    lasts = {path.rpartition(".")[2] for path in wanted}
    whole = {last for last in lasts if by_last[last] <= wanted}
    return sorted(whole | {path for path in wanted if path.rpartition(".")[2] not in whole})


def _note_parameters(path: str, last: str, module: Any, note: Callable[[str, Kind, str, Sequence[int]], None]) -> None:
    """What is held as a bare parameter: fused experts, three-dimensional since transformers 5, and what routes."""
    for own, parameter in module.named_parameters(recurse=False):
        if parameter.ndim == 3:
            note(f"{last}.{own}", "experts", f"{path}.{own}", parameter.shape)
        elif own == "weight" and parameter.ndim == 2 and "router" in type(module).__name__.lower():
            note(last, "router", f"{path}.{own}", parameter.shape)


def _refusal(kind: Kind, tied: set[str], taken: bool) -> str:
    if tied and kind in ("head", "embedding"):
        return _TIED
    return _TAKEN if taken and kind == "linear" else ""


def _taken_by_experts(model: PreTrainedModel, found: dict[tuple[str, Kind], Any]) -> set[str]:
    """Names of linear layers that PEFT would put on the experts instead, as adapters from before transformers 5 did."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    taken = set()
    for name, kind in found:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model=model, conversions=None)
        except ValueError:  # it wants the other half of what was fused
            taken.add(name)
        if kind == "linear" and name not in (config.target_modules or ()):
            taken.add(name)
    return taken


def _tied(model: PreTrainedModel) -> set[str]:
    """Parameters that share their weight with another, both ends."""
    pairs = getattr(model, "all_tied_weights_keys", None) or {}
    return {*pairs, *pairs.values()}


def _weights(model: PreTrainedModel) -> int:
    """Parameters, tied ones once; what bitsandbytes has packed counts as what it was."""
    twins = set(getattr(model, "all_tied_weights_keys", None) or {})
    total = 0
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if f"{path}.{own}".lstrip(".") not in twins:
                packed = own == "weight" and is_linear(module)
                total += module.in_features * module.out_features if packed else parameter.numel()
    return total


def _adapter(shape: Shape, rank: int, *, dora: bool) -> int:
    outputs, inputs = shape[-2:]
    experts = shape[0] if len(shape) == 3 else 1
    return rank * experts * (outputs + inputs) + (outputs if dora else 0)


def means(name: str, path: str) -> bool:
    """Whether a name, which may have stars, means the end of a path, or all of it. A router goes by its module."""
    places = (path, path.removesuffix(".weight"))
    return any(fnmatchcase(place, name) or fnmatchcase(place, f"*.{name}") for place in places)


def _part(group: Group, wanted: set[str]) -> Group | None:
    """The group with no more than what is wanted of it; None where that is nothing."""
    kept = [(path, shape) for path, shape in zip(group.paths, group.shapes, strict=True) if path in wanted]
    if not kept:
        return None
    return replace(group, paths=tuple(path for path, _ in kept), shapes=tuple(shape for _, shape in kept))


def _split(wish: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in wish.split(",") if name.strip())
