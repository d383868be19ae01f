"""How a run is asked to stop, and how a step that is under way is ended from inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

from studio.training.plan import Stop

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Interrupted(Exception):
    """Raised inside a step, to end it."""


class Signal:
    """What was wished for so far. Looked at by the thread that works, and by the one that listens to it."""

    def __init__(self, wish: Callable[[], Stop | None], closed: Event) -> None:
        self._wish, self._closed, self._now, self._soon = wish, closed, Event(), Event()

    def look(self) -> None:
        """Ask whether to stop."""
        match self._wish():
            case Stop.NOW:
                self._now.set()
            case Stop.CHECKPOINT:
                self._soon.set()

    @property
    def after_this_step(self) -> bool:
        return self._soon.is_set()

    @property
    def is_now(self) -> bool:
        return self._now.is_set() or self._closed.is_set()

    def check(self, *_: Any) -> None:
        """Raise Interrupted where all is to end at once."""
        if self.is_now:
            raise Interrupted


@contextmanager
def interruptible(model: PreTrainedModel, check: Callable[..., None]) -> Iterator[None]:
    """Call `check` before every part of a layer, forward and backward: on a CPU a layer may take seconds."""
    import torch

    def behind(_module: Any, _inputs: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) and output else output
        if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
            # Of the tensor, and not of the module: such hooks leave the graph as it is.
            tensor.register_hook(check)

    handles = []
    for module in model.modules():
        if not any(True for _ in module.children()) and any(True for _ in module.parameters(recurse=False)):
            handles += [module.register_forward_pre_hook(check), module.register_forward_hook(behind)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
