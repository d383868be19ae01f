"""What the tests of merges as jobs share: a base and an adapter on the disk, an order, and its worker."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

from pico import save_adapter
from run_steps import until

from studio import merges
from studio.merges import MergeOrder
from studio.merges.starting import begin
from studio.merges.working import carry_out
from studio.models import ModelRef
from studio.runs import State


def ordered(base: Path, folder: Path, **wishes: Any) -> MergeOrder:
    """An order for `folder`/merged, with an adapter that is made beside it."""
    adapter = folder / "adapter"
    targets = wishes.pop("targets", ("q_proj", "v_proj"))
    if not adapter.exists():
        save_adapter(adapter, base, targets=targets)
    usual = {"base": ModelRef("folder", str(base)), "adapter": ModelRef("folder", str(adapter))}
    usual |= {"dtype": "fp32", "output": folder / "merged"}
    return MergeOrder(**{**usual, **wishes})


def worked_off(id_: str) -> list[Any]:
    """The events of a merge that is worked off in this process."""
    folder = merges.of(id_).folder
    with closing(carry_out(folder, begin(folder), token=False)) as events:
        return list(events)


def state(id_: str) -> State:
    """How a merge stands."""
    return merges.of(id_).standing.state


def at_rest(id_: str) -> State:
    """Wait until nobody is at a merge; how it stands then."""
    until(lambda: not state(id_).is_alive)
    return state(id_)


def kill(id_: str) -> None:
    """kill -9 the worker of a merge, and wait until it is gone."""
    folder = merges.of(id_).folder
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if str(folder).encode() in command and b"--worker" in command:
            os.kill(int(entry.name), signal.SIGKILL)
    at_rest(id_)
