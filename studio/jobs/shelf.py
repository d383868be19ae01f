"""What was read and is kept for the next one who asks; and who has lately been let near it."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from studio import hub
from studio.models import ModelRef

TRUSTED_SECONDS = 300.0
"""How long the Hub's word counts that somebody may read a model; some jobs run at every key that is pressed."""

Key = TypeVar("Key", bound=Hashable)
Place = TypeVar("Place")
Thing = TypeVar("Thing")


class Shelf(Generic[Place, Key, Thing]):
    """The `kept` things that were used last, by key; and where each token was shown which model."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._open: OrderedDict[Key, Thing] = OrderedDict()
        self._shown: OrderedDict[tuple[ModelRef, bytes], tuple[Place, float]] = OrderedDict()
        self._key = secrets.token_bytes(16)

    def shown(self, ref: ModelRef, token: hub.Token) -> Place | None:
        """Where the model was when this token was last shown to it, while that is not long ago."""
        with self._lock:
            found = self._shown.get((ref, self._whose(token)))
            return found[0] if found and time.monotonic() < found[1] else None

    def show(self, ref: ModelRef, token: hub.Token, place: Place) -> None:
        """Note that whoever has this token may read the model."""
        with self._lock:
            self._shown[ref, self._whose(token)] = place, time.monotonic() + TRUSTED_SECONDS
            while len(self._shown) > 1000:
                self._shown.popitem(last=False)

    def find(self, key: Key) -> Thing | None:
        """What is kept under a key."""
        with self._lock:
            if (found := self._open.get(key)) is not None:
                self._open.move_to_end(key)
            return found

    def put(self, key: Key, thing: Thing) -> None:
        """Keep it, and let go of what was not used for longest."""
        with self._lock:
            self._open[key] = thing
            while len(self._open) > self._kept:
                self._open.popitem(last=False)

    def _whose(self, token: hub.Token) -> bytes:
        """Who asks, without keeping the token."""
        return hmac.digest(self._key, token.encode(), "sha256") if token else b""
