"""Tokenizers that are open: read once, and used by every job that needs one, without the model and without a GPU."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from studio import compute, hub
from studio.events import Phase, Progress, outcome
from studio.heartbeat import heartbeat
from studio.jobs.fetching import folder_here
from studio.models import ModelRef
from studio.settings import Settings
from studio.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT = 8
"""Tokenizers that stay open; one of a large vocabulary takes some 100 MB."""
TRUSTED_SECONDS = 300.0
"""How long the Hub's word counts that somebody may read a model; a text is tokenized at every key that is pressed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A tokenizer and the folder that it was read from. It is shared: whoever uses it leaves it as it was."""

    tokenizer: PreTrainedTokenizerBase
    folder: Path


class _Shelf:
    """The tokenizers that were used last, and who was shown to which folder."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[Path, float], Opened] = OrderedDict()
        self._shown: OrderedDict[tuple[ModelRef, bytes], tuple[Path, float]] = OrderedDict()
        self._key = secrets.token_bytes(16)

    def shown(self, ref: ModelRef, token: hub.Token) -> Path | None:
        """The folder that this token was shown to, while that is not long ago."""
        with self._lock:
            folder, until = self._shown.get((ref, self._whose(token)), (None, 0.0))
            return folder if folder and folder.is_dir() and time.monotonic() < until else None

    def show(self, ref: ModelRef, token: hub.Token, folder: Path) -> None:
        with self._lock:
            self._shown[ref, self._whose(token)] = folder, time.monotonic() + TRUSTED_SECONDS
            while len(self._shown) > 1000:
                self._shown.popitem(last=False)

    def find(self, folder: Path) -> Opened | None:
        with self._lock:
            found = self._open.get(key := (folder, _changed(folder)))
            if found:
                self._open.move_to_end(key)
            return found

    def put(self, opened: Opened) -> None:
        with self._lock:
            self._open[opened.folder, _changed(opened.folder)] = opened
            while len(self._open) > KEPT:
                self._open.popitem(last=False)

    def _whose(self, token: hub.Token) -> bytes:
        """Who asks, without keeping the token."""
        return hmac.digest(self._key, token.encode(), "sha256") if token else b""


_SHELF = _Shelf()


def open_tokenizer(ref: ModelRef, *, token: hub.Token) -> Generator[Progress, None, Opened]:
    """The tokenizer of a model, downloaded first where it is on the Hub, without the weights. At once where it is open.

    Raises Unsupported where there is none, Damaged where it cannot be read, or a HubError.
    """
    folder = folder_here(ref) or _SHELF.shown(ref, token)
    if folder is None:
        shared = Settings.from_env().shared
        folder = yield from outcome(hub.download(ref, token=token, shared=shared, part="tokenizer"))
        _SHELF.show(ref, token, folder)
    if opened := _SHELF.find(folder):
        return opened
    yield from compute.imports()
    work = partial(load_tokenizer, folder)
    tokenizer = yield from heartbeat(lambda _say, _stop: work(), lambda _: [Progress(Phase.OPEN)], every=0.2)
    opened = Opened(tokenizer, folder)
    _SHELF.put(opened)
    return opened


def _changed(folder: Path) -> float:
    """When a file of the folder was last written, so that an edited tokenizer is read anew."""
    files = [folder] if folder.is_file() else [path for path in folder.iterdir() if path.suffix != ".safetensors"]
    return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)
