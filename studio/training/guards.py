"""What is wished of an adapter, held against the model, before anything of it is changed."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import InputError
from studio.training.plan import TrainingSettings
from studio.training.targets import Group, means, targets_of
from studio.training.telling import Warned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FROM_THE_BASE = ("pissa", "olora", "eva")
"""Beginnings that have at most as many directions as the smallest module has."""


def check_wish(
    model: PreTrainedModel, settings: TrainingSettings, chosen: tuple[Group, ...], *, has_batches: bool
) -> None:
    """Raise InputError where the settings and the model do not go together."""
    if settings.method == "full":
        if getattr(model, "is_quantized", False):
            raise InputError("Quantized weights cannot be trained.", "Choose the method lora, or the precision bf16.")
        return
    check_whole(model, settings, chosen)
    if settings.adapter:
        return
    for check in (_check_experts, _check_dora, _check_start, _check_rank):
        check(model, settings, chosen)
    if settings.start == "eva" and not has_batches:
        raise InputError("EVA begins with what the data look like, and there are none.", "Choose another start.")


def check_whole(
    model: PreTrainedModel, settings: TrainingSettings, chosen: tuple[Group, ...]
) -> tuple[list[str], bool]:
    """The modules that are trained whole, as PEFT names them, and whether one of them shares its weight with another.

    Raises InputError for names that no module has, for quantized weights, and for modules that have an adapter too.
    """
    paths = [path for path, _ in model.named_modules() if path]
    adapted = {path for group in chosen for path in group.paths}
    found: list[str] = []
    for name in settings.whole_names:
        meant = [path for path in paths if means(name, path)]
        if not meant:
            known = sorted({path.rpartition(".")[2] for path in paths} - set(map(str, range(1000))))
            close = get_close_matches(name, known, n=3, cutoff=0.5)
            raise InputError(
                f"No module is called {name!r}.",
                f"Did you mean {' or '.join(close)}?" if close else f"It has {', '.join(known)}.",
            )
        if twice := [path for path in meant if any(f"{other}.".startswith(f"{path}.") for other in adapted)]:
            raise InputError(
                f"{twice[0]} is to be trained whole and to have an adapter.", "Take it out of one of the two."
            )
        if packed := [path for path in meant if _is_packed(model.get_submodule(path))]:
            raise InputError(
                f"{packed[0]} is quantized and cannot be trained whole.",
                "Take it out, keep it from being quantized, or choose the precision bf16.",
            )
        # PEFT takes a name for the end of any other: norm would also be input_layernorm.
        alone = all(path in meant for path in paths if path.endswith(name))
        found += [name] if alone else meant
    twins = getattr(model, "all_tied_weights_keys", None) or {}
    tied = {key.rpartition(".")[0] for key in (*twins, *twins.values())}
    return found, any(path in tied for name in found for path in paths if means(name, path))


def _is_packed(module: Any) -> bool:
    return any(type(part).__name__ in ("Linear4bit", "Linear8bitLt") for part in module.modules())


def _check_experts(_model: PreTrainedModel, settings: TrainingSettings, chosen: tuple[Group, ...]) -> None:
    bare = [group.name for group in chosen if group.kind in ("experts", "router")]
    wrong = (
        "DoRA" if settings.method == "dora" else
        "dropout" if settings.dropout else
        f"the start {settings.start}" if settings.start not in ("default", "gaussian") else ""
    )  # fmt: skip
    if bare and wrong:
        raise InputError(
            f"PEFT has no {wrong} for {' and '.join(bare)}, which are bare parameters.",
            "Leave that out, or name the attention modules as targets: q_proj, v_proj.",
        )


def _check_dora(model: PreTrainedModel, settings: TrainingSettings, chosen: tuple[Group, ...]) -> None:
    paths = [path for group in chosen if group.kind == "linear" for path in group.paths]
    if settings.method == "dora" and any(type(model.get_submodule(p)).__name__ == "Linear8bitLt" for p in paths):
        # peft 0.21 copies the layer at every pass, and the copy of bitsandbytes 0.50 loses its scales after the first.
        raise InputError(
            "DoRA fails on int8 weights at its second step, for a mistake in bitsandbytes.",
            "Choose the precision nf4 or bf16, or the method lora.",
        )


def _check_start(model: PreTrainedModel, settings: TrainingSettings, chosen: tuple[Group, ...]) -> None:
    start, quantized = settings.start, getattr(model, "is_quantized", False)
    if start == "loftq":
        four = all(type(model.get_submodule(path)).__name__ == "Linear4bit" for g in chosen for path in g.paths)
        stored = Path(getattr(model.config, "name_or_path", "") or "")
        if not (chosen and four and any(stored.glob("*.safetensors"))):
            raise InputError(
                "LoftQ makes up for what four bits lose, and needs the weights before that as well.",
                "Choose the precision nf4 and a checkpoint that is not quantized, or another start.",
            )
        if _was_transposed(model):
            raise InputError("LoftQ does not know the Conv1D layers of this model.", "Choose another start.")
    if start in ("pissa", "olora"):
        name = {"pissa": "PiSSA", "olora": "OLoRA"}[start]
        if quantized:
            raise InputError(
                f"{name} moves a part of the base into the adapter, and rounding the rest again would change the base.",
                "Choose the start default or loftq, or the precision bf16.",
            )
        if settings.method == "dora" or settings.whole_modules or settings.new_tokens:
            raise InputError(
                f"What {name} moves is put back on saving, and that is exact for plain LoRA alone.",
                "Choose the start default, or leave out DoRA, whole modules and new tokens.",
            )
        if any(group.kind == "embedding" for group in chosen):
            raise InputError(f"{name} does not know embeddings.", "Take them out of the targets.")
    if start == "olora" and any(group.kind == "conv1d" for group in chosen):
        raise InputError("OLoRA does not know the Conv1D layers of this model.", "Choose pissa or default.")


def _was_transposed(model: PreTrainedModel) -> bool:
    """Whether quantizing turned Conv1D layers into linear ones: their stored weights lie the other way round."""
    return model.config.model_type in ("gpt2", "imagegpt", "decision_transformer", "openai-gpt")


def _check_rank(_model: PreTrainedModel, settings: TrainingSettings, chosen: tuple[Group, ...]) -> None:
    small = min(chosen, key=lambda group: group.smallest)
    if settings.start in _FROM_THE_BASE and settings.rank > small.smallest:
        raise InputError(
            f"{small.name} has {small.smallest} directions, and rank {settings.rank} is to begin with as many.",
            f"Choose a rank of at most {small.smallest}, or the start default.",
        )


def learning_notes(model: PreTrainedModel, settings: TrainingSettings, chosen: tuple[Group, ...]) -> tuple[Warned, ...]:
    """What to know of a wish that can be carried out."""
    import torch

    notes = []
    sixteen = {p.dtype for p in model.parameters()} & {torch.bfloat16, torch.float16}
    quantized = getattr(model, "is_quantized", False)
    if settings.method == "full" and sixteen:
        notes.append(
            Warned(
                "mixed-precision",
                "warning",
                f"The weights are trained in 16 bit: a step of {settings.learning_rate:g} times a weight, less than one"
                " part in 256 of it, may be rounded away.",
                "Load the model in fp32, or choose the method lora.",
            )
        )
    if quantized and has_experts(model):
        notes.append(
            Warned(
                "kbit-preparation",
                "note",
                "The fused experts are not quantized; they and the norms stay in 16 bit.",
                "Nothing has to be done.",
            )
        )
    elif quantized and sixteen:
        wide = sum(p.numel() for p in model.parameters() if p.dtype in sixteen and not hasattr(p, "quant_state"))
        notes.append(
            Warned(
                "kbit-preparation",
                "note",
                f"What is not quantized (norms, embedding, head) is brought to fp32: {2 * wide / 1e6:,.1f} MB more.",
                "Nothing has to be done.",
            )
        )
    notes += _too_large(settings, chosen)
    if settings.start in ("pissa", "olora"):
        notes.append(
            Warned(
                "start",
                "note",
                f"What begins in the base is taken off on saving: the adapter is saved with rank {2 * settings.rank}.",
                "Nothing has to be done.",
            )
        )
    return tuple(notes)


def has_experts(model: PreTrainedModel) -> bool:
    """Whether it has fused experts, which bitsandbytes leaves in 16 bit and which are most of such a model."""
    return any(group.kind == "experts" for group in targets_of(model).groups)


def _too_large(settings: TrainingSettings, chosen: tuple[Group, ...]) -> list[Warned]:
    """A rank above what the modules have; single gates of one output, which a Mixture of Experts has, do not count."""
    over = [group for group in chosen if settings.rank > group.smallest]
    wasted = sum(group.parameters(settings.rank) for group in over)
    if not over or wasted < 0.1 * sum(group.parameters(settings.rank) for group in chosen):
        return []
    small = min(over, key=lambda group: group.smallest)
    return [
        Warned(
            "lora-rank",
            "warning",
            f"Rank {settings.rank} is more than the {small.smallest} directions of {small.name}: the rest of it learns"
            " nothing.",
            f"A rank of {small.smallest} is as good there, and smaller.",
        )
    ]
