"""What an adapter begins with, where PEFT leaves that to be filled in: EVA from data, LoftQ from what was rounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checkpoint import read_header
from studio.errors import InputError

if TYPE_CHECKING:
    import torch


def begin_with_data(adapted: Any, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
    """EVA: the directions in which the inputs of each module vary most (Paischer et al. 2024)."""
    from peft import initialize_lora_eva_weights

    adapted.eval()  # the same batches then give the same directions
    initialize_lora_eva_weights(adapted, list(batches), show_progress_bar=False)


def begin_with_rounding(adapted: Any) -> None:
    """LoftQ, one round: the adapter begins with the best that its rank can say of what four bits lost.

    PEFT's own does that on CUDA alone, and without regard to alpha.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit

    stored = StoredWeights(Path(adapted.config.name_or_path), adapted.get_base_model().base_model_prefix)
    for path in adapted.targeted_module_names:
        layer = adapted.get_submodule(f"base_model.model.{path}")
        held = layer.get_base_layer().weight
        with torch.no_grad():
            rounded = dequantize_4bit(held.data, held.quant_state).float()
            lost = stored.read(f"{path}.weight").to(rounded) - rounded
            left, size, right = torch.linalg.svd(lost, full_matrices=False)
            rank, root = layer.r["default"], size.sqrt()
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            a.copy_(root[:rank, None] * right[:rank])
            b.copy_(left[:, :rank] * root[:rank] / layer.scaling["default"])


class StoredWeights:
    """The weights of a folder by the names that the model has for them."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._prefix = prefix
        self._files = {name: file for file in sorted(folder.glob("*.safetensors")) for name in read_header(file)}

    def read(self, name: str) -> torch.Tensor:
        """One of them. Raises InputError where it is stored by another name."""
        from safetensors import safe_open

        # A checkpoint of GPT-2 leaves out "transformer."
        for known in (name, name.removeprefix(f"{self._prefix}.")):
            if known in self._files:
                with safe_open(self._files[known], framework="pt") as file:
                    return file.get_tensor(known)
        raise InputError(f"The checkpoint has no {name}, which LoftQ begins with.", "Choose another start.")
