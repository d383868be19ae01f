"""A piece of advice as a value: what every rule says, wherever it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from studio.models import Precision

Severity = Literal["note", "warning"]


@dataclass(frozen=True, slots=True)
class Advice:
    """One piece of advice. `precision` is what one click would choose, where that is the answer."""

    id: str
    severity: Severity
    why: str
    source: str
    precision: Precision | None = None


def size(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
