"""Tokenizers that are open: read once, and used by every job that needs one, without the model and without a GPU."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from studio import compute, hub
from studio.events import Phase, Progress, outcome
from studio.heartbeat import heartbeat
from studio.jobs.fetching import folder_here
from studio.jobs.shelf import Shelf
from studio.models import ModelRef
from studio.settings import Settings
from studio.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT = 8
"""Tokenizers that stay open; one of a large vocabulary takes some 100 MB."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A tokenizer and the folder that it was read from. It is shared: whoever uses it leaves it as it was."""

    tokenizer: PreTrainedTokenizerBase
    folder: Path


_SHELF: Shelf[Path, tuple[Path, float], Opened] = Shelf(KEPT)


def open_tokenizer(ref: ModelRef, *, token: hub.Token) -> Generator[Progress, None, Opened]:
    """The tokenizer of a model, downloaded first where it is on the Hub, without the weights. At once where it is open.

    Raises Unsupported where there is none, Damaged where it cannot be read, or a HubError.
    """
    folder = folder_here(ref) or _SHELF.shown(ref, token)
    if folder is None or not folder.exists():
        shared = Settings.from_env().shared
        folder = yield from outcome(hub.download(ref, token=token, shared=shared, part="tokenizer"))
        _SHELF.show(ref, token, folder)
    if opened := _SHELF.find((folder, _changed(folder))):
        return opened
    yield from compute.imports()
    work = partial(load_tokenizer, folder)
    tokenizer = yield from heartbeat(lambda _say, _stop: work(), lambda _: [Progress(Phase.OPEN)], every=0.2)
    opened = Opened(tokenizer, folder)
    _SHELF.put((folder, _changed(folder)), opened)
    return opened


def _changed(folder: Path) -> float:
    """When a file of the folder was last written, so that an edited tokenizer is read anew."""
    files = [folder] if folder.is_file() else [path for path in folder.iterdir() if path.suffix != ".safetensors"]
    return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)
