"""How the Hub is asked: where it is, as whom, whether it can be reached at all, and one call."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from studio.errors import AccessDenied, Offline
from studio.hub.translation import OFFLINE_HINT, foreign_errors, redact, translate

if TYPE_CHECKING:
    from httpx2 import Response

Token = str | Literal[False]
"""As whom the Hub is asked. False is anonymous; there is no None, which stands for the machine's login elsewhere."""

PROBE_SECONDS = 2.5
CALL_SECONDS = 10.0
_REMEMBER_SECONDS = {True: 300.0, False: 30.0}  # a Hub that works is trusted for longer than one that does not


def endpoint() -> str:
    """The address of the Hub, without a slash at its end."""
    # huggingface_hub reads this once, when it is imported; the studio follows the environment as it is now.
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def cache_folder() -> Path:
    """The Hugging Face cache, which other tools of this machine use as well."""
    if folder := os.environ.get("HF_HUB_CACHE"):
        return Path(os.path.expandvars(folder)).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def machine_token() -> Token:
    """The Hub login of this machine, or False. Never for visitors of a shared machine."""
    from huggingface_hub import get_token

    return get_token() or False


def authorization(token: Token) -> dict[str, str]:
    """The headers that say who asks. Raises AccessDenied for text that no token can be."""
    if token is False:
        return {}
    if not re.fullmatch(r"[!-~]+", token):
        raise AccessDenied(
            "What was given as a token is none.", "Copy it anew from https://huggingface.co/settings/tokens."
        )
    return {"authorization": f"Bearer {token}"}


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether the Hub answered a probe, after how long, and if not, why."""

    reachable: bool
    endpoint: str
    seconds: float
    why: str = ""


class _Memory:
    """The last answer to "is the Hub there?". The lock makes those who ask meanwhile wait for the same probe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: Reach | None = None
        self.until = 0.0


_MEMORY = _Memory()


def reach() -> Reach:
    """Whether the Hub can be reached; at most PROBE_SECONDS the first time, at once while that is remembered."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Reach(False, endpoint(), 0.0, "HF_HUB_OFFLINE is set")
    with _MEMORY.lock:
        known = _MEMORY.known
        if known is None or known.endpoint != endpoint() or time.monotonic() > _MEMORY.until:
            known = _MEMORY.known = _probe(endpoint())
            _MEMORY.until = time.monotonic() + _REMEMBER_SECONDS[known.reachable]
        return known


def forget_reach() -> None:
    """Probe anew on the next call, whatever is remembered."""
    with _MEMORY.lock:
        _MEMORY.known = None


def _probe(address: str) -> Reach:
    """Any answer will do, an error too. On a thread of its own, because looking up a name has no timeout."""
    import httpx2

    begin = time.monotonic()
    answers: list[str] = []

    def knock() -> None:
        try:
            httpx2.head(f"{address}/api/models", params={"limit": 1}, timeout=PROBE_SECONDS)
            answers.append("")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            answers.append(redact(str(error)) or type(error).__name__)

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    why = answers[0] if answers else f"it did not answer within {PROBE_SECONDS:g} seconds"
    return Reach(not why, address, time.monotonic() - begin, why)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what the Hub's client raises about `what` into a StudioError, and keep the cause."""
    try:
        yield
    except foreign_errors() as error:
        said = translate(error, what)
        if isinstance(said, Offline):
            forget_reach()  # what was remembered is wrong now, and the next call should notice quickly
        raise said from error


def ask(path: str, *, token: Token, what: str, params: dict[str, Any] | None = None) -> Response:
    """GET one answer of the Hub's API, without retries. Raises Offline, quickly, when the Hub cannot be reached."""
    known = reach()
    if not known.reachable:
        raise Offline(f"The Hub at {known.endpoint} cannot be reached: {known.why}.", OFFLINE_HINT)
    from huggingface_hub.utils import get_session, hf_raise_for_status

    headers = {"user-agent": "transformers-studio", **authorization(token)}
    with explained(what):
        response = get_session().get(f"{endpoint()}/api/{path}", params=params, headers=headers, timeout=CALL_SECONDS)
        hf_raise_for_status(response)
        return response
