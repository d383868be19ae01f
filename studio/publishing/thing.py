"""What a folder is that somebody wants to publish, told by its files, and whether it may leave the machine at all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from studio.checkpoint import read_json
from studio.errors import Damaged, InputError, PickleOnly, Unsupported
from studio.merging import read_proof

ADAPTER_CONFIG, CONFIG, MERGED, RUN = "adapter_config.json", "config.json", "merge.json", "run.yaml"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class Kind(StrEnum):
    """What can be published."""

    ADAPTER = "adapter"
    MERGED = "merged model"
    QUANTIZED = "quantized model"
    MODEL = "model"
    TOKENIZER = "tokenizer"
    RUN = "record of a run"

    @property
    def relation(self) -> str:
        """What it is to its base, in the Hub's word; empty for what has none."""
        return {
            "adapter": "adapter",
            "merged model": "finetune",
            "quantized model": "quantized",
            "model": "finetune",
        }.get(self.value, "")


_RELATIONS = {
    Kind.ADAPTER: "adapter",
    Kind.MERGED: "finetune",
    Kind.QUANTIZED: "quantized",
    Kind.MODEL: "finetune",
}


@dataclass(frozen=True, slots=True)
class Thing:
    """A folder that can be published."""

    folder: Path
    kind: Kind


def look(folder: Path, *, inside: Path | None = None) -> Thing:
    """Say what a folder is. `inside` is the only place that it may be in, where visitors share the machine.

    Raises InputError for one that is none, is empty or is elsewhere, PickleOnly for weights that are pickles, Damaged
    for a merged model whose proof is of other files, and Unsupported for one that has not passed its proof.
    """
    folder = folder.resolve()
    if inside is not None and not folder.is_relative_to(inside.resolve()):
        raise InputError("This folder is not open to visitors.", "Choose something that was made here.")
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder.name!r}.", "Choose one from the list, or write where it is.")
    if not any(folder.iterdir()):
        raise InputError(f"The folder {folder.name!r} is empty.", "Choose one that holds a model or an adapter.")
    kind = _kind(folder)
    if kind is Kind.MERGED:
        _check_proof(folder)
    return Thing(folder, kind)


def _kind(folder: Path) -> Kind:
    if (folder / RUN).is_file():
        return Kind.RUN
    weights = any(folder.glob("*.safetensors"))
    if not weights and any(file.suffix in _PICKLES for file in folder.iterdir()):
        raise PickleOnly(
            f"The weights in {folder.name!r} are pickles, which can run code when somebody opens them.",
            "Load the model and keep it: it is written as safetensors then.",
        )
    if (folder / ADAPTER_CONFIG).is_file() and weights:
        return Kind.ADAPTER
    if (folder / CONFIG).is_file() and weights:
        if (folder / MERGED).is_file():
            return Kind.MERGED
        return Kind.QUANTIZED if "quantization_config" in read_json(folder / CONFIG) else Kind.MODEL
    if (folder / "tokenizer.json").is_file() and not (folder / CONFIG).is_file():
        return Kind.TOKENIZER
    raise InputError(
        f"{folder.name!r} holds no adapter, no model and no tokenizer.",
        "Choose a folder with adapter_config.json, config.json or tokenizer.json, and weights as safetensors.",
    )


def _check_proof(folder: Path) -> None:
    proof = read_proof(folder)
    if proof is None and (folder / "proof.json").is_file():
        raise Damaged(
            f"The files of {folder.name!r} are not those that were proven.",
            "Merge again, and publish what comes of it.",
        )
    if proof is None:
        raise Unsupported(
            f"{folder.name!r} was merged without a proof, and only what is proven is published.",
            "Merge again with the proof on.",
        )
    if not proof.passed:
        failed = ", ".join(check.name for check in proof.failed)
        raise Unsupported(f"{folder.name!r} has not passed its proof: {failed}.", "Publish the adapter instead.")
