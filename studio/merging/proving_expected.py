"""What the weights of a merge have to be: PEFT's own layers merged in fp32, one at a time, over a hollow model.

The arithmetic is PEFT's and not that of the merge: a mistake of the one is not repeated by the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checkpoint import read_header, read_json
from studio.errors import Unsupported
from studio.loading.reading import with_adapter

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_PREFIX = "base_model.model."
_MOVE_THE_BASE = ("pissa", "olora", "corda")


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """One parameter: what it is in the base and what the merge has to make of it, both in fp32.

    A row that the base does not have, of a token that was added, is NaN in `before`; one that the adapter does not
    fill either is NaN in both, and may be anything.
    """

    name: str
    before: Tensor
    after: Tensor


class Expectations:
    """What an adapter makes of a base. `read` gives a parameter of the base by its name."""

    def __init__(self, base: PreTrainedModel, adapter: Path, read: Callable[[str], Tensor]) -> None:
        start = read_json(adapter / "adapter_config.json").get("init_lora_weights")
        if isinstance(start, str) and start.startswith(_MOVE_THE_BASE):
            raise Unsupported(
                f"This adapter began as {start} and was saved without being converted: it goes on a base that is not"
                " the one it names.",
                "Save it with path_initial_model_for_weight_conversion, as PEFT documents.",
            )
        self._read = read
        known = set(base.state_dict())
        self._whole = {name: tensor for name, tensor in _whole(adapter) if name in known}
        self._adapted: Any = with_adapter(_hollow(base, self._whole.keys()), adapter)
        self._modules = list(self._wrapped())
        self.names = frozenset(name for path, module in self._modules for name in _names(path, module)) | set(
            self._whole
        )

    def each(self) -> Iterator[Expected]:
        """Every parameter that the adapter reaches, with the memory of one module at a time."""
        told = set()
        for path, module in self._modules:
            for expected in self._merged(path, module):
                told.add(expected.name)
                yield expected
        for name in sorted(self._whole.keys() - told):
            after = self._whole[name].float()
            yield Expected(name, self._before(name, after), after)

    def _wrapped(self) -> Iterator[tuple[str, Any]]:
        """The outermost modules that PEFT has put something around, by their names in the base."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        inside: tuple[str, ...] = ()
        for name, module in self._adapted.named_modules():
            if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and not name.startswith(inside):
                inside = (*inside, f"{name}.")
                yield name.removeprefix(_PREFIX), module

    def _merged(self, path: str, module: Any) -> Iterator[Expected]:
        if saved := getattr(module, "modules_to_save", None):
            for own, parameter in saved[module.active_adapter].named_parameters():
                after = parameter.detach().float()
                yield Expected(f"{path}.{own}", self._before(f"{path}.{own}", after), after)
            return
        layer = _base_of(module)
        parameters = dict(layer.named_parameters(recurse=False))
        before = {own: self._before(f"{path}.{own}", parameter) for own, parameter in parameters.items()}
        hollow = {own: parameter.data for own, parameter in parameters.items()}
        for own, parameter in parameters.items():
            parameter.data = self._whole.get(f"{path}.{own}", before[own]).float().clone()
        # Some merge all that is nested, and some know merge() alone.
        if hasattr(module, "unload_and_optionally_merge_module"):
            module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        else:
            module.merge()
        after = {own: parameter.data for own, parameter in parameters.items()}
        for own, parameter in parameters.items():
            parameter.data = hollow[own]
        for own in before:
            yield Expected(f"{path}.{own}", before[own], after[own])

    def _before(self, name: str, like: Tensor) -> Tensor:
        """A parameter of the base in fp32, with rows of NaN for tokens that it does not have."""
        import torch

        stored = self._read(name).float()
        missing = like.shape[0] - stored.shape[0]
        if missing <= 0:
            return stored
        return torch.nn.functional.pad(stored, (0, 0) * (stored.ndim - 1) + (0, missing), value=float("nan"))


def _whole(adapter: Path) -> Iterator[tuple[str, Tensor]]:
    """What an adapter holds under the name of a parameter of the base, to be put in its place: biases, an embedding."""
    from safetensors import safe_open

    file = adapter / "adapter_model.safetensors"
    with safe_open(file, "pt") as stored:
        for key in read_header(file).keys() - {"__metadata__"}:
            if ".lora_" not in key:
                yield key.removeprefix(_PREFIX).replace(".base_layer.", "."), stored.get_tensor(key)


def _base_of(module: Any) -> Any:
    adapter = getattr(module, "token_adapter", module)
    return adapter.get_base_layer()


def _names(path: str, module: Any) -> Iterator[str]:
    saved = getattr(module, "modules_to_save", None)
    layer = saved[module.active_adapter] if saved else _base_of(module)
    yield from (f"{path}.{own}" for own, _ in layer.named_parameters(recurse=bool(saved)))


def _hollow(model: PreTrainedModel, filled: Collection[str]) -> PreTrainedModel:
    """The model with matrices on the CPU that take no memory, but for those that are `filled`.

    On the CPU, for PEFT moves an adapter to where its base is, and on the meta device it would be gone.
    """
    import torch

    made: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for path, module in model.named_modules():
        for own, parameter in module._parameters.items():
            if parameter is not None:
                shape = parameter.shape
                real = len(shape) < 2 or f"{path}.{own}" in filled
                empty = torch.zeros(shape) if real else torch.zeros(()).expand(shape)
                module._parameters[own] = made.setdefault(parameter, torch.nn.Parameter(empty, requires_grad=False))
    return model
