"""The process that uploads one folder: `python -m studio.hub.sending`, started by `uploading`.

It reads one order as a line of JSON from stdin, reports with lines of JSON on stdout, and ends when stdin does. All
that can be seen on the Hub comes to be in one commit, or in none.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

from httpx2 import TransportError
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from studio.child import say, serve
from studio.errors import AccessDenied, Damaged, HubError, InputError
from studio.hub.client import endpoint
from studio.hub.refusals import asked_to_wait, behind, passes, refusal
from studio.hub.translation import foreign_errors

TRIES = 5
LONGEST_WAIT = 90.0
"""Seconds between two tries at most; a Hub that wants more is told of, and the upload ends."""
_REPORT_SECONDS = 0.2
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")

Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Outgoing:
    """A file of the upload: one of this machine, or a text that was made for it."""

    path: str
    size: int
    place: str = ""
    text: str | None = None


@dataclass(frozen=True)
class Order:
    """What goes where, as whom."""

    repo: str
    token: str
    files: tuple[Outgoing, ...]
    title: str
    private: bool = True
    """Of a repository that is made."""
    branch: str = "main"
    pull_request: bool = False
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes by file; each is sent by one thread only."""
    made: list[str] = field(default_factory=list)
    """The repository, once it was made for this upload."""
    committing: list[bool] = field(default_factory=list)
    """Not empty once the commit was sent."""


class _Counted(CommitOperationAdd):  # type: ignore[misc]
    """A file that says how much of it was sent."""

    told: dict[str, int]

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        with super().as_file() as file:
            if with_tqdm:  # it is on its way
                read = file.read

                def counted(size: int = -1) -> bytes:
                    content = read(size)
                    self.told[self.path_in_repo] = file.tell()
                    return bytes(content)

                file.read = counted
            yield file


def main() -> None:
    """Carry out the order on stdin."""
    serve(_carry_out)


def _carry_out(fields: dict[str, Any]) -> None:
    order = Order(**fields | {"files": tuple(Outgoing(**file) for file in fields["files"])})
    threading.Thread(target=_report, args=(order,), daemon=True).start()
    say({"result": send(order, say)})


def _report(order: Order) -> None:
    last = 0
    while True:
        time.sleep(_REPORT_SECONDS)
        if (now := sum(order.sent.copy().values())) != last:
            say({"sent": now})
            last = now


def send(order: Order, told: Say) -> dict[str, Any]:
    """Upload, commit, read back. Returns the commit, its page, and the pull request where one was opened."""
    hashes = _hashed(order, told)
    wait = 1.0
    for left in reversed(range(TRIES)):
        try:
            return _once(order, hashes, told)
        except foreign_errors() as error:
            if order.pull_request and order.committing and isinstance(behind(error), TransportError):
                raise HubError(
                    f"The connection broke while the pull request at {order.repo} was opened.",
                    "Look at its pull requests before you try again: it may be there.",
                ) from error
            pause = asked_to_wait(error) or wait
            if not left or not passes(error) or pause > LONGEST_WAIT:
                raise refusal(error, order.repo) from error
            told({"retrying": pause, "why": refusal(error, order.repo).message})
            time.sleep(pause)
            wait = min(30.0, 2 * wait)
    raise AssertionError("the last try raises")


def _hashed(order: Order, told: Say) -> dict[str, tuple[str, str]]:
    """For each file its SHA-256, which large file storage knows it by, and its name in git."""
    found, done, heard = {}, 0, 0.0
    for file in order.files:
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        for chunk in _chunks(file):
            sha256.update(chunk)
            git.update(chunk)
            done += len(chunk)
            if time.monotonic() - heard > _REPORT_SECONDS:
                heard = time.monotonic()
                told({"hashed": done})
        found[file.path] = (sha256.hexdigest(), git.hexdigest())
    return found


def _chunks(file: Outgoing) -> Iterator[bytes]:
    if file.text is not None:
        yield file.text.encode()
        return
    with Path(file.place).open("rb") as stream:
        while chunk := stream.read(1 << 22):
            yield chunk


def _once(order: Order, hashes: dict[str, tuple[str, str]], told: Say) -> dict[str, Any]:
    api = HfApi(endpoint=endpoint(), token=order.token)
    order.committing.clear()
    private = _make_sure(api, order)
    told({"step": "upload"})
    # Of the branch as it is now: what somebody else puts there meanwhile is not written over.
    revision = _revision(api, order)
    there = {each.path for each in api.list_repo_tree(order.repo, recursive=True, revision=revision) if _is_file(each)}
    stale = sorted(there - {file.path for file in order.files})
    added = _additions(order, hashes)
    api.preupload_lfs_files(
        order.repo,
        added,
        revision=order.branch,
        create_pr=order.pull_request,
        num_threads=2,
        free_memory=False,
    )
    order.committing.append(True)
    done = api.create_commit(
        order.repo,
        [*added, *(CommitOperationDelete(path) for path in stale if _loads(path))],
        commit_message=order.title,
        revision=order.branch,
        parent_commit=revision,
        create_pr=order.pull_request,
    )
    _read_back(api, order, hashes, done.oid, told)
    if order.made and not order.private:
        # Not before: what can be seen by all is whole from the first moment on.
        api.update_repo_settings(order.repo, private=False)
        private = False
    return {"commit": done.oid, "url": done.pr_url or "", "private": private}


def _make_sure(api: HfApi, order: Order) -> bool:
    """The repository is there, and not more public than was asked for; whether it is private."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        info = api.repo_info(order.repo)
    except RepositoryNotFoundError:
        try:
            api.create_repo(order.repo, private=True)
        except HfHubHTTPError as error:
            if error.response.status_code == 409:
                raise AccessDenied(
                    f"{order.repo} is taken, and this token may not see it.", "Choose another name."
                ) from error
            raise
        order.made.append(order.repo)
        return True
    if order.private and not info.private:
        raise InputError(
            f"{order.repo} is there already and public, so that all would see this.",
            "Choose another name, or say that it may be public.",
        )
    return bool(info.private)


def _revision(api: HfApi, order: Order) -> str:
    """The commit that the branch is at; a branch that is not there is made."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return str(api.repo_info(order.repo, revision=order.branch).sha)
    except RevisionNotFoundError:
        api.create_branch(order.repo, branch=order.branch)
        return str(api.repo_info(order.repo, revision=order.branch).sha)


def _additions(order: Order, hashes: dict[str, tuple[str, str]]) -> list[_Counted]:
    # Anew for each try: the client marks what it has sent, and the Hub knows it better.
    added = []
    for file in order.files:
        operation = _Counted(file.path, file.text.encode() if file.text is not None else file.place)
        operation.upload_info.sha256 = bytes.fromhex(hashes[file.path][0])
        operation.told = order.sent
        added.append(operation)
    return added


def _is_file(entry: Any) -> bool:
    return hasattr(entry, "blob_id")


def _loads(path: str) -> bool:
    """Whether a file that is left from before would be taken for weights of what is there now."""
    return any(fnmatch(path, pattern) for pattern in _WEIGHTS)


def _read_back(api: HfApi, order: Order, hashes: dict[str, tuple[str, str]], commit: str, told: Say) -> None:
    """Raise Damaged where the Hub does not have what was sent."""
    there = {
        each.path: each for each in api.list_repo_tree(order.repo, recursive=True, revision=commit) if _is_file(each)
    }
    for number, file in enumerate(order.files, 1):
        sha256, git = hashes[file.path]
        found = there.get(file.path)
        same = found and (found.lfs.sha256 == sha256 if found.lfs else found.blob_id == git)
        if not found or found.size != file.size or not same:
            raise Damaged(
                f"{file.path} is on the Hub otherwise than it is here, at {order.repo}.",
                "Did it change while it was uploaded? Upload it again.",
            )
        told({"compared": number})


if __name__ == "__main__":
    main()
