"""A merge by PEFT, with the whole base in memory in fp32: for adapters that are more than products of two matrices."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import compute
from studio.adapters import Adapter, BaseWeights, Layout, build, quiet
from studio.adapters.stored import dtype_of, is_float, not_finite, places, read_rows
from studio.checkpoint import read_json, weight_files
from studio.disk import sync
from studio.errors import Damaged, DoesNotFit, InputError, Unsupported
from studio.merging.plan import AS_BASE, MergePlan

if TYPE_CHECKING:
    import torch

_SPARE = 1.3
"""What PEFT and a forward pass take beside the weights, as a factor; one merged weight at a time is twice in memory."""
_NEAR = 1e-3
"""How far the logits of the merged model may be from those of base and adapter, relative: both are in fp32."""


def merge_in_memory(
    plan: MergePlan, adapter: Adapter, weights: BaseWeights, vocabulary: int, folder: Path, check: Callable[[], None]
) -> set[str]:
    """Merge, and write weights and config below `folder`; return the names of the tensors that changed.

    What was written is loaded again and compared. `check` raises where the merge is to stop. Raises DoesNotFit,
    Unsupported, InputError or Damaged.
    """
    _check_room(weights)
    model = _base(plan.base)
    if vocabulary != model.get_input_embeddings().weight.shape[0]:
        with quiet():
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
    check()
    adapted = _with_adapter(model, adapter)
    check()
    expected = _logits(adapted)
    merged = _merged(adapted)
    check()
    apart = float((_logits(merged) - expected).norm() / expected.norm().clamp(min=1e-30))
    if not apart <= _NEAR:
        raise Unsupported(
            f"PEFT does not merge this adapter right: the logits are off by {apart:.1%}.",
            "Use it on top of its base, or train a LoRA adapter.",
        )
    _round(merged, build(plan.base, dtype_for(plan, weights)), plan.dtype)
    check()
    _save(merged, folder, plan.shard_size)
    check()
    _check_saved(merged, folder)
    return _changed(plan.base, folder)


def bytes_of(layout: Layout) -> int:
    """What the model takes on the disk, in the dtype that it was laid out for."""
    held = (each for name, each in layout.parameters.items() if name not in layout.tied)
    return sum(prod(each.shape) * each.dtype.itemsize for each in held)


def untied(layout: Layout, folder: Path) -> bool:
    """Whether a merged model has two weights where its base had one for embedding and head."""
    return layout.head in layout.tied and read_json(folder / "config.json").get("tie_word_embeddings") is False


def _check_room(weights: BaseWeights) -> None:
    needed = int(
        sum(tensor.place.numbers for tensor in weights.tensors.values() if is_float(tensor.dtype)) * 4 * _SPARE
    )
    if (free := compute.free_ram()) < needed:
        raise DoesNotFit(
            f"This kind of adapter is merged in memory, which takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are"
            " free.",
            "Close other programs, or merge it on a larger machine.",
        )


def _base(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()


def _with_adapter(model: Any, adapter: Adapter) -> Any:
    from peft import PeftConfig, get_peft_model

    try:
        with quiet():
            adapted = get_peft_model(model, PeftConfig.from_pretrained(adapter.folder))
            read = adapted.load_adapter(adapter.folder, "default", local_files_only=True)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, NotImplementedError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(
            f"The adapter does not go on this base: {words}", "Choose the base model that it was trained on."
        ) from error
    if left := [*read.unexpected_keys, *read.missing_keys]:
        raise InputError(
            f"The adapter does not fit this base: {len(left)} tensors are in one of them only, the first is {left[0]}.",
            "Choose the base model that it was trained on.",
        )
    return adapted.eval()


def _logits(model: Any) -> Any:
    """Of a fixed text of every sort of token."""
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(32) * 2_654_435_761 % rows).reshape(2, 16)
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def _merged(adapted: Any) -> Any:
    try:
        with quiet():
            return adapted.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError, RuntimeError, TypeError) as error:
        words = " ".join(str(error).split())[:200]
        raise Unsupported(f"PEFT cannot merge this adapter: {words}", "Use it on top of its base.") from error


def dtype_for(plan: MergePlan, weights: BaseWeights) -> torch.dtype:
    """The dtype that the plan asks for; as the base is that of its largest tensor."""
    import torch

    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if plan.dtype != AS_BASE:
        return named[plan.dtype]
    largest = max(weights.tensors.values(), key=lambda tensor: (is_float(tensor.dtype), tensor.place.numbers))
    return dtype_of(largest.dtype)


def _round(merged: Any, held: Any, dtype: str) -> None:
    """Once, to the dtype that a model of the plan has for each parameter: some stay in fp32 in every one."""
    dtypes = {name: parameter.dtype for name, parameter in held.named_parameters(remove_duplicate=False)}
    for name, parameter in merged.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
        if not_finite(parameter.data):
            raise Damaged(f"{name} would hold values that are not numbers in {dtype}.", "Choose bf16 or fp32.")


def _save(merged: Any, folder: Path, shard_size: float) -> None:
    merged.save_pretrained(folder, max_shard_size=int(shard_size * 1e9))
    for file in folder.iterdir():
        shutil.copymode(folder / "config.json", file)  # safetensors lets nobody else read
        sync(file)


def _check_saved(merged: Any, folder: Path) -> None:
    """Raise Damaged where the folder does not load as what is in memory."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype=merged.dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    found = dict(loaded.named_parameters(remove_duplicate=False))
    for name, parameter in merged.named_parameters(remove_duplicate=False):
        if name not in found or not found[name].equal(parameter):
            raise Damaged(f"{name} does not load as it was merged.", "Merge onto the base again, or use it on top.")


def _changed(base: Path, folder: Path) -> set[str]:
    """The tensors of the new files that are not what the base has under that name, in the dtype of the new ones."""
    before, after = (places(weight_files(each)) for each in (base, folder))
    return {
        name
        for name, place in after.items()
        if name not in before or not read_rows(before[name]).to(dtype_of(place.dtype)).equal(read_rows(place))
    }
