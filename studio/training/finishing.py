"""What a run leaves behind: an adapter in PEFT's own format, or a model, written beside, read back and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.disk import sync
from studio.errors import Damaged
from studio.models import ModelRef
from studio.training import checkpoints
from studio.training.adapting import Adapted, save_adapter
from studio.training.plan import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WEIGHTS = "adapter_model.safetensors"
_SHARD = "5GB"


def save_result(
    adapted: Adapted, tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings, base: ModelRef, folder: Path
) -> Path:
    """Write what was learnt below `folder` and return where. Raises Damaged where it does not read back as it is."""
    full = settings.method == "full"
    target = folder / ("model" if full else "adapter")
    part = target.with_name(target.name + ".part")

    def write() -> None:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        (_write_model if full else _write_adapter)(adapted, part, base)
        if full or settings.new_tokens:
            tokenizer.save_pretrained(part)
        (_check_model if full else _check_adapter)(adapted, part)
        for file in part.iterdir():
            shutil.copymode(next(part.glob("*.json")), file)  # safetensors lets nobody else read
            sync(file)
        checkpoints.put(part, target)

    try:
        checkpoints.with_room(folder, write)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _write_model(adapted: Adapted, part: Path, base: ModelRef) -> None:
    del base
    model = adapted.model
    with _config(model.config, use_cache=True):
        model.save_pretrained(part, max_shard_size=_SHARD)


def _write_adapter(adapted: Adapted, part: Path, base: ModelRef) -> None:
    """A path of this machine says nothing elsewhere, so a model of the Hub goes by its name."""
    config = adapted.model.peft_config[adapted.model.active_adapter]
    with _config(config, base_model_name_or_path=base.name, revision=_revision(base)):
        save_adapter(adapted, part)
    (part / "README.md").unlink(missing_ok=True)  # a form that nobody has filled in


def _revision(base: ModelRef) -> str | None:
    return base.revision if base.where == "hub" and base.revision != "main" else None


@contextmanager
def _config(config: Any, **values: Any) -> Iterator[None]:
    """Fields of a config with other values for a while."""
    before = {name: getattr(config, name) for name in values}
    try:
        for name, value in values.items():
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def _check_adapter(adapted: Adapted, part: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    stored = load_file(part / _WEIGHTS)
    held = get_peft_model_state_dict(adapted.model, save_embedding_layers=False)
    if strangers := sorted(stored.keys() ^ held.keys()):
        raise _damaged(f"{strangers[0]} is in the file or in the model only")
    _check_tensors(stored, {} if adapted.first else held)  # what it began with is taken off in the file
    others = any("lora_" not in name for name in stored)
    changing = [tensor for name, tensor in stored.items() if "lora_B" in name or "lora_embedding_B" in name]
    if changing and not others and not any(tensor.any() for tensor in changing):
        raise Damaged(
            "The adapter changes nothing: all its B matrices are zero.",
            "Train for more steps, or with a larger learning rate.",
        )


def _check_model(adapted: Adapted, part: Path) -> None:
    from safetensors import safe_open

    held, seen = adapted.model.state_dict(), 0
    for file in part.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118  # it is no dict
                _check_tensors({name: stored.get_tensor(name)}, held if name in held else {})
                seen += 1
    if not seen:
        raise _damaged("no weights are there")


def _check_tensors(stored: dict[str, Any], held: dict[str, Any]) -> None:
    """Finite, and as in memory. A tensor without a counterpart goes by another name in files."""
    for name, tensor in stored.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise _damaged(f"{name} holds values that are not numbers")
        if name in held and not tensor.equal(held[name].detach().cpu().to(tensor.dtype)):
            raise _damaged(f"{name} is not what is in memory")


def _damaged(what: str) -> Damaged:
    return Damaged(
        f"What was learnt does not read back as it is: {what}.",
        "The last checkpoint is as it was. Check the disk and start the run again: it goes on from there.",
    )
