"""A Hub on this machine, for tests: it speaks the Hub's HTTP API to the real huggingface_hub client, and can misbehave.

    with LoopbackHub() as hub:
        hub.add("alice/pico", folder, private=True)
        hub.fault("/_cdn/", status=503, times=1)
        ...
        assert hub.requests("GET", "/_cdn/")

Reading and writing are here, by large file storage and not by Xet. A new endpoint is a function in `api` or `uploads`
and a line in the table of routes.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import uvicorn

from loopback_hub.api import answer
from loopback_hub.faults import Fault
from loopback_hub.repos import Repo
from loopback_hub.samples import ROLES, USERS
from loopback_hub.server import LoggedRequest, make_app

__all__ = ["Fault", "LoggedRequest", "LoopbackHub", "Repo"]


class LoopbackHub:
    """The server and everything it holds. Runs on a thread from `with` to the end of the block."""

    def __init__(self) -> None:
        self.users = dict(USERS)
        self.roles = dict(ROLES)
        self.orgs: dict[str, tuple[str, ...]] = {}
        """The organisations that a user is in."""
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[LoggedRequest] = []
        self.url = ""
        app = make_app(lambda request: answer(self, request), self.faults, self.log)
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_level="critical",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def cdn(self) -> str:
        """Where large files come from. Another origin than the Hub, so that a client must not send its token there."""
        return self.url.replace("127.0.0.1", "localhost")

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("The loopback Hub did not start.")
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    def add(self, repo: str, files: Path | Mapping[str, bytes | str], **settings: Any) -> Repo:
        """Put a model or dataset on the Hub, from a folder or from contents by path. For the settings see `Repo`."""
        added = Repo(repo, **settings)
        self.repos[added.path] = added
        added.commit(files)
        return added

    def fault(self, path: str, **misbehaviour: Any) -> Fault:
        """Misbehave on requests whose path matches. For the ways to do so see `Fault`; the first that applies wins."""
        self.faults.append(fault := Fault(path, **misbehaviour))
        return fault

    def requests(self, method: str | None = None, path: str = "") -> list[LoggedRequest]:
        """What was asked so far, in order."""
        return [seen for seen in self.log.copy() if method in (None, seen.method) and re.search(path, seen.path)]
