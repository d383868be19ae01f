"""Look into a model or a dataset on the Hub without downloading it: its small files, and the headers of its weights."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Generic, TypeVar

from studio.errors import AccessDenied, Damaged, HubError, NotFound, StudioError
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat
from studio.hub.cache import cached, remembered, snapshot_folder
from studio.hub.client import Token, authorization, explained
from studio.hub.repos import RepoFacts, RepoFile, check_access, facts, file_url
from studio.models import ModelRef, Ref

_SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template*",
    "adapter_config.json",
    "*.safetensors.index.json",
)
_CARD = ("README.md",)  # of a dataset: it says which files belong together
_SPECULATIVE = 1 << 16  # most shards have a header that is shorter, so one request is enough
_LIMIT = 100_000_000  # bytes of a header, which is the bound of the format, and of a small file
_PARALLEL = 8
_PAUSES = (0.5, 1.0, None)  # seconds after each try that failed
_READ_SECONDS = 10.0
_BEAT_SECONDS = 0.2
_STOP_SECONDS = 0.05

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Seen(Generic[Ref]):
    """What was seen of a model or a dataset at one commit, read and not yet understood."""

    ref: Ref
    """The revision is the commit."""
    files: tuple[RepoFile, ...] = ()
    contents: tuple[tuple[str, bytes], ...] = ()
    """The small files, by path."""
    starts: tuple[tuple[str, bytes], ...] = ()
    """The first bytes of each safetensors file of the main folder: up to the end of its header, where it has one."""
    folder: Path | None = None
    """The copy in the cache, where the Hub could not be asked; then nothing else is filled in."""


Peek = Seen[ModelRef]
"""What was seen of a model."""


def peek(ref: Ref, *, token: Token, shared: bool = False) -> Generator[Progress | Finished[Seen[Ref]], None, None]:
    """Fetch what there is to know without the weights or rows. Events come every 0.2 seconds, closing stops at once.

    Progress counts files. Where the Hub cannot be asked, or says no to the anonymous owner of a machine, a complete
    copy in the cache is named instead, on the terms of `cached`; of a dataset, what the cache was told of its files.
    Raises Damaged, or a HubError.
    """
    yield Progress(Phase.RESOLVE)
    last = Progress(Phase.RESOLVE)

    def tell(said: list[Progress]) -> list[Progress]:
        nonlocal last
        last = said[-1] if said else last
        return [last]

    try:
        seen = yield from heartbeat(lambda say, stop: _look(ref, token, say, stop), tell, every=_BEAT_SECONDS)
    except HubError as error:
        refused = isinstance(error, NotFound | AccessDenied)
        known = None if refused and (shared or token) else _in_the_cache(ref, shared)
        if known is None:
            raise
        seen = known
    yield Finished(seen)


def _in_the_cache(ref: Ref, shared: bool) -> Seen[Ref] | None:
    """What the cache has of it."""
    if ref.kind == "models":
        folder = cached(ref, shared=shared)
        # A snapshot of the cache is called by its commit.
        return Seen(replace(ref, revision=folder.name), folder=folder) if folder else None
    known = remembered(ref, shared=shared)
    if known is None:
        return None
    found, files = known
    folder = snapshot_folder(found, found.revision)
    contents = tuple((name, (folder / name).read_bytes()) for name in _CARD if (folder / name).is_file())
    return Seen(found, files, contents, folder=folder)


def _look(ref: Ref, token: Token, say: Callable[[Progress], None], stop: Event) -> Seen[Ref]:
    """Everything, in two rounds: the list of files, then all that is read of them, side by side."""
    [(_, repo)] = _side_by_side([partial(_find, ref, token)], stop)
    reader = _Reader(repo, token, stop)
    names = _SMALL if ref.kind == "models" else _CARD
    small = [file for file in repo.files if any(_is_called(file, pattern) for pattern in names)]
    weights = [file for file in repo.files if _is_called(file, "*.safetensors")]
    tasks = [*(partial(reader.content, file) for file in small), *(partial(reader.start, file) for file in weights)]
    read: dict[int, bytes] = {}
    say(Progress(Phase.RESOLVE, 0, len(tasks)))
    for number, data in _side_by_side(tasks, stop):
        read[number] = data
        say(Progress(Phase.RESOLVE, len(read), len(tasks)))
    found = [(file.path, read[number]) for number, file in enumerate([*small, *weights])]
    return Seen(repo.ref, repo.files, tuple(found[: len(small)]), tuple(found[len(small) :]))


def _find(ref: Ref, token: Token) -> RepoFacts[Ref]:
    repo = facts(ref, token=token)
    check_access(repo, token=token)
    return repo


def _is_called(file: RepoFile, pattern: str) -> bool:
    """Of the main folder only: what lies deeper are copies in other layouts."""
    return "/" not in file.path and fnmatch(file.path, pattern)


class _Stopped(Exception):
    """Nobody waits for this any more."""


def _side_by_side(tasks: Sequence[Callable[[], Result]], stop: Event) -> Iterator[tuple[int, Result]]:
    """The results as they come, with the number of the task. Raises the first error, or _Stopped soon after `stop`.

    Its threads are left to themselves then: one that waits for the network cannot be stopped, and has a timeout.
    """
    todo = deque(enumerate(tasks))
    done: SimpleQueue[tuple[int, Future[Result]]] = SimpleQueue()
    over = Event()

    def work() -> None:
        with suppress(IndexError):
            while not over.is_set():
                number, task = todo.popleft()
                outcome: Future[Result] = Future()
                try:
                    outcome.set_result(task())
                except (StudioError, _Stopped) as error:
                    outcome.set_exception(error)
                except BaseException as error:
                    outcome.set_exception(error)
                    raise
                finally:
                    done.put((number, outcome))

    for _ in range(min(_PARALLEL, len(tasks))):
        Thread(target=work, name="studio-peek", daemon=True).start()
    try:
        for _ in tasks:
            number, outcome = _next(done, stop)
            yield number, outcome.result()
    finally:
        over.set()


def _next(done: SimpleQueue[Result], stop: Event) -> Result:
    """What is done next. Raises _Stopped soon after `stop`."""
    while not stop.is_set():
        with suppress(Empty):
            return done.get(timeout=_STOP_SECONDS)
    raise _Stopped


@dataclass(frozen=True, slots=True)
class _Reader(Generic[Ref]):
    """Reads parts of the files of one commit."""

    repo: RepoFacts[Ref]
    token: Token
    stop: Event

    def content(self, file: RepoFile) -> bytes:
        """All of a small file."""
        if file.size > _LIMIT:
            raise Damaged(
                f"{file.path} of {self.repo.ref.name} has {file.size:,} bytes, which no such file needs.",
                f"Choose another {self.repo.ref.kind[:-1]}, or download this one and look at the file.",
            )
        return self._part(file, 0, file.size)

    def start(self, file: RepoFile) -> bytes:
        """The first bytes of a safetensors file up to the end of its header, or a few where it cannot have one."""
        start = self._part(file, 0, min(_SPECULATIVE, file.size))
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        if length > min(_LIMIT, file.size - 8):
            return start[:64]  # whoever reads it says what is wrong with it
        if len(start) < 8 + length:
            start += self._part(file, len(start), 8 + length)
        return start[: 8 + length]

    def _part(self, file: RepoFile, begin: int, end: int) -> bytes:
        """The bytes from `begin` to `end`, or to where the Hub has no more of them."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        read = bytearray()
        with explained(self.repo.ref.name):
            for pause in _PAUSES:
                try:
                    for chunk in self._body(file, begin + len(read), end):
                        read += chunk
                    break
                except (httpx2.TransportError, HfHubHTTPError) as error:
                    answered = isinstance(error, HfHubHTTPError)
                    if pause is None or (answered and error.response.status_code < 500):
                        raise
                    if self.stop.wait(pause):
                        raise _Stopped from error
        return bytes(read)

    def _body(self, file: RepoFile, begin: int, end: int) -> Iterator[bytes]:
        """Those bytes as they come in, and not one chunk more from a server that sends all there is."""
        from huggingface_hub.utils import get_session, hf_raise_for_status

        if begin >= end:
            return
        url = file_url(self.repo.ref, self.repo.commit, file)
        wanted = {"range": f"bytes={begin}-{end - 1}"} if end - begin < file.size else {}
        headers = authorization(self.token) | {"accept-encoding": "identity"} | wanted
        with get_session().stream("GET", url, headers=headers, timeout=_READ_SECONDS) as response:
            if response.status_code == 416:
                return  # the Hub has no more of it, whatever its list says
            hf_raise_for_status(response)
            # A server that does not know ranges begins at the beginning.
            skip, left = begin if response.status_code == 200 else 0, end - begin
            for chunk in response.iter_raw():
                if self.stop.is_set():
                    raise _Stopped
                fresh = chunk[skip:]
                yield fresh[:left]
                if len(fresh) > left:
                    return  # the rest of the file is not read: leaving closes the connection
                skip, left = max(0, skip - len(chunk)), left - len(fresh)
