"""An adapter that was trained before, checked against the model and put on it to be trained further."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.adapters.sketch import another_base, sketch
from studio.checkpoint import read_header, read_json
from studio.errors import Damaged, InputError, Unsupported
from studio.training.plan import TrainingSettings
from studio.training.targets import is_linear
from studio.training.telling import Warned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


def base_sketch(model: PreTrainedModel) -> tuple[float, ...]:
    """A few numbers of the embedding, which no quantization touches and which no two models share."""
    weight = model.get_input_embeddings().weight
    if weight.is_meta:
        return ()
    return sketch(weight)


def check_adapter(
    model: PreTrainedModel, folder: Path, settings: TrainingSettings, numbers: tuple[float, ...]
) -> dict[str, Any]:
    """Hold the files of an adapter against its base, without loading it; return its config.

    Raises InputError for an adapter of another base, Unsupported for another method than LoRA and for pickles, Damaged
    for one that is not whole.
    """
    config = _read_config(folder)
    _check_base(folder, numbers)
    _check_shapes(model, _header(folder), config)
    rows = config.get("trainable_token_indices")
    if settings.new_tokens and not rows:
        raise InputError(
            "The adapter has no new tokens, and it cannot be given any.", "Leave them out, or begin a new adapter."
        )
    return config


def open_adapter(model: PreTrainedModel, folder: Path, config: dict[str, Any]) -> Any:
    """Put a checked adapter on its base, to be trained further. Raises InputError or Damaged where it does not suit."""
    from peft import PeftModel, get_peft_model_state_dict

    _check_tokens(model, config)
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True, local_files_only=True)
    except (ValueError, KeyError, RuntimeError, TypeError, IndexError) as error:
        raise InputError(
            f"The adapter does not fit this model: {str(error).splitlines()[0][:200]}",
            "Choose the base model that it was trained on.",
        ) from error
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if strangers := sorted(_header(folder).keys() ^ state.keys()):
        # PEFT leaves out what the config does not name, and begins anew what the file does not hold.
        raise Damaged(
            f"The adapter and its config disagree: {len(strangers)} weights are in one of them only, the first is"
            f" {strangers[0]}.",
            "Choose another adapter, or a new one.",
        )
    for name, tensor in state.items():
        if not all(isfinite(float(end)) for end in tensor.aminmax()):
            raise Damaged(f"The adapter holds values that are not numbers, in {name}.", "Its training broke.")
    return adapted


def _header(folder: Path) -> dict[str, Any]:
    return {name: entry for name, entry in read_header(folder / _WEIGHTS).items() if name != "__metadata__"}


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / _CONFIG).is_file():
        raise InputError(f"There is no {_CONFIG} in {folder.name}.", "Choose the folder that training wrote.")
    if not (folder / _WEIGHTS).is_file():
        raise Unsupported(f"There is no {_WEIGHTS} in {folder.name}.", "Pickles are refused; convert it first.")
    config: dict[str, Any] = read_json(folder / _CONFIG)
    kind = str(config.get("peft_type"))
    if kind == "BONE":
        raise Unsupported(
            "This adapter is of the type Bone, which PEFT has dropped for MiSS.",
            "The Merge tab converts it to MiSS, under Adapter, for other programs; or train a new LoRA adapter here.",
        )
    if kind != "LORA":
        raise Unsupported(f"This adapter is of the type {kind}.", "LoRA and DoRA adapters can be trained further.")
    if isinstance(config.get("init_lora_weights"), str) and config["init_lora_weights"] not in ("gaussian", "eva"):
        raise Unsupported(
            f"This adapter began as {config['init_lora_weights']} and was saved without being converted: it goes on a"
            " base that is not the one it names.",
            "Save it with path_initial_model_for_weight_conversion, as PEFT documents.",
        )
    return config


def _check_base(folder: Path, numbers: tuple[float, ...]) -> None:
    if why := another_base(folder, numbers):
        raise _other_base(why)


def _check_shapes(model: PreTrainedModel, header: dict[str, Any], config: dict[str, Any]) -> None:
    """Hold the shapes in the file against the model: PEFT makes room for what the config says before it looks."""
    ranks = set()
    modules = dict(model.named_modules())
    for name, entry in header.items():
        path, _, own = name.removeprefix(_PREFIX).partition(".lora_")
        module = modules.get(path)
        if own not in ("A.weight", "B.weight") or module is None:
            if own and module is None:
                raise _other_base(f"it has no {path}")
            continue
        rank, size = entry["shape"] if own[0] == "A" else entry["shape"][::-1]
        ranks.add(rank)
        if is_linear(module) and size != (wanted := module.in_features if own[0] == "A" else module.out_features):
            raise _other_base(f"{path} is {wanted} wide here and {size} there")
    if not ranks:
        raise Damaged("The file of the adapter holds no LoRA weights.", "Choose another adapter, or a new one.")
    asked = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if config.get("target_parameters") is None and (strange := [rank for rank in asked if rank not in ranks]):
        raise Damaged(
            f"The config says rank {strange[0]}, and the file holds {', '.join(map(str, sorted(ranks)))}.",
            "Choose another adapter, or a new one.",
        )


def _check_tokens(model: PreTrainedModel, config: dict[str, Any]) -> None:
    told = config.get("trainable_token_indices") or []
    rows = [row for some in (told.values() if isinstance(told, dict) else [told]) for row in some]
    if rows and max(rows) >= (size := model.get_input_embeddings().weight.shape[0]):
        raise InputError(
            f"The adapter has trained token {max(rows)}, and the vocabulary ends at {size - 1}.",
            "Name the same new tokens, in the same order, as when it was begun.",
        )


def _other_base(why: str) -> InputError:
    return InputError(
        f"This is an adapter for another base{': ' + why if why else ''}.",
        "Choose the base model that it was trained on, or begin a new adapter.",
    )


def kept_notes(config: dict[str, Any], settings: TrainingSettings) -> tuple[Warned, ...]:
    """What of the settings does not count, for the adapter keeps its own."""
    has = (config.get("r"), config.get("lora_alpha"))
    if has == (settings.rank, settings.alpha):
        return ()
    return (
        Warned(
            "lora-rank",
            "note",
            f"The adapter keeps its rank {has[0]} and alpha {has[1]}; the settings say {settings.rank} and"
            f" {settings.alpha}.",
            "Begin a new adapter for another rank.",
        ),
    )
