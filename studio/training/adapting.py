"""A model made ready to train: an adapter on its modules, modules trained whole, new tokens, or all of its weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from studio import four_bit
from studio.adapters.sketch import write_sketch
from studio.errors import Unsupported
from studio.training.beginning import begin_with_data, begin_with_rounding
from studio.training.continuing import base_sketch, check_adapter, kept_notes, open_adapter
from studio.training.guards import check_whole, check_wish, has_experts, learning_notes
from studio.training.plan import TrainingSettings
from studio.training.targets import Group, short_names, targets_of
from studio.training.telling import Warned

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOVES_THE_BASE = ("pissa", "olora")
"""Beginnings that take the adapter's first values out of the base weights."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """A model that is ready to train. It lives in the process that trains it."""

    model: Any
    """A PeftModel, or for the method full the model itself. What is trained requires gradients, and nothing else."""
    names: tuple[str, ...]
    """The modules that have an adapter, by their whole names; of experts the parameters. Empty for full."""
    trainable: int
    notes: tuple[Warned, ...]
    sketch: tuple[float, ...]
    """A few numbers of the base, which tell whether an adapter is put on the right one."""
    first: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The adapter as it began, where that was taken out of the base; saving puts it back."""


def add_tokens(tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings) -> list[int]:
    """Put the new tokens of the settings into a tokenizer, where they are not in it already; return their ids.

    Whoever prepares the rows calls this first: a token that comes later is read in pieces.
    """
    wished = list(dict.fromkeys(settings.new_tokens.split()))
    if not wished:
        return []
    tokenizer.add_tokens(wished)
    return [int(number) for number in tokenizer.convert_tokens_to_ids(wished)]


def adapt(
    model: PreTrainedModel,
    settings: TrainingSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batches: Iterable[Mapping[str, torch.Tensor]] | None = None,
) -> Adapted:
    """Make a model ready to train; it is changed in place. The same settings on the same model do the same.

    `batches` are read by the start eva alone: a few of `input_ids`, `attention_mask` and `labels`, on the device of
    the model. Raises InputError, Unsupported or Damaged, before anything is changed where the files and the settings
    tell.
    """
    chosen = () if settings.method == "full" or settings.adapter else targets_of(model).chosen(settings.targets)
    check_wish(model, settings, chosen, has_batches=batches is not None)
    sketch, notes = base_sketch(model), learning_notes(model, settings, chosen)
    earlier = check_adapter(model, Path(settings.adapter), settings, sketch) if settings.adapter else {}
    new = add_tokens(tokenizer, settings)
    _make_room(model, new, settings.seed)
    if settings.method == "full":
        model.requires_grad_(True)
        return Adapted(model, (), _trainable(model), notes, sketch)
    _prepare(model)
    if settings.adapter:
        adapted = open_adapter(model, Path(settings.adapter), earlier)
        notes = (*notes, *kept_notes(earlier, settings))
        return Adapted(adapted, _names(adapted), _trainable(adapted), notes, sketch)
    adapted = _new_adapter(model, settings, chosen, new)
    if strangers := set(_names(adapted)) ^ {path for group in chosen for path in group.paths}:
        raise Unsupported(
            f"PEFT does not put adapters where it should: {len(strangers)} modules, the first is {min(strangers)}.",
            "Name the attention modules, for example q_proj, v_proj.",
        )
    first = _begin(adapted, settings, batches)
    return Adapted(adapted, _names(adapted), _trainable(adapted), notes, sketch, first)


def save_adapter(adapted: Adapted, folder: Path) -> None:
    """Write what was trained in PEFT's own format, so that it goes on the base as it was before training.

    The rank of one that began inside the base is twice as large: what it began with is taken off there.
    """
    from safetensors.torch import save_file

    # Said outright: left to itself PEFT asks the Hub whether the vocabulary of the base has another size.
    options: dict[str, Any] = {"save_embedding_layers": False}
    with TemporaryDirectory() as scratch:
        if adapted.first:
            start = Path(scratch, "start")
            start.mkdir()
            save_file(dict(adapted.first), start / "adapter_model.safetensors")
            options["path_initial_model_for_weight_conversion"] = str(start)
        with _quiet():
            adapted.model.save_pretrained(str(folder), **options)
    write_sketch(folder, adapted.sketch)


def _make_room(model: PreTrainedModel, new: list[int], seed: int) -> None:
    """Rows for new tokens, near the mean of the others, where the vocabulary has none to spare."""
    import torch

    if new and max(new) >= model.get_input_embeddings().weight.shape[0]:
        with torch.random.fork_rng(), _quiet():
            torch.manual_seed(seed)
            model.resize_token_embeddings(max(new) + 1)


def _prepare(model: PreTrainedModel) -> None:
    """Freeze the base, and bring what is not quantized of a quantized one to fp32, as PEFT does.

    With fused experts all stays as it is: they are most of such a model, and twice as large in fp32.
    """
    from peft import prepare_model_for_kbit_training

    model.requires_grad_(False)
    if not getattr(model, "is_quantized", False):
        return
    four_bit.guard(model)
    if not has_experts(model):
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _new_adapter(model: PreTrainedModel, settings: TrainingSettings, chosen: tuple[Group, ...], new: list[int]) -> Any:
    from peft import LoraConfig, get_peft_model

    modules = [path for group in chosen if group.kind not in ("experts", "router") for path in group.paths]
    bare = [group for group in chosen if group.kind in ("experts", "router")]
    whole, tied = check_whole(model, settings, chosen)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.rslora,
        use_dora=settings.method == "dora",
        lora_dropout=settings.dropout,
        target_modules=short_names(modules, model) or None,
        target_parameters=sorted({_short(path) for group in bare for path in group.paths}) or None,
        modules_to_save=whole or None,
        trainable_token_indices=_rows_of(model, new) if new else None,
        ensure_weight_tying=tied,
        init_lora_weights=_beginning(settings.start),
        fan_in_fan_out=any(group.kind == "conv1d" for group in chosen),
        task_type="CAUSAL_LM",
        **_eva(settings),
    )
    import torch

    with torch.random.fork_rng(), _quiet():
        torch.manual_seed(settings.seed)
        return get_peft_model(model, config)


def _beginning(start: str) -> bool | str:
    """What PEFT calls it. LoftQ for weights that are quantized already is filled in afterwards."""
    return True if start in ("default", "loftq") else start


def _eva(settings: TrainingSettings) -> dict[str, Any]:
    """Every module keeps its rank: what is trained is then as large as it was said, and the same when it is resumed."""
    from peft import EvaConfig

    return {"eva_config": EvaConfig(rho=1.0)} if settings.start == "eva" else {}


def _begin(
    adapted: Any, settings: TrainingSettings, batches: Iterable[Mapping[str, torch.Tensor]] | None
) -> dict[str, torch.Tensor]:
    """Fill in what the adapter begins with where that is not done yet; return what was taken out of the base."""
    import torch
    from peft import get_peft_model_state_dict

    with torch.random.fork_rng(), _quiet():
        torch.manual_seed(settings.seed)
        if settings.start == "eva":
            begin_with_data(adapted, batches or ())
        elif settings.start == "loftq":
            begin_with_rounding(adapted)
    if settings.start not in MOVES_THE_BASE:
        return {}
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def _rows_of(model: PreTrainedModel, new: list[int]) -> dict[str, list[int]]:
    """Which rows are trained: those of the embedding and, where it has a weight of its own, of the head."""
    inner = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    apart = inner[1] is not None and inner[0].weight is not inner[1].weight
    return {names[id(module)]: new for module in (inner if apart else inner[:1])}


def _short(path: str) -> str:
    """The last two or three parts of the name of a parameter: experts.down_proj, mlp.gate.weight."""
    parts = path.split(".")
    return ".".join(parts[-3:] if parts[-1] == "weight" else parts[-2:])


def _names(adapted: Any) -> tuple[str, ...]:
    return (*adapted.targeted_module_names, *adapted.targeted_parameter_names)


def _trainable(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of PEFT: what matters of them is said in our own words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
