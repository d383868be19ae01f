"""A repository: its commits, who may read it, and how the Hub describes it in JSON."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

_LARGE = re.compile(r"\.(safetensors|bin|gguf|pt|pth|onnx|model|h5|parquet)$")  # from the Hub's default .gitattributes
_LARGE_BYTES = 1_000_000
_DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Blob:
    """One version of one file."""

    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        """The name git has for it."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        """The name large file storage has for it."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        """The name the client's cache gives it."""
        return self.sha256 if self.large else self.oid

    @staticmethod
    def is_large(path: str, size: int) -> bool:
        """Whether a file goes to large file storage."""
        return bool(_LARGE.search(path)) or size > _LARGE_BYTES


@dataclass
class Repo:
    """A model or a dataset.

    Private: its owner alone knows it. Gated: all see it, only the owner and `allowed` read its files.
    """

    name: str
    kind: Literal["models", "datasets"] = "models"
    private: bool = False
    gated: bool = False
    disabled: bool = False
    allowed: set[str] = field(default_factory=set)
    task: str | None = "text-generation"
    license: str | None = None
    library: str | None = None
    """By its files where that is None."""
    tags: tuple[str, ...] = ()
    """Besides those that the Hub sets by the files, the task, the library and the licence."""
    downloads: int = 0
    likes: int = 0
    trending: int = 0
    updated: str = _DATE
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files that were sent and are of no commit yet, by hash."""

    @property
    def path(self) -> str:
        """Where its page is."""
        return self.name if self.kind == "models" else f"datasets/{self.name}"

    @property
    def owner(self) -> str:
        """The user it belongs to."""
        return self.name.partition("/")[0]

    def commit(self, files: Path | Mapping[str, bytes | str], branch: str = "main") -> str:
        """Make these all the files of a branch; returns the commit."""
        if isinstance(files, Path):
            files = {
                path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*") if path.is_file()
            }
        tree = {}
        for path, content in sorted(files.items()):
            content = content.encode() if isinstance(content, str) else content
            tree[path] = Blob(content, Blob.is_large(path, len(content)))
        return self.put(tree, branch)

    def put(self, tree: dict[str, Blob], branch: str) -> str:
        """Make these all the files of a branch; returns the commit."""
        sha = hashlib.sha1(f"{self.name}/{branch}/{len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = tree
        self.refs[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit's own name stands for."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    def describe(self, sha: str, *, blobs: bool = False) -> dict[str, Any]:
        """What `/api/models/…` or `/api/datasets/…` says about one commit; `blobs` adds sizes and hashes."""
        tree = self.commits[sha]
        said = {
            "id": self.name,
            "sha": sha,
            "author": self.owner,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": self.disabled,
            "downloads": self.downloads,
            "likes": self.likes,
            "trendingScore": self.trending,
            "createdAt": _DATE,
            "lastModified": self.updated,
            "pipeline_tag": self.task,
            "library_name": self._library(tree),
            "tags": self._tags(tree),
            "config": self._config(tree),
            "safetensors": _count_weights(tree),
            "siblings": [{"rfilename": path} | (_sibling(blob) if blobs else {}) for path, blob in tree.items()],
        }
        of_a_model = {"pipeline_tag", "library_name", "config", "safetensors"} if self.kind == "datasets" else set()
        return {key: value for key, value in said.items() if value is not None and key not in of_a_model}

    def entries(self, sha: str, folder: str = "", *, recursive: bool = False) -> list[dict[str, Any]]:
        """What `/api/models/…/tree` lists: the files, without the folders, which the client skips."""
        found = []
        for path, blob in self.commits[sha].items():
            inside = path.removeprefix(f"{folder}/") if folder else path
            if (inside != path or not folder) and (recursive or "/" not in inside):
                found.append(entry(path, blob))
        return found

    def _library(self, tree: dict[str, Blob]) -> str | None:
        marks = {"model_index.json": "diffusers", "adapter_config.json": "peft", "config.json": "transformers"}
        return self.library or next((library for mark, library in marks.items() if mark in tree), None)

    def _tags(self, tree: dict[str, Blob]) -> list[str]:
        if self.kind == "datasets":
            return [*([f"license:{self.license}"] if self.license else []), *self.tags]
        formats = {".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx", ".bin": "pytorch"}
        by_files = [tag for ending, tag in formats.items() if any(path.endswith(ending) for path in tree)]
        said = [self._library(tree), self.task, f"license:{self.license}" if self.license else None]
        return [*by_files, *(tag for tag in said if tag), *self.tags]

    def _config(self, tree: dict[str, Blob]) -> dict[str, Any] | None:
        if "config.json" not in tree:
            return None
        config = json.loads(tree["config.json"].content)
        return {key: config[key] for key in ("architectures", "model_type") if key in config}


def entry(path: str, blob: Blob) -> dict[str, Any]:
    """A file as `/tree` and `/paths-info` show it."""
    lfs = {"lfs": {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}} if blob.large else {}
    return {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)} | lfs


def _sibling(blob: Blob) -> dict[str, Any]:
    lfs = {"lfs": {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": 134}} if blob.large else {}
    return {"size": len(blob.content), "blobId": blob.oid} | lfs


def _count_weights(tree: dict[str, Blob]) -> dict[str, Any] | None:
    """Weights by format, read from the safetensors headers, as the Hub does; None for files that are none."""
    counts: dict[str, int] = {}
    for path, blob in tree.items():
        if path.endswith(".safetensors") and "/" not in path:
            length = struct.unpack("<Q", blob.content[:8].ljust(8, b"\0"))[0]
            if not 2 <= length <= len(blob.content):
                return None
            for name, tensor in json.loads(blob.content[8 : 8 + length]).items():
                if name != "__metadata__":
                    counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + prod(tensor["shape"])
    return {"parameters": counts, "total": sum(counts.values())} if counts else None
