"""What of the Hub is on this machine already. Nothing here uses the network.

The layout is the one that huggingface_hub documents: `refs/<branch>` names a commit, `snapshots/<commit>/<path>` links
to `blobs/<hash>`, and `trees/<commit>.json` lists all files of the commit.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from studio.errors import StudioError
from studio.hub.client import cache_folder, explained
from studio.hub.repos import Part, RepoFile, holds_content, known_public, needed
from studio.models import DatasetRef, ModelRef, Ref

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model that is complete on this machine: `bytes` is what its weights take on the disk."""

    ref: ModelRef
    folder: Path
    bytes: int


def cached(
    ref: ModelRef | DatasetRef,
    *,
    shared: bool = False,
    part: Part = "model",
    only: Collection[str] | None = None,
) -> Path | None:
    """The folder of a model if all of a part is there, else None; of a dataset, with all rows or `only` those.

    The cache does not know who may read what is in it: private and gated models that somebody downloaded lie there too.
    So on a shared machine only a model that the Hub has called public since the studio was started is handed out.
    """
    if shared and not known_public(ref):
        return None
    with explained(str(ref)):
        commit = _commit(ref)
        if commit is None:
            return None
        folder = snapshot_folder(ref, commit)
        listing = _listing(ref, commit)
        if listing is None:
            return folder if isinstance(ref, ModelRef) and _looks_complete(folder, part) else None
        files = needed(ref, listing, part=part, only=only)
        return folder if holds_content(ref, files, part=part) and not unsound(folder, files) else None


def remembered(ref: Ref, *, shared: bool = False) -> tuple[Ref, tuple[RepoFile, ...]] | None:
    """The commit and the list of files that the cache was told of last, whatever of them is here. As in `cached`."""
    if shared and not known_public(ref):
        return None
    with explained(str(ref)):
        commit = _commit(ref)
        listing = _listing(ref, commit) if commit else None
        return None if commit is None or listing is None else (replace(ref, revision=commit), listing)


def cached_models(*, shared: bool = False) -> list[CachedModel]:
    """The complete models of this machine, by name. `shared` as in `cached`."""
    found = []
    for refs in sorted(cache_folder().glob("models--*/refs")):
        repo = refs.parent.name.removeprefix("models--").replace("--", "/")
        for file in sorted(path for path in refs.rglob("*") if path.is_file()):
            ref = ModelRef("hub", repo, file.relative_to(refs).as_posix())
            with suppress(StudioError):  # what has no name of the Hub, or cannot be read, is none of them
                if folder := cached(ref, shared=shared):
                    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
                    found.append(CachedModel(ref, folder, weights))
    return found


def storage_folder(repo: ModelRef | DatasetRef) -> Path:
    """Where the cache keeps everything of one repository."""
    return cache_folder() / f"{repo.kind}--{repo.name.replace('/', '--')}"


def snapshot_folder(repo: ModelRef | DatasetRef, commit: str) -> Path:
    """Where the cache shows the files of one commit under their names."""
    return storage_folder(repo) / "snapshots" / commit


def blob_file(repo: ModelRef | DatasetRef, sha256: str) -> Path:
    """Where a large file is once it is whole."""
    return storage_folder(repo) / "blobs" / sha256


def partial_file(repo: ModelRef | DatasetRef, sha256: str) -> Path:
    """Where a file is put together until it is whole. What is there when a download ends early is used by the next."""
    # huggingface_hub 2 no longer resumes in another process: it gives every attempt a name of its own, and deletes it.
    return blob_file(repo, f"{sha256}.incomplete")


def bytes_here(repo: ModelRef | DatasetRef, file: RepoFile) -> int:
    """How much of a file need not be fetched any more, although its snapshot does not show it yet."""
    if file.sha256 is None:
        return 0
    return size_of(blob_file(repo, file.sha256)) or size_of(partial_file(repo, file.sha256)) or 0


def unsound(folder: Path, files: Iterable[RepoFile]) -> list[RepoFile]:
    """The files that are missing or have another size than the Hub says."""
    return [file for file in files if size_of(folder / file.path) != file.size]


def size_of(path: Path) -> int | None:
    """The size of a file in bytes, or None if there is none."""
    return path.stat().st_size if path.is_file() else None


def discard(path: Path) -> None:
    """Remove a file of a snapshot and what it links to, so that the next download fetches it again."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def remember_commit(ref: ModelRef | DatasetRef, commit: str) -> None:
    """Note which commit a branch or tag stands for, so that it can be found without the network."""
    file = _ref_file(ref)
    if ref.revision == commit or _commit(ref) == commit:
        return
    with suppress(OSError):  # a cache that cannot be written is still good for reading
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        beside.write_text(commit)
        beside.replace(file)


def _commit(ref: ModelRef | DatasetRef) -> str | None:
    if _COMMIT.fullmatch(ref.revision):
        return ref.revision
    file = _ref_file(ref)
    return file.read_text().strip() if file.is_file() else None


def _ref_file(ref: ModelRef | DatasetRef) -> Path:
    # Part by part, so that a revision that begins with a slash stays inside.
    return storage_folder(ref).joinpath("refs", *ref.revision.split("/"))


def _listing(ref: ModelRef | DatasetRef, commit: str) -> tuple[RepoFile, ...] | None:
    """All files of a commit, if the cache was told of them."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = get_cached_repo_tree(ref.name, repo_type=ref.kind[:-1], revision=commit, cache_dir=cache_folder())
    except CachedRepoTreeNotFoundError:
        return None
    return tuple(RepoFile(file.path, file.size, file.lfs.sha256 if file.lfs else None) for file in tree)


def _looks_complete(folder: Path, part: Part) -> bool:
    """Whether a snapshot without a listing, as from an older tool, has a config and every weight file it names."""
    if part == "tokenizer":
        return any(path.name != "tokenizer_config.json" for path in folder.glob("tokenizer*"))
    if (folder / "adapter_config.json").is_file():
        return (folder / "adapter_model.safetensors").is_file()
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file() and not (folder / "model.safetensors").is_file():
        with suppress(ValueError, KeyError, AttributeError):
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / name).is_file() for name in {"config.json", *names})
