"""A child process that carries out one order: a line of JSON in on stdin, lines of JSON out on stdout.

For work that a thread could not be stopped in. The order goes over stdin and not on the command line, where others
would read it. The child ends when it is killed, when it is done, or when the process that started it does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from studio.errors import StudioError

PACKAGE_ROOT = Path(__file__).parents[1]
_SECRET = re.compile("TOKEN|SECRET|PASSWORD|API_KEY", re.IGNORECASE)


@contextmanager
def working(
    module: str, order: dict[str, Any], *, env: dict[str, str], complained: Callable[[str], None]
) -> Iterator[SimpleQueue[dict[str, Any]]]:
    """The messages of `python -m module` at work on `order`, {"exit": code} at the end; it never outlives the block.

    `env` is all of its environment, but for where the studio is found. `complained` gets its stderr where it failed.
    """
    messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
    path = os.pathsep.join(part for part in (str(PACKAGE_ROOT), env.get("PYTHONPATH")) if part)
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=env | {"PYTHONPATH": path},
            text=True,
        )
        assert process.stdin
        listener = threading.Thread(target=_listen, args=(process, messages, complaints, complained), daemon=True)
        listener.start()
        try:
            # Left open: the child ends when the pipe does, so that it never outlives this process either.
            with suppress(BrokenPipeError):  # a child that is gone already says so itself
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
            yield messages
        finally:
            process.kill()
            listener.join()
            with suppress(BrokenPipeError):
                process.stdin.close()


def offline_env() -> dict[str, str]:
    """The environment without anything secret, without the network and without a GPU."""
    env = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    return env | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def _listen(
    process: subprocess.Popen[str],
    messages: SimpleQueue[dict[str, Any]],
    complaints: IO[bytes],
    complained: Callable[[str], None],
) -> None:
    assert process.stdout
    for line in process.stdout:
        messages.put(json.loads(line))
    process.stdout.close()
    code = process.wait()
    if code > 0:
        complaints.seek(0)
        complained(complaints.read().decode(errors="replace"))
    messages.put({"exit": code})


# In the child


def serve(carry_out: Callable[[dict[str, Any]], None]) -> None:
    """Carry out the order on stdin, say how it went, and end the process."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        carry_out(order)
    except StudioError as error:
        say({"error": type(error).__name__, "message": error.message, "hint": error.hint})
    else:
        say({"finished": True})
    os._exit(0)  # at once: threads may still be at work and files be mapped, and neither needs a farewell


def say(message: dict[str, Any]) -> None:
    """Tell the parent, in one write, as several threads may speak."""
    os.write(1, json.dumps(message).encode() + b"\n")


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the parent is gone, however it went
    os._exit(1)
