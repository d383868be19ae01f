"""Steps that tests of fine-tuning share: logits, how far apart they are, and a few steps of learning."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from studio.events import Finished
from studio.training import TrainingSettings

IDS = 10 + torch.arange(24).reshape(2, 12)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Of a fixed text, in evaluation."""
    return model.eval()(IDS, use_cache=False).logits.float()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far apart, relative."""
    return float((found - expected).norm() / expected.norm())


def learn(model: Any, steps: int = 3, rate: float = 1e-2) -> None:
    """A few steps on whatever is trained."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    for _ in range(steps):
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def reloaded(base: Any, folder: Path) -> Any:
    """An adapter on a base, by PEFT alone."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(folder))


def settings(**changes: Any) -> TrainingSettings:
    """Those of a small adapter."""
    return TrainingSettings(**{"rank": 4, "alpha": 8, **changes})


def result_of(work: Iterable[Any]) -> Any:
    """What slow work ends with."""
    *_, last = work
    assert isinstance(last, Finished)
    return last.result


def deltas(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """What PEFT adds to every module for an adapter."""
    from adapter_variants import on_top

    layers = adapted(on_top(base, folder))
    return {path: layer.get_delta_weight("default").detach() for path, layer in layers.items()}


def adapted(model: Any) -> dict[str, Any]:
    """The modules of a model of PEFT that have an adapter."""
    modules = model.base_model.model.named_modules()
    return {path: module for path, module in modules if hasattr(module, "get_delta_weight")}
