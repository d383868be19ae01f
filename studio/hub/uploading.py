"""Bring files to a repository of the Hub, in one commit or none, with progress, and stop at any moment.

The bytes are moved by a child process, `python -m studio.hub.sending`: what waits for the network cannot be stopped, a
process can. Its order, the token among it, goes over stdin. They go by large file storage and not by Xet, which can be
silent for minutes and says of no file how much of it has arrived.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from studio import child
from studio.errors import AccessDenied, HubError
from studio.events import Finished, Phase, Progress, Retrying
from studio.hub import process
from studio.hub.client import Token, endpoint, forget_reach

STALL_SECONDS = 150.0
"""Of silence, after which an upload is given up. The client of the Hub tries again by itself for 23 of them."""
_BEAT_SECONDS = 0.2
_RESUMES = "Start it again: what has arrived already is not sent a second time."


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A file for a repository: one of this machine, or a text that takes its place."""

    path: str
    """In the repository."""
    size: int
    place: Path | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where an upload goes."""

    repo: str
    private: bool = True
    """Of a repository that is made for it; one that is there and public is refused then."""
    branch: str = "main"
    pull_request: bool = False


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What is on the Hub now; every file was compared by size and hash with what is here."""

    repo: str
    commit: str
    url: str
    """The page of the repository, or of the pull request."""
    pull_request: bool
    private: bool
    files: int
    bytes: int
    seconds: float


def upload(
    target: Target, files: tuple[Outgoing, ...], title: str, *, token: Token
) -> Generator[Progress | Retrying | Finished[Uploaded], None, None]:
    """Upload the files in one commit called `title`; the last event is `Finished(Uploaded)`. Closing it stops it.

    A second time only what is missing is sent. Raises AccessDenied, NotFound, InputError, DoesNotFit, Damaged or
    another HubError, and then the repository is as it was before; one that was made for it is private and empty.
    """
    if token is False:
        raise AccessDenied("Nobody is signed in.", "Sign in, or enter a token.")
    order = {
        "repo": target.repo,
        "token": token,
        "title": title,
        "private": target.private,
        "branch": target.branch,
        "pull_request": target.pull_request,
        "files": [_plain(file) for file in files],
    }
    begin = time.monotonic()
    env = process.environment() | {"HF_HUB_DISABLE_XET": "1"}
    total = sum(file.size for file in files)
    with child.working("studio.hub.sending", order, env=env, complained=process.complained) as messages:
        result = yield from _followed(messages, target.repo, total, len(files))
    page = f"{endpoint()}/{target.repo}"
    yield Finished(
        Uploaded(
            repo=target.repo,
            commit=result["commit"],
            url=result["url"] or page,
            pull_request=bool(result["url"]),
            private=result["private"],
            files=len(files),
            bytes=total,
            seconds=time.monotonic() - begin,
        )
    )


def _plain(file: Outgoing) -> dict[str, Any]:
    return {"path": file.path, "size": file.size, "place": str(file.place or ""), "text": file.text}


def _followed(messages: Any, repo: str, total: int, count: int) -> Generator[Progress | Retrying, None, dict[str, Any]]:
    """Tell what the child says until its result. Raises what it reports, or HubError when it falls silent or dies."""
    latest, heard = Progress(Phase.HASH, 0, total), time.monotonic()
    result: dict[str, Any] = {}
    while True:
        yield latest
        try:
            message = messages.get(timeout=_BEAT_SECONDS)
        except Empty:
            if time.monotonic() - heard > STALL_SECONDS:
                forget_reach()
                raise HubError(f"Nothing of {repo} moved for {STALL_SECONDS:g} seconds.", _RESUMES) from None
            continue
        heard = time.monotonic()
        latest = _progress(message, total, count) or latest
        match message:
            case {"retrying": pause, "why": str(why)}:
                yield Retrying(float(pause), why)
            case {"result": found}:
                result = found
            case {"finished": True}:
                return result
            case {"error": str(kind), "message": str(said), "hint": str(hint)}:
                raise process.rebuilt(kind, said, hint)
            case {"exit": code}:
                raise HubError(f"The upload of {repo} broke off: its process ended with {code}.", _RESUMES)


def _progress(message: dict[str, Any], total: int, count: int) -> Progress | None:
    match message:
        case {"hashed": int(done)}:
            return Progress(Phase.HASH, done, total)
        case {"step": "upload"}:
            return Progress(Phase.UPLOAD, 0, total)
        case {"sent": int(done)}:
            return Progress(Phase.UPLOAD, min(done, total), total)
        case {"compared": int(done)}:
            return Progress(Phase.COMPARE_FILES, done, count)
    return None
