"""What the tests of publishing share: a base on the Hub, an order, and its worker."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

from loopback_hub.samples import ALICE
from run_steps import until

from studio import hub, uploads
from studio.jobs.publishing import offer
from studio.runs import State
from studio.uploads import UploadOrder
from studio.uploads.starting import begin
from studio.uploads.working import carry_out

BASE_CARD = "---\nlicense: cc-by-sa-4.0\nlanguage: en\n---\n\n# Pico\n"


def base_on_hub(server: Any, pico: Path) -> None:
    """alice/pico, under a licence that binds what is made of it."""
    files = {file.name: file.read_bytes() for file in pico.iterdir()}
    server.add("alice/pico", files | {"README.md": BASE_CARD}, license="cc-by-sa-4.0")


def ordered(folder: Path, repo: str = "alice/new", token: hub.Token = ALICE, **wishes: Any) -> str:
    """The id of an upload that is written down with its own card, and not begun."""
    order = UploadOrder(folder, repo, "alice", **wishes)
    found = offer(folder, repo, licence=order.licence, base=order.base, token=token)
    return uploads.create(order, found.card)


def worked_off(id_: str, token: hub.Token = ALICE) -> list[Any]:
    """The events of an upload that is worked off in this process, the bytes still by one of their own."""
    folder = uploads.of(id_).folder
    with closing(carry_out(folder, begin(folder, token=token), token=token)) as events:
        return list(events)


def at_rest(id_: str) -> State:
    """Wait until nobody is at an upload; how it stands then."""
    until(lambda: not uploads.of(id_).standing.state.is_alive)
    return uploads.of(id_).standing.state


def everything_written() -> dict[str, bytes]:
    """All files that a session has left in the workspace and in the folder of Hugging Face, by path."""
    places = (Path(os.environ["STUDIO_WORKSPACE"]), Path(os.environ["HF_HOME"]))
    return {str(file): file.read_bytes() for place in places for file in place.rglob("*") if file.is_file()}
