"""The tensors of a checkpoint beside those that transformers would build from its config, without any weights.

transformers renames and fuses tensors while it loads. The two functions that know how are not part of its public
interface, so where they are gone or have changed the answer is "not checked" and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from studio.inspection.quantization import read_quantization
from studio.inspection.report import Comparison, TensorEntry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MOST_LAYERS = 1000  # building takes time by the layer, and a broken config may ask for a billion
_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_local_experts", "num_experts")


def compare(config: Mapping[str, Any], tensors: Sequence[TensorEntry]) -> Comparison:
    """Which tensors are missing, unknown or of another shape. Imports transformers, which takes seconds."""
    if reason := _not_comparable(config, tensors):
        return Comparison(False, reason)
    try:
        model = _skeleton(config)
        return _compared(model, tensors)
    except ImportError as error:
        return Comparison(False, f"this version of transformers does not tell how it renames tensors: {error}")
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, OSError) as error:
        return Comparison(False, f"transformers cannot build it: {type(error).__name__}: {_short(error)}")
    except BaseException as error:
        # The class belongs to huggingface_hub, which only studio/hub may import.
        if "StrictDataclassError" not in [base.__name__ for base in type(error).__mro__]:
            raise
        return Comparison(False, f"transformers cannot read the config: {_short(error)}")


def _not_comparable(config: Mapping[str, Any], tensors: Sequence[TensorEntry]) -> str:
    """Why there is nothing to compare; empty where there is."""
    if not tensors:
        return "there are no tensors to compare"
    if not isinstance(config.get("model_type"), str):
        return "the config names no architecture"
    if read_quantization(config):
        return "the tensors of a quantized model are packed and called by other names"
    counts = [value for key in _COUNTS if isinstance(value := config.get(key), int)]
    if counts and max(counts) > _MOST_LAYERS:
        return f"the config asks for {max(counts):,} layers or experts"
    return ""


def _skeleton(config: Mapping[str, Any]) -> PreTrainedModel:
    """The model without weights. Raises ValueError or LookupError for what is no causal language model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
    read = AutoConfig.for_model(config["model_type"], **fields)
    with torch.device("meta"):
        # How to compute does not matter, and a config may name a kernel that is not here.
        return AutoModelForCausalLM.from_config(read, trust_remote_code=False, attn_implementation="eager")


def _compared(model: PreTrainedModel, tensors: Sequence[TensorEntry]) -> Comparison:
    """Every tensor under the name it has in the model. Raises ImportError where transformers does not tell it."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    lookup = dict.fromkeys(expected, True)
    transforms = get_model_conversion_mapping(model)
    renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    made_by = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    prefix = model.base_model_prefix
    found: Counter[str] = Counter()
    plain: dict[str, tuple[int, ...]] = {}
    whole: set[str] = set()
    unknown = []
    for tensor in tensors:
        name, pattern = rename_source_key(tensor.name, renamings, converters, prefix, lookup)
        if name not in expected and tensor.name in expected:
            name, pattern = rename_source_key(tensor.name, [], [], prefix, lookup)
        if name not in expected:
            unknown.append(tensor.name)
        elif pattern is None:
            plain[name] = tensor.shape
        elif len(targets := made_by[pattern].target_patterns) > 1:
            # One tensor is cut into several: which, the first one's name tells.
            whole |= {name.replace(targets[0], target) for target in targets}
        else:
            found[name] += prod(tensor.shape)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    present = {*plain, *found, *whole}
    present |= {target for target, origin in tied.items() if origin in present}
    present |= {origin for target, origin in tied.items() if target in present}
    mismatched = [name for name, shape in plain.items() if shape != expected[name]]
    mismatched += [name for name, count in found.items() if count != prod(expected[name])]
    missing = _told(model, "_keys_to_ignore_on_load_missing", [name for name in expected if name not in present])
    return Comparison(True, "", missing, _without_buffers(model, unknown), tuple(mismatched), len(expected))


def _without_buffers(model: PreTrainedModel, unknown: list[str]) -> tuple[str, ...]:
    """Unknown tensors, but for tables that older versions stored and newer ones compute."""
    stale = ("rotary_emb.inv_freq", "position_ids", ".attn.masked_bias", ".attn.bias")
    return _told(model, "_keys_to_ignore_on_load_unexpected", [name for name in unknown if not name.endswith(stale)])


def _told(model: PreTrainedModel, attribute: str, names: list[str]) -> tuple[str, ...]:
    """The names that the model's class does not want to be kept quiet about."""
    import re

    patterns = getattr(model, attribute, None) or ()
    return tuple(name for name in names if not any(re.search(pattern, name) for pattern in patterns))


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
