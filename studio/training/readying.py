"""A loaded model made ready to be trained: its adapter on, and proven which short cuts are right for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.errors import InputError
from studio.training.adapting import Adapted, adapt
from studio.training.loss import SAME, Head, plain_head
from studio.training.pace import computes_in
from studio.training.packing import packs_apart
from studio.training.plan import TrainingSettings
from studio.training.proving import check_gradients

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SHORT, _LONG = 7, 12
"""Tokens of the two texts that a model is tried with."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A model to train, and how."""

    adapted: Adapted
    head: Head | None
    """None where the model computes its loss itself."""
    compute: str
    """fp32, bf16 or fp16."""
    mask: bool
    """Whether rows that are padded on the right need an attention mask."""
    packs: bool
    """Whether several rows stand in one sequence."""

    @property
    def model(self) -> Any:
        """What is trained."""
        return self.adapted.model

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return self.adapted.trainable


def ready(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainingSettings,
    *,
    batches: Iterable[Mapping[str, torch.Tensor]] | None = None,
) -> Ready:
    """Put the adapter on and try the model on short texts. The same seed begins the same adapter.

    `batches` are read by the start eva alone. Raises what `adapt` and `check_gradients` do.
    """
    import torch

    kind = computes_in(model, settings)
    torch.manual_seed(settings.seed)
    adapted = adapt(model, settings, tokenizer, batches=batches)
    if not adapted.trainable:
        raise InputError("Nothing of this model would be trained.", "Choose other targets, such as all-linear.")
    check_gradients(adapted.model)
    adapted.model.config.use_cache = False
    return Ready(
        adapted=adapted,
        head=plain_head(adapted.model),
        compute=kind.dtype,
        mask=not padding_is_harmless(adapted.model),
        packs=settings.packing and packs_apart(adapted.model).apart,
    )


def padding_is_harmless(model: PreTrainedModel) -> bool:
    """Whether tokens that follow on the right change nothing of what is before them, without an attention mask."""
    import torch

    short, long = _texts(model)
    padded = torch.cat([short, short.new_zeros(1, _LONG - _SHORT)], dim=1)
    together = _logits(model, input_ids=torch.cat([padded, long]))
    return _same(together[:1, :_SHORT], _logits(model, input_ids=short)) and _same(
        together[1:], _logits(model, input_ids=long)
    )


def _texts(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    entries = model.config.get_text_config().vocab_size
    made = torch.randint(entries, (1, _SHORT + _LONG), generator=torch.Generator().manual_seed(1)).to(model.device)
    return made[:, :_SHORT], made[:, _SHORT:]


def _logits(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    import torch

    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits: torch.Tensor = model(**inputs, use_cache=False).logits
            return logits
    finally:
        model.train(was)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    # In bf16 a sum over another length is rounded otherwise; a row that sees what it must not is off by 0.4 and more.
    tolerance = SAME if one.dtype.itemsize == 4 else 0.03
    return bool((one.float() - other.float()).norm() <= tolerance * other.float().norm())
