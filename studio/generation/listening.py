"""What the thread that generates tells the one that streams, and how that one ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

from studio.events import Phase, Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.generation.streamers import BaseStreamer


class Stopped(Exception):
    """Raised inside the forward pass, to end it."""


Said = Progress | list[int]


class Listener:
    """What the generating thread tells, and whether it should end."""

    def __init__(self, say: Callable[[Said], None], stop: Event) -> None:
        self.say, self.stop, self.within = say, stop, list[Any]()
        self.first_token: float | None = None

    def streamer(self) -> BaseStreamer:
        from transformers.generation.streamers import BaseStreamer

        listener = self

        class Streamer(BaseStreamer):  # type: ignore[misc]
            seen_prompt = False

            def put(self, value: torch.Tensor) -> None:
                if self.seen_prompt:
                    listener.heard_token()
                    listener.say(value.reshape(-1).tolist())
                self.seen_prompt = True

            def end(self) -> None:
                """Nothing is held back."""

        return Streamer()

    def heard_token(self) -> None:
        if self.first_token is None:
            self.first_token = time.monotonic()
            for handle in self.within:
                handle.remove()

    def criteria(self) -> Callable[..., torch.Tensor]:
        """A stopping criterion that never stops: beams have no streamer, and this is called for each token."""
        import torch

        decoded = 0

        def count(input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
            nonlocal decoded
            decoded += 1
            self.heard_token()
            self.say(Progress(Phase.DECODE, decoded))
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

        return count

    @contextmanager
    def on(self, model: PreTrainedModel) -> Iterator[None]:
        """Look in before every layer: a prefill is one forward pass, and only from inside can it be ended.

        Until the first token, also before every part of a layer: on a CPU, a layer takes seconds for a long prompt.
        """
        layers = list(enumerate(_layers(model)))

        def look(index: int) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                if self.stop.is_set():
                    raise Stopped
                if self.first_token is None:
                    self.say(Progress(Phase.PREFILL, index, len(layers)))

            return hook

        handles = [layer.register_forward_pre_hook(look(index)) for index, layer in layers]
        self.within = [part.register_forward_pre_hook(look(i)) for i, layer in layers for part in layer.modules()]
        try:
            yield
        finally:
            for handle in (*handles, *self.within):
                handle.remove()


def _layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The decoder layers: the longest list of modules in the model; the model itself where it has none."""
    import torch

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max((list(modules) for modules in lists), key=len, default=[model])
