"""The process that moves the bytes of one download: `python -m studio.hub.fetching`, started by `downloading`.

It reads one order as a line of JSON from stdin, reports with lines of JSON on stdout, and ends when stdin does.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from studio.child import say, serve
from studio.errors import Damaged
from studio.hub.cache import blob_file, partial_file, size_of, snapshot_folder, storage_folder
from studio.hub.client import Token, authorization, cache_folder, endpoint, explained
from studio.hub.repos import RepoFile, file_url
from studio.models import DatasetRef, Kind, ModelRef

_PARALLEL = 4
_TRIES = 5  # in a row without a new byte, with 0.5 to 4 seconds between them
_READ_SECONDS = 10.0  # a connection that is silent for that long is given up and made anew
_REPORT_SECONDS = 0.2


@dataclass(frozen=True)
class Order:
    """Which files of which commit to fetch, as whom."""

    kind: Kind
    repo: str
    commit: str
    token: Token
    files: tuple[RepoFile, ...]
    received: dict[str, int] = field(default_factory=dict)
    """Bytes on the disk by file; each file is written by one thread only."""

    @property
    def ref(self) -> ModelRef | DatasetRef:
        """The repository by name."""
        return ModelRef("hub", self.repo) if self.kind == "models" else DatasetRef("hub", self.repo)


def main() -> None:
    """Carry out the order on stdin."""
    # It ends at once: other files may still be on their way, and what is there of them is kept.
    serve(_carry_out)


def _carry_out(fields: dict[str, Any]) -> None:
    order = Order(**fields | {"files": tuple(RepoFile(**file) for file in fields["files"])})
    threading.Thread(target=_report, args=(order,), daemon=True).start()
    with explained(order.repo):
        fetch(order)


def fetch(order: Order) -> None:
    """Fetch all files of the order into the cache, going on with what is there of the large ones."""
    from huggingface_hub import snapshot_download

    executor = ThreadPoolExecutor(_PARALLEL)
    for future in as_completed([executor.submit(_fetch_large, order, file) for file in order.files if file.sha256]):
        future.result()
    # It finds the large files where they belong, and fetches the small ones.
    snapshot_download(
        order.repo,
        repo_type=order.kind[:-1],
        revision=order.commit,
        cache_dir=cache_folder(),
        allow_patterns=[escape(file.path) for file in order.files],
        token=order.token,
        max_workers=_PARALLEL,
        endpoint=endpoint(),
    )
    order.received.update(
        {file.path: size_of(snapshot_folder(order.ref, order.commit) / file.path) or 0 for file in order.files}
    )


def _fetch_large(order: Order, file: RepoFile) -> None:
    """Put a file that is known by its hash where the cache keeps it, unless it is there."""
    assert file.sha256
    partial = partial_file(order.ref, file.sha256)
    whole = blob_file(order.ref, file.sha256)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with _alone(order, file, partial):
        if size_of(whole) == file.size:
            order.received[file.path] = file.size
            return
        with partial.open("a+b") as stream:
            digest = _receive(order, file, stream)
        if digest != file.sha256:
            partial.unlink()
            raise Damaged(
                f"{file.path} of {order.repo} is not the file of {file.size:,} bytes that the Hub lists.",
                "Try again: this file is fetched anew, the others are kept.",
            )
        partial.replace(whole)


@contextmanager
def _alone(order: Order, file: RepoFile, partial: Path) -> Iterator[None]:
    """Wait until no other process fetches this file. The lock is the one that huggingface_hub takes for it."""
    from filelock import FileLock, Timeout

    folder = cache_folder() / ".locks" / storage_folder(order.ref).name
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{file.sha256}.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_REPORT_SECONDS)
        except Timeout:
            order.received[file.path] = size_of(partial) or 0  # the other one's progress is ours
    try:
        yield
    finally:
        lock.release()


def _receive(order: Order, file: RepoFile, stream: BinaryIO) -> str:
    """Append to the stream until the file is whole or the Hub has no more of it; returns the hash of all there is."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    digest = hashlib.sha256()
    stream.seek(0)
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
        order.received[file.path] = stream.tell()
    tries = 0
    while (have := stream.tell()) < file.size and tries < _TRIES:
        tries += 1
        try:
            for chunk in _body(order, file, have):
                stream.write(chunk)
                digest.update(chunk)
                order.received[file.path] = stream.tell()
                tries = 0
        except (httpx2.TransportError, HfHubHTTPError) as error:
            answered = isinstance(error, HfHubHTTPError)
            if tries == _TRIES or (answered and error.response.status_code < 500):
                raise
            time.sleep(min(4.0, 0.25 * 2**tries))
    return digest.hexdigest()


def _body(order: Order, file: RepoFile, have: int) -> Iterator[bytes]:
    """The bytes of a file from `have` on, as they come in."""
    from huggingface_hub.utils import get_session, hf_raise_for_status

    url = file_url(order.ref, order.commit, file)
    headers = (
        authorization(order.token) | {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if have else {})
    )
    with get_session().stream("GET", url, headers=headers, timeout=_READ_SECONDS) as response:
        if response.status_code == 416:
            return  # the Hub has no more of it, whatever its list says
        hf_raise_for_status(response)
        skip = have if response.status_code == 200 else 0  # a server that does not know ranges begins at the beginning
        for chunk in response.iter_raw():
            if kept := chunk[skip:]:
                yield kept
            skip = max(0, skip - len(chunk))


def _report(order: Order) -> None:
    """Tell how far things are whenever that has changed: silence is how the parent sees that nothing moves."""
    last = 0
    while True:
        time.sleep(_REPORT_SECONDS)
        if (now := sum(order.received.copy().values())) != last:
            say({"received": now})
            last = now


if __name__ == "__main__":
    main()
