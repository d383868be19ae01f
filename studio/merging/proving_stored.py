"""The weights of a folder under the names of the model's own parameters, each read when it is asked for."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio.checkpoint import read_header, weight_files
from studio.errors import Damaged
from studio.events import Phase, Progress
from studio.loading import LoadPlan
from studio.loading.outlook import read_config
from studio.loading.skeleton import build_skeleton
from studio.models import ModelRef, Precision
from studio.quality import GaveUp

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_CONSTANTS = re.compile(r"(.+\.weight)\.(?:absmax|quant_map|nested_\w+|quant_state\..+)$|(.+)\.(?:SCB|weight_format)$")
"""What bitsandbytes stores beside a quantized weight, and whose it is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a file: where it is and what its header says."""

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(slots=True)
class _Source:
    """The tensors that a parameter comes from, and how transformers puts several together."""

    entries: list[tuple[str, Entry]] = field(default_factory=list)
    converter: Any = None


def empty_model(folder: Path, precision: Precision = Precision.FP32) -> PreTrainedModel:
    """The model of a folder's config on the meta device; quantized weights as what they were before."""
    config = read_config(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return build_skeleton(config, LoadPlan(ModelRef("folder", str(folder)), precision)).model


def plain_model(folder: Path, say: Callable[[Progress], None], stop: Event) -> PreTrainedModel:
    """The model of a folder on the CPU in fp32, with quantized weights as the numbers that they stand for."""
    import torch
    from transformers import AutoModelForCausalLM

    empty = empty_model(folder)
    stored = Stored(folder, empty)
    model = AutoModelForCausalLM.from_config(empty.config, dtype=torch.float32, trust_remote_code=False)
    state = model.state_dict()
    if missing := sorted(state.keys() - stored.names):
        raise Damaged(f"The weights do not hold {missing[0]}.", "Download the model again.")
    for done, (name, tensor) in enumerate(state.items()):
        if stop.is_set():
            raise GaveUp
        say(Progress(Phase.READ, done, len(state)))
        with torch.no_grad():
            tensor.copy_(stored.read(name))
    return model.eval()


class Stored:
    """The weights in the safetensors files of a folder, whose headers are whole."""

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import dot_natural_key

        self.model, self._there = model, model.state_dict()
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._there.items()}
        self.tied: dict[str, str] = dict(model.all_tied_weights_keys)
        self.entries: dict[str, Entry] = {}
        for file in weight_files(folder):
            for key, entry in read_header(file).items():
                if key != "__metadata__":
                    begin, end = entry["data_offsets"]
                    self.entries[key] = Entry(file, key, entry["dtype"], tuple(entry["shape"]), end - begin)
        self.strangers: list[str] = []
        self._constants: dict[str, list[Entry]] = {}
        self._sources: dict[str, _Source] = {}
        self._first: dict[str, str] = {}
        self._latest: tuple[str, dict[str, Tensor]] = ("", {})
        mapping = get_model_conversion_mapping(model)
        for key in sorted(self.entries, key=dot_natural_key):
            self._place(key, mapping)

    @property
    def names(self) -> set[str]:
        """The parameters and buffers that the files hold, and those that are tied to one of them."""
        return self._first.keys() | {name for name, twin in self.tied.items() if twin in self._first}

    @property
    def quantized(self) -> bool:
        """Whether bitsandbytes has quantized some of it."""
        return bool(self._constants)

    def entry(self, name: str) -> Entry:
        """What the header says of the tensor that a parameter is read from, of several the first."""
        return self._sources[self._first[self._own(name)]].entries[0][1]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that a parameter is read in."""
        own = self._own(name)
        source = self._sources[self._first[own]]
        plain = source.converter is None and source.entries[0][1].key not in self._constants
        return source.entries[0][1].shape if plain else tuple(self.read(own).shape)

    def read(self, name: str) -> Tensor:
        """A parameter as it is stored; one that was quantized in fp32. Takes the memory of that parameter."""
        own = self._own(name)
        first = self._first[own]
        if self._latest[0] != first:
            self._latest = (first, self._converted(first))
        return self._latest[1][own]

    def holds_itself(self, name: str) -> bool:
        """Whether the files hold it under its own name, and not by what it is tied to alone."""
        return name in self._first

    def _own(self, name: str) -> str:
        return name if name in self._first else self.tied[name]

    def _place(self, key: str, mapping: list[Any]) -> None:
        """Find the parameter that a tensor belongs to, as transformers does when it loads."""
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        if (constant := _CONSTANTS.fullmatch(key)) and (
            whose := constant[1] or f"{constant[2]}.weight"
        ) in self.entries:
            self._constants.setdefault(whose, []).append(self.entries[key])
            return
        renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
        converters = [each for each in mapping if isinstance(each, WeightConverter)]
        prefix, there = self.model.base_model_prefix, self._there
        name, pattern = rename_source_key(key, renamings, converters, prefix, there)
        if name not in there and key in there:
            name, pattern = rename_source_key(key, [], [], prefix, there)
        if name not in there:
            self.strangers.append(key)
            return
        source = self._sources.setdefault(name, _Source())
        names = [name]
        if pattern is not None:
            converter = next(each for each in converters if pattern in each.source_patterns)
            source.converter = source.converter or copy.deepcopy(converter)
            names = [name.replace(converter.target_patterns[0], target) for target in converter.target_patterns]
        source.entries.append((pattern or key, self.entries[key]))
        self._first |= dict.fromkeys(names, name)

    def _converted(self, name: str) -> dict[str, Tensor]:
        source = self._sources[name]
        if source.converter is None:
            return {name: self._plain(source.entries[0][1])}
        converter = copy.deepcopy(source.converter)
        for pattern, entry in source.entries:
            converter.add_tensor(name, entry.key, pattern, lambda entry=entry: self._plain(entry))
        made = converter.convert(name, model=self.model, config=self.model.config)
        return {each: tensor[0] if isinstance(tensor, list) else tensor for each, tensor in made.items()}

    def _plain(self, entry: Entry) -> Tensor:
        tensor = _tensor(entry)
        constants = {each.key: _tensor(each) for each in self._constants.get(entry.key, ())}
        if not constants:
            return tensor
        scales = constants.get(f"{entry.key.removesuffix('weight')}SCB")
        if scales is not None:
            return tensor.float() * scales.float().view(-1, 1) / 127
        return _unpacked(tensor, {key.removeprefix(f"{entry.key}."): value for key, value in constants.items()})


def _tensor(entry: Entry) -> Tensor:
    from safetensors import safe_open

    with safe_open(entry.file, "pt") as file:
        return file.get_tensor(entry.key)


def _unpacked(packed: Tensor, constants: dict[str, Tensor]) -> Tensor:
    """Four bits a weight into fp32, which holds what they stand for exactly."""
    import torch
    from bitsandbytes.functional import QuantState, dequantize_4bit

    state = QuantState.from_dict(constants, device=torch.device("cpu"))
    state.dtype = torch.float32
    return dequantize_4bit(packed, state)
