"""An adapter on a model in memory, as strongly as one likes, and off again: the model is as it was, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import compute
from studio.adapters.adapter import CONFIG, Adapter
from studio.adapters.finite import check_finite
from studio.adapters.sketch import another_base, sketch
from studio.checkpoint import read_json
from studio.errors import DoesNotFit, Unsupported
from studio.loading.reading import with_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADDED = ("LORA", "LOHA", "LOKR")
"""Types whose update is a number times what was learnt, added to a weight: PEFT calls that number the scaling."""
_BESIDE = (*_ADDED, "IA3", "MISS")
"""Types that stand beside the weights of the base, and change none of them."""
_STARTS = ("default", "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the weights of the base alone; PiSSA and its like take a part out of them."""


@dataclass(frozen=True, slots=True)
class Attached:
    """An adapter on a model."""

    model: PreTrainedModel
    bytes: int
    """That the adapter takes beside the model, measured."""


def no_strength(adapter: Adapter) -> str:
    """Why an adapter cannot be made weaker or stronger, as a sentence; empty where it can: 0 is the base, 1 all of it.

    What is left when the update is scaled to nothing has to be the base itself.
    """
    if adapter.type not in _ADDED:
        return f"An adapter of the type {adapter.type} has no strength: PEFT does not add it times a number."
    if adapter.dora or any(module.dora for module in adapter.modules):
        return "DoRA has no strength: it also sets the length of every weight, which does not scale with the update."
    if adapter.start not in _STARTS:
        return f"An adapter that began with {adapter.start} has no strength: its base is not the model itself."
    if brought := _brought(adapter):
        return f"This adapter has no strength: {brought}, and that is there or not."
    return ""


def apart(adapter: Adapter, model: PreTrainedModel) -> str:
    """Why an adapter needs a copy of the model of its own, as a sentence; empty where it goes on this one and off."""
    if adapter.type not in _BESIDE:
        return f"The type {adapter.type} is not known to come off again."
    if adapter.start not in _STARTS:
        return f"It began with {adapter.start}, which changes the weights beneath."
    if brought := _brought(adapter):
        return f"Not an update alone: {brought}."
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "The model is spread over several devices."
    return ""


def _brought(adapter: Adapter) -> str:
    """What an adapter has beside its updates, in words; empty where there is nothing."""
    if adapter.features:
        return f"it has {adapter.features[0]}"
    config = read_json(Path(adapter.folder, CONFIG))
    if adapter.whole or config.get("modules_to_save") or str(config.get("bias") or "none") != "none":
        return "it brings whole tensors"
    return "it brings rows for tokens" if adapter.tokens or config.get("trainable_token_indices") else ""


def check_attachable(adapter: Adapter, model: PreTrainedModel) -> None:
    """Raise where an adapter must not be put on this model: Unsupported on another base, Damaged, DoesNotFit."""
    for _ in check_finite(adapter):
        pass
    embedding = model.get_input_embeddings().weight
    if not embedding.is_meta and (why := another_base(Path(adapter.folder), sketch(embedding[:256]))):
        raise Unsupported(
            f"The adapter was trained on another base: {why}.", "Choose one that was trained on this model."
        )
    needed, free = 4 * adapter.parameters, compute.free_memory()  # PEFT holds them in fp32
    if needed > free:
        raise DoesNotFit(
            f"The adapter takes {needed / 1e9:.2f} GB beside the model, and {free / 1e9:.2f} GB are free.",
            "Close other programs, or make the adapter smaller on the Merge tab.",
        )


def attach(model: PreTrainedModel, adapter: Adapter, strength: float = 1.0) -> Attached:
    """Put an adapter on a model, its update times `strength`. Whoever calls has the model within `unchanged`.

    Raises Unsupported where it does not fit, weight by weight.
    """
    own = {id(parameter) for parameter in model.parameters()}
    adapted = with_adapter(model, Path(adapter.folder))
    if strength != 1:
        _scale(adapted, strength)
    new = [parameter for parameter in adapted.parameters() if id(parameter) not in own]
    return Attached(adapted, sum(parameter.numel() * parameter.element_size() for parameter in new))


def _scale(adapted: PreTrainedModel, strength: float) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer) and isinstance(getattr(layer, "scaling", None), dict):
            layer.scaling = {name: scaling * strength for name, scaling in layer.scaling.items()}


@contextmanager
def unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Put a model together again as it was: its modules, hooks and flags, whatever was put between them meanwhile.

    PEFT's own `unload` needs an adapter that was put on whole; one that was refused halfway leaves its layers behind.
    """
    held = [(module, [(name, part, _copy(part)) for name, part in vars(module).items()]) for module in model.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, parts in held:
            vars(module).clear()
            for name, part, before in parts:
                if before is not None:  # handles of hooks point at the very dict that they are in
                    part.clear()
                    part.update(before)
                vars(module)[name] = part
        for parameter, was in trained:
            if parameter.requires_grad is not was:
                parameter.requires_grad_(was)


def _copy(part: Any) -> Any:
    """A dict or a set as it is now; None for what is not looked into."""
    return part.copy() if isinstance(part, dict | set) else None
