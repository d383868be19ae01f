"""Several processes that learn one run: each computes its part of every step, and the first decides all the rest.

They are started by torchrun, one a device, and talk by gloo. The parts of a step add up to what one process would
learn: the same batches, divided by the same number of tokens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from studio import compute
from studio.errors import InputError, Unsupported
from studio.training.loss import Head, summed
from studio.training.plan import TrainingSettings

if TYPE_CHECKING:
    import torch

_PATIENCE = timedelta(days=30)
"""How long one waits for the others: the first measures and saves meanwhile, and who is gone is noticed at once."""


@dataclass(frozen=True, slots=True)
class Together:
    """This process among those of a run."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one keeps the run: its folder, its events, its checkpoints."""
        return self.rank == 0

    def share(self, value: Any = None) -> Any:
        """What the first process gives, in all of them."""
        if self.size == 1:
            return value
        from torch import distributed

        held = [value]
        distributed.broadcast_object_list(held, src=0)
        return held[0]

    def gathered(self, value: Any) -> list[Any]:
        """What each process gives, in the first one; an empty list in the others."""
        if self.size == 1:
            return [value]
        from torch import distributed

        held: list[Any] | None = [None] * self.size if self.is_first else None
        distributed.gather_object(value, held, dst=0)
        return held or []

    def totals(self, *numbers: int) -> list[int]:
        """The sums over all processes."""
        if self.size == 1:
            return list(numbers)
        import torch
        from torch import distributed

        sums = torch.tensor(numbers, dtype=torch.int64)
        distributed.all_reduce(sums)
        return [int(each) for each in sums.tolist()]

    def scored(self, model: Any, head: Head | None) -> Any:
        """A module whose output is the loss of a batch, summed; where there are several processes, its gradients are
        their mean."""
        scored = _scored()(model, head)
        if self.size == 1:
            return scored
        from torch import distributed
        from torch.nn.parallel import DistributedDataParallel

        for parameter in model.parameters():
            if parameter.requires_grad:
                distributed.broadcast(parameter.data, src=0)
        # The weights that stay as they are were read from the same files.
        return DistributedDataParallel(scored, broadcast_buffers=False, init_sync=False)

    def check(self, settings: TrainingSettings) -> None:
        """Raise InputError where a step cannot be divided evenly."""
        if settings.accumulation % self.size:
            raise InputError(
                f"{self.size} processes share the batches of each step, and accumulation is {settings.accumulation}.",
                f"Set accumulation to a multiple of {self.size}; one process learns the same from it.",
            )


@cache
def together() -> Together:
    """This process as torchrun started it; alone without. Raises Unsupported on a GPU."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Together()
    if compute.machine().device != "cpu":
        raise Unsupported(
            f"{size} processes were started for one run, and on a GPU a run is learnt by one.",
            "Start it without torchrun.",
        )
    from torch import distributed

    distributed.init_process_group("gloo", timeout=_PATIENCE)
    return Together(distributed.get_rank(), size)


@cache
def _scored() -> Any:
    """The class, made here because importing torch takes a second."""
    import torch

    class Scored(torch.nn.Module):  # type: ignore[misc]
        """A model whose output is the sum of the losses of a batch: gradients are exchanged for what goes through."""

        def __init__(self, model: Any, head: Head | None) -> None:
            super().__init__()
            self.model, self.head = model, head

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return summed(self.model, self.head, batch)

    return Scored
