"""A run as code: one Python script for transformers and peft that does it again without the studio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import TYPE_CHECKING, Any

from studio.dataset import Examples
from studio.errors import InputError, Unsupported
from studio.runs.directory import folder_of
from studio.runs.document import put
from studio.runs.plain import as_plain
from studio.settings import ASSETS
from studio.training import TrainingRun, TrainingSettings
from studio.training.trainer import DECAY, OPTIMIZERS, SCHEDULES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "train.py"
"""In the folder of a run, from the moment on that it learns."""
_SOURCE = ASSETS / "fine_tune.py"
_PLACE = "RUN = {}\n"
_USED = (
    *("method", "batch_tokens", "accumulation", "epochs", "most_steps", "learning_rate", "warmup", "weight_decay"),
    *("clip", "neftune", "checkpointing", "lora_plus", "seed"),
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a run once it learns, beside what it was asked to do."""

    model: Path
    """The folder it was loaded from."""
    examples: Examples
    compute: str
    """fp32, bf16 or fp16."""
    packed: bool
    total: int
    """Optimizer steps."""


def write(folder: Path, run: TrainingRun, known: Known, model: PreTrainedModel) -> None:
    """Write the script into the folder of a run that begins to learn; of one that no script can do, say why instead."""
    try:
        text = script(folder, run, known, model)
    except Unsupported as error:
        text = f'"""{error.message} {error.hint}"""\n'
    put(folder / FILE, text)


def script(folder: Path, run: TrainingRun, known: Known, model: PreTrainedModel) -> str:
    """The script. Raises Unsupported where the run has what it does not know."""
    _check(run.settings)
    ref, settings = run.plan.model, run.settings
    schedule, options = SCHEDULES[settings.schedule]
    if settings.schedule == "warm-up, stable, decay":
        options = {"num_decay_steps": max(1, round(known.total * DECAY))}
    quantization = getattr(model.config, "quantization_config", None)
    plain: dict[str, Any] = {
        "model": ref.name if ref.where == "hub" else str(known.model),
        "revision": ref.revision,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": quantization.to_dict() if quantization and run.plan.precision and _quantizes(run) else None,
        "attention": None if run.plan.attention == "auto" else run.plan.attention,
        "examples": str(known.examples.file.relative_to(folder)),
        "packed": known.packed,
        "compute": known.compute,
        "adapter": _adapter(settings),
        "settings": {name: value for name, value in as_plain(settings).items() if name in _USED},
        "arguments": {
            "optim": OPTIMIZERS[settings.optimizer],
            "lr_scheduler_type": schedule,
            "lr_scheduler_kwargs": options,
        },
    }
    source = _SOURCE.read_text(encoding="utf-8")
    assert source.count(_PLACE) == 1
    return source.replace(_PLACE, f"RUN = {pformat(plain, width=110, sort_dicts=False)}\n")


def _quantizes(run: TrainingRun) -> bool:
    return bool(run.plan.precision and run.plan.precision.quantizes)


def _adapter(settings: TrainingSettings) -> dict[str, Any]:
    """The settings in the words of peft."""
    return {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": list(settings.target_names) or settings.targets,
        "use_rslora": settings.rslora,
        "use_dora": settings.method == "dora",
    }


def _check(settings: TrainingSettings) -> None:
    usual = TrainingSettings()
    for name in ("start", "whole_modules", "new_tokens", "adapter", "liger"):
        value = getattr(settings, name)
        if value != getattr(usual, name):
            raise Unsupported(
                f"This run has {name.replace('_', ' ')} {value!r}, which the script cannot do.",
                "Do it again with the studio: python -m studio train and its run.yaml.",
            )


def code(id_: str) -> str:
    """The script of a run. Raises InputError where it has not begun to learn."""
    try:
        return (folder_of(id_) / FILE).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError("This run has not begun to learn, so there is no code yet.", "Start it first.") from error
