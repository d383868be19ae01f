"""What the tests of the Hub do again and again: download the pico model, stop in the middle, look at what is left."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from studio import hub
from studio.events import Finished, Progress
from studio.models import ModelRef

PICO = ModelRef("hub", "alice/pico")
CDN = "/_cdn/"
"""Where the loopback Hub has the bodies of large files."""


def download(ref: ModelRef = PICO, token: hub.Token = False, **options: Any) -> Path:
    """The folder that a download ends with."""
    *_, last = hub.download(ref, token=token, **options)
    assert isinstance(last, Finished)
    return last.result


def first_bytes(ref: ModelRef = PICO, token: hub.Token = False) -> Generator[Any, None, None]:
    """A download that has received something and goes on."""
    events = hub.download(ref, token=token)
    next(event for event in events if isinstance(event, Progress) and event.done)
    return events


def partial_files() -> list[Path]:
    """What unfinished downloads have left."""
    return list(Path(os.environ["HF_HOME"]).glob("hub/models--*/blobs/*.incomplete"))


def children() -> list[psutil.Process]:
    """The processes that are downloading for this one."""
    return [child for child in psutil.Process().children() if "studio.hub.fetching" in child.cmdline()]


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the Hub is a closed port."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub.forget_reach()
