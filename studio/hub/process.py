"""What the processes that move bytes have in common: their environment, and their errors and complaints here."""

from __future__ import annotations

import logging
import os

from studio import errors
from studio.errors import Offline, StudioError
from studio.hub.client import cache_folder, endpoint, forget_reach
from studio.hub.translation import redact

_LOG = logging.getLogger(__name__)


def environment() -> dict[str, str]:
    """Where and how such a process works. It gets no token this way: an environment can be read from outside."""
    env = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
    return env | {
        "HF_ENDPOINT": endpoint(),
        "HF_HUB_CACHE": str(cache_folder().absolute()),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
    }


def rebuilt(kind: str, message: str, hint: str) -> StudioError:
    """The process's error, as the same class here."""
    error: StudioError = getattr(errors, kind)(message, hint)
    if isinstance(error, Offline):
        forget_reach()
    return error


def complained(words: str) -> None:
    """Keep what a process that failed wrote to stderr."""
    _LOG.debug("The process said: %s", redact(words))
