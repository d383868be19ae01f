"""The ways in which the loopback Hub can misbehave."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Fault:
    """What goes wrong with a request whose path matches the regular expression, `times` times or always."""

    path: str
    method: str | None = None
    times: int | None = None
    status: int | None = None
    """Answer with this status, these headers, for example {"x-error-code": "GatedRepo"}, and this body instead."""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds until the answer begins."""
    pace: float = 0.0
    """Seconds of rest after every 64 KiB of the body."""
    end: Literal["drop", "stall"] | None = None
    """Cut the connection, or go silent, after `after` bytes of the body; before any answer where that is None."""
    after: int | None = None
    shorten: int | None = None
    """Answer with only so many bytes of the file, as if that were all of it."""
    whole: bool = False
    """Answer with all of the file whatever part of it is asked for, as some proxies do."""

    def applies(self, method: str, path: str) -> bool:
        """Whether this request goes wrong; counts down `times` when it does."""
        if self.times == 0 or self.method not in (None, method) or not re.search(self.path, path):
            return False
        if self.times is not None:
            self.times -= 1
        return True
