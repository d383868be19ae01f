"""The one reply that a model gives when it always takes the likeliest token, as ids: what a deployment is held to."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from studio.events import Phase, Progress
from studio.generation import GenerationSettings, generation_config, only
from studio.generation.listening import Listener, Said
from studio.heartbeat import heartbeat

if TYPE_CHECKING:
    from torch import Tensor

    from studio.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy reply."""

    ids: tuple[int, ...]
    """The token that ended it included."""
    text: str
    """Without special tokens."""


def reply(loaded: LoadedModel, prompt: Sequence[int], tokens: int) -> Generator[Progress, None, Answer]:
    """Let the model write at most `tokens` behind `prompt`. Closing the generator stops it within a layer's time."""
    import torch

    config = generation_config(loaded.model, loaded.tokenizer, GenerationSettings(greedy=True), tokens)

    def work(say: Callable[[Said], None], stop: Event) -> list[int]:
        listener = Listener(say, stop)
        ids = torch.tensor([list(prompt)], device=loaded.model.device)
        with listener.on(loaded.model), only(config, loaded.model):
            output = loaded.model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=listener.streamer()
            )
        new: list[int] = output[0, ids.shape[1] :].tolist()
        return new

    written = 0

    def tell(said: list[Said]) -> list[Progress]:
        nonlocal written
        written += sum(len(item) for item in said if isinstance(item, list))
        return [Progress(Phase.DECODE, written, tokens)]

    ids = yield from heartbeat(work, tell, every=0.1)
    text = loaded.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Answer(tuple(ids), str(text))


def scores(loaded: LoadedModel, ids: Sequence[int]) -> Tensor:
    """The scores of every token in every place, in main memory."""
    import torch

    with torch.inference_mode():
        return loaded.model(torch.tensor([list(ids)], device=loaded.model.device)).logits[0].float().cpu()
