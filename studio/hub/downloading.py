"""Bring a model or a dataset from the Hub into the Hugging Face cache, with progress, and stop at any moment.

The bytes are moved by a child process, `python -m studio.hub.fetching`: a thread that waits for the network cannot be
stopped, a process can. Its orders, the token among them, go over stdin; its progress comes back as lines of JSON.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Generator, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from queue import Empty

from studio import child
from studio.errors import AccessDenied, Damaged, DoesNotFit, HubError, NotFound
from studio.events import Finished, Phase, Progress
from studio.hub import process
from studio.hub.cache import bytes_here, cached, discard, remember_commit, snapshot_folder, unsound
from studio.hub.client import Token, cache_folder, explained, forget_reach
from studio.hub.repos import Part, RepoFacts, RepoFile, check_access, check_usable, facts
from studio.models import DatasetRef, ModelRef, Ref

STALL_SECONDS = 30.0
_BEAT_SECONDS = 0.2
_RESUMES = "Try again: it goes on where it stopped."


def download(
    ref: ModelRef | DatasetRef,
    *,
    token: Token,
    shared: bool = False,
    part: Part = "model",
    only: Collection[str] | None = None,
    limit: int | None = None,
) -> Generator[Progress | Finished[Path], None, None]:
    """Fetch a part of a model; ends with the folder.

    Of a dataset, its card and the files with rows, or `only` those of the paths. Raises DoesNotFit, before anything is
    fetched, where all of it has more than `limit` bytes.
    Events come every 0.2 seconds, and closing the iterator stops it.

    The Hub is asked first, as whoever holds the token, even where all is there: on a shared machine it decides who may
    have what the cache holds. Where it cannot be asked, or says no to the anonymous owner of a machine, a complete copy
    in the cache is used, on the terms of `cached`. Raises Unsupported, DoesNotFit, Damaged, or a HubError.
    """
    yield Progress(Phase.RESOLVE)
    try:
        repo = _wanted(ref, token, part, only)
    except HubError as error:
        refused = isinstance(error, NotFound | AccessDenied)
        folder = None if refused and (shared or token) else cached(ref, shared=shared, part=part, only=only)
        if folder is None:
            raise
        yield Finished(folder)
        return
    check_usable(repo)
    _check_limit(repo, limit)
    folder = snapshot_folder(repo.ref, repo.commit)
    with explained(str(ref)):
        missing = _prepare(folder, repo)
    if missing:
        yield from _fetch(repo, missing, token)
        _check_sizes(folder, repo)
    remember_commit(ref, repo.commit)
    yield Finished(folder)


def _wanted(ref: Ref, token: Token, part: Part, only: Collection[str] | None) -> RepoFacts[Ref]:
    repo = replace(facts(ref, token=token), part=part, only=only)
    check_access(repo, token=token)
    return repo


def _check_limit(repo: RepoFacts[Ref], limit: int | None) -> None:
    if limit is not None and repo.download_bytes > limit:
        raise DoesNotFit(
            f"{repo.ref.name} has {_human(repo.download_bytes)} to download; the limit here is {_human(limit)}.",
            "Choose a smaller split or config, or another dataset."
            if repo.ref.kind == "datasets"
            else "Choose a smaller model.",
        )


def _prepare(folder: Path, repo: RepoFacts[Ref]) -> list[RepoFile]:
    """What is to be fetched; there is room for it, and nothing broken in its place."""
    missing = unsound(folder, repo.needed)
    for file in missing:
        discard(folder / file.path)  # a truncated file would be taken for a whole one
    _check_room(repo, missing)
    return missing


def _check_room(repo: RepoFacts[Ref], missing: list[RepoFile]) -> None:
    needed = sum(file.size - bytes_here(repo.ref, file) for file in missing)
    cache = cache_folder()
    disk = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise DoesNotFit(
            f"{repo.ref.name} needs {_human(needed)} more on the disk with {cache}, which has {_human(free)} free.",
            "Free some space, or set HF_HOME to a folder on a larger disk.",
        )


def _check_sizes(folder: Path, repo: RepoFacts[Ref]) -> None:
    broken = unsound(folder, repo.needed)
    for file in broken:
        discard(folder / file.path)
    if broken:
        file = broken[0]
        raise Damaged(
            f"{file.path} of {repo.ref.name} did not arrive whole: it should have {file.size:,} bytes.", _RESUMES
        )


def _fetch(repo: RepoFacts[Ref], missing: list[RepoFile], token: Token) -> Iterator[Progress]:
    """Run the child to its end. Raises what it reports, or HubError when it falls silent or dies."""
    name, total = repo.ref.name, repo.download_bytes
    there = total - sum(file.size for file in missing)
    done, heard = there, time.monotonic()
    order = {
        "kind": repo.ref.kind,
        "repo": name,
        "commit": repo.commit,
        "token": token,
        "files": [asdict(file) for file in missing],
    }
    with child.working(
        "studio.hub.fetching", order, env=process.environment(), complained=process.complained
    ) as messages:
        while True:
            yield Progress(Phase.DOWNLOAD, done, total)
            try:
                message = messages.get(timeout=_BEAT_SECONDS)
            except Empty:
                if time.monotonic() - heard > STALL_SECONDS:
                    forget_reach()
                    raise HubError(f"Nothing of {name} arrived for {STALL_SECONDS:g} seconds.", _RESUMES) from None
                continue
            heard = time.monotonic()
            match message:
                case {"received": int(received)}:
                    # Never back: a file that is taken over from another process is read again from its start.
                    done = max(done, there + received)
                case {"finished": True}:
                    yield Progress(Phase.DOWNLOAD, total, total)
                    return
                case {"error": kind, "message": str(said), "hint": str(hint)}:
                    raise process.rebuilt(kind, said, hint)
                case {"exit": code}:
                    raise HubError(f"The download of {name} broke off: its process ended with {code}.", _RESUMES)


def _human(size: int) -> str:
    """Bytes as a person reads them; decimal units, as disks are sold."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
