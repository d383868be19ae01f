"""Steps that tests of merging share: a merge to its end, and the tensors of what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from studio.events import Finished
from studio.merging import Merged, MergePlan, merge

ADAPTER = "adapter_model.safetensors"


def merged(base: Path, adapter: Path, output: Path, **plan: Any) -> Merged:
    """Merge, and look that what it says at the end is what lies there."""
    *_, last = merge(MergePlan(base, adapter, output, **plan))
    assert isinstance(last, Finished)
    assert not output.with_name(output.name + ".part").exists()
    return last.result


def loaded(folder: Path, dtype: Any = torch.float32) -> Any:
    """The model of a folder, which must have every tensor and no other."""
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the files of a folder."""
    return {
        name: tensor for file in sorted(folder.glob("model*.safetensors")) for name, tensor in load_file(file).items()
    }


def left(folder: Path) -> list[str]:
    """What is in a folder, by name."""
    return sorted(entry.name for entry in folder.iterdir())
