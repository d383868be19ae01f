"""A new adapter into a folder that comes to be at the end and all at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from math import prod
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from studio import compute
from studio.adapters.adapter import CONFIG, WEIGHTS, Shape
from studio.adapters.stored import dtype_of
from studio.disk import explained, sync
from studio.errors import DoesNotFit, InputError
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
Told = Callable[[int, int], None]
"""Called with how many modules of how many are done; raises where the work was given up."""
Held = tuple[str, Shape]
"""The dtype of a tensor as the format spells it, and its shape."""
_BESIDE = ("base.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
_MORE_BESIDE = ("chat_template*",)


class _GaveUp(Exception):
    """Raised inside the thread that works, to end it."""


def working(work: Callable[[Told], Result]) -> Generator[Progress, None, Result]:
    """Run `work(told)` on a thread, and say again and again how far it is. Closing the generator ends it."""

    def run(say: Callable[[Progress], None], stop: Event) -> Result:
        def told(done: int, total: int) -> None:
            if stop.is_set():
                raise _GaveUp
            say(Progress(Phase.FACTOR, done, total))

        return work(told)

    latest = Progress(Phase.FACTOR)

    def tell(news: list[Progress]) -> list[Progress]:
        nonlocal latest
        latest = news[-1] if news else latest
        return [latest]

    yield from compute.imports()
    yield latest
    return (yield from heartbeat(run, tell, every=0.1))


def saved(target: Path, work: Callable[[Path, Told], Result]) -> Generator[Progress | Finished[Result], None, None]:
    """Let `work(part, told)` fill a folder, which becomes `target` once it is whole; last comes what it returned.

    Closing the generator leaves nothing. Raises InputError where there is something in this place.
    """
    if target.exists() or not target.name:
        raise InputError(f"{target} exists already.", "Choose a folder that is not there yet.")
    part = target.with_name(target.name + ".part")
    try:
        with explained(target):
            shutil.rmtree(part, ignore_errors=True)  # of one that was killed
            part.mkdir(parents=True)
            result = yield from working(lambda told: work(part, told))
            sync(part)
            part.rename(target)
            sync(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    yield Finished(result)


def write_weights(part: Path, held: Mapping[str, Held], tensors: Iterable[tuple[str, torch.Tensor]]) -> int:
    """Write the weights of an adapter as they come, in the order in which `held` names them. Returns their bytes.

    Raises DoesNotFit where the disk has no room for them.
    """
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in held.items():
        begin, end = end, end + prod(shape) * dtype_of(dtype).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    if (free := shutil.disk_usage(part).free) < end:
        raise DoesNotFit(
            f"The adapter takes {end / 1e9:.2f} GB, and the disk with {part.parent} has {free / 1e9:.2f} GB free.",
            "Free some space, or choose a folder on a larger disk.",
        )
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    expected = iter(held.items())
    with (part / WEIGHTS).open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            key, (dtype, shape) = next(expected)
            assert (name, tuple(tensor.shape), tensor.dtype) == (key, shape, dtype_of(dtype)), name
            stream.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        assert next(expected, None) is None
        stream.flush()
        os.fsync(stream.fileno())
    return end


def write_config(part: Path, config: Mapping[str, Any]) -> None:
    """Write the config of an adapter as PEFT does."""
    with (part / CONFIG).open("x", encoding="utf-8") as stream:
        json.dump(config, stream, indent=2, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())


def copy_beside(folder: Path, part: Path, *, tokenizer: bool = True) -> None:
    """Take along what lies beside the weights of an adapter and stays true: the sketch of its base, its tokenizer."""
    for pattern in (*_BESIDE, *_MORE_BESIDE) if tokenizer else _BESIDE[:1]:
        for file in sorted(folder.glob(pattern)):
            if file.is_file() and file.suffix in ("", ".json", ".txt", ".jinja", ".model"):
                shutil.copyfile(file, part / file.name)
                sync(part / file.name)
