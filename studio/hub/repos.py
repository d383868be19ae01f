"""What the Hub knows about models and datasets, and which of their files the studio needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Generic, Literal
from urllib.parse import quote

from studio.errors import AccessDenied, NotFound, PickleOnly, Unsupported
from studio.hub.client import Token, ask, endpoint, explained
from studio.models import DatasetRef, ModelRef, Ref

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, ModelInfo

_TOKENIZER = (
    "config*.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "sentencepiece*.model",
    "tekken.json",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*.jinja",
)
_NEEDED = (
    *_TOKENIZER,
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "README.md",
    "LICENSE*",
)
# Copies of the same weights in another layout, and code and pickles whatever they are called.
_NEVER = ("consolidated*.safetensors", "*.py", "*.bin", "*.pt", "*.pth")
_PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_PICKLES = re.compile(r"(?:^|/)(?!training_args|optimizer|scheduler|rng_state)[^/]+\.(?:bin|pt|pth|ckpt|pkl)$")
_ROWS = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".txt")
# Not rows, though they are called like it.
_NO_ROWS = re.compile(
    r"(?:^|/)(?:config|datasets?_infos?|dataset_dict|state|requirements|licen[cs]e|notice|readme)[^/]*\.(?:json|txt)$",
    re.I,
)
Part = Literal["model", "pickles", "tokenizer"]
"""What of a model is needed: all that loading reads, that and pickled weights to be converted, or its tokenizer."""

_PUBLIC: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository: its size in bytes and, for one that is too large for git, its hash."""

    path: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RepoFacts(Generic[Ref]):
    """A model or a dataset at one commit: who may read it, what it is, its files. What the Hub does not say is None."""

    ref: Ref
    """The revision is the commit, whatever it was called when it was asked for."""
    private: bool
    gated: bool
    license: str | None
    architecture: str | None
    model_type: str | None
    parameters: int | None
    dtypes: tuple[tuple[str, int], ...]
    """How many weights are stored in which format, for example ("BF16", 596049920)."""
    files: tuple[RepoFile, ...]
    part: Part = "model"
    """What of a model is needed."""
    only: Collection[str] | None = None
    """The files of a dataset that are needed, by path; all that hold rows where that is None."""

    @property
    def commit(self) -> str:
        """The commit that all of this is about."""
        return self.ref.revision

    @property
    def needed(self) -> tuple[RepoFile, ...]:
        """The files that loading needs, which are those that are downloaded."""
        return needed(self.ref, self.files, part=self.part, only=self.only)

    @property
    def download_bytes(self) -> int:
        """Bytes of all files that loading needs."""
        return sum(file.size for file in self.needed)


def facts(ref: Ref, *, token: Token) -> RepoFacts[Ref]:
    """What the Hub says about a model or dataset to whoever holds the token. Gated ones show it to everyone."""
    from huggingface_hub import DatasetInfo, ModelInfo

    path = f"{ref.kind}/{ref.name}/revision/{quote(ref.revision, safe='')}"
    read = ModelInfo if ref.kind == "models" else DatasetInfo
    try:
        with explained(str(ref)):
            info = read(**ask(path, token=token, what=str(ref), params={"blobs": True}).json())
    except (NotFound, AccessDenied):
        _PUBLIC.discard((ref.kind, ref.name))
        raise
    public = not info.private and not info.gated
    (_PUBLIC.add if public else _PUBLIC.discard)((ref.kind, ref.name))
    # Of a model alone.
    config = getattr(info, "config", None) or {}
    weights = getattr(info, "safetensors", None)
    return RepoFacts(
        ref=replace(ref, revision=str(info.sha)),
        private=bool(info.private),
        gated=bool(info.gated),
        license=license_of(info),
        architecture=next(iter(config.get("architectures") or ()), None),
        model_type=config.get("model_type"),
        parameters=weights.total if weights else None,
        dtypes=tuple(sorted(weights.parameters.items())) if weights else (),
        files=tuple(
            RepoFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None)
            for file in info.siblings or ()
        ),
    )


def file_url(ref: ModelRef | DatasetRef, commit: str, file: RepoFile) -> str:
    """Where the Hub has one version of a file."""
    folder = "datasets/" if ref.kind == "datasets" else ""
    return f"{endpoint()}/{folder}{ref.name}/resolve/{commit}/{quote(file.path)}"


def check_access(repo: RepoFacts[Ref], *, token: Token) -> None:
    """Raise AccessDenied where the token may see a gated model or dataset but not read its files."""
    if repo.gated:
        ask(f"{repo.ref.kind}/{repo.ref.name}/auth-check", token=token, what=repo.ref.name)


def known_public(ref: ModelRef | DatasetRef) -> bool:
    """Whether the Hub has shown this model or dataset to everyone since the studio was started."""
    return (ref.kind, ref.name) in _PUBLIC


def needed(
    ref: ModelRef | DatasetRef,
    files: Iterable[RepoFile],
    *,
    part: Part = "model",
    only: Collection[str] | None = None,
) -> tuple[RepoFile, ...]:
    """The files that a part of a model is read from, or those of a dataset, and the card."""
    if ref.kind == "datasets":
        return tuple(file for file in files if file.path == "README.md" or _wanted(file.path, only))
    files = list(files)
    if part == "tokenizer":
        return tuple(file for file in files if _matches(file.path, _TOKENIZER))
    chosen = [file for file in files if _matches(file.path, _NEEDED) and not _matches(file.path, _NEVER)]
    if part == "pickles":
        chosen += [file for file in files if _matches(file.path, _PICKLED)]
    if any(file.path == "model.safetensors" for file in chosen):
        # The whole checkpoint is read in preference to its shards.
        chosen = [file for file in chosen if not fnmatch(file.path, "model-*-of-*.safetensors")]
    return tuple(chosen)


def holds_rows(path: str) -> bool:
    """Whether the studio reads rows from a file of this name."""
    return path.lower().endswith(_ROWS) and not _NO_ROWS.search(path)


def holds_content(ref: ModelRef | DatasetRef, files: Iterable[RepoFile], *, part: Part = "model") -> bool:
    """Whether weights, or a tokenizer, or rows, are among the files, and not only what is beside them."""
    beside = {"README.md", "config.json", "generation_config.json", "tokenizer_config.json"}
    if ref.kind == "models" and part != "tokenizer":
        return any(file.path.endswith(".safetensors") for file in files)
    return any(file.path not in beside for file in files)


def _wanted(path: str, only: Collection[str] | None) -> bool:
    return holds_rows(path) if only is None else path in only


def check_usable(repo: RepoFacts[Ref]) -> None:
    """Raise Unsupported where the list of files alone shows that the studio cannot use it."""
    paths = [file.path for file in repo.files]
    name = repo.ref.name
    if repo.ref.kind == "datasets":
        if not any(holds_rows(path) for path in paths):
            raise _no_rows(name, paths)
        return
    if repo.part == "tokenizer":
        if not holds_content(repo.ref, repo.needed, part="tokenizer"):
            raise Unsupported(f"{name} comes without a tokenizer.", "Choose the model that it was made from.")
        return
    if "model_index.json" in paths:
        raise Unsupported(
            f"{name} is a pipeline of several models, as for images, not a text model.",
            "Search for a text-generation model.",
        )
    if not any(file.path.endswith(".safetensors") or _matches(file.path, _PICKLED) for file in repo.needed):
        raise _no_weights(name, paths)
    if not {"config.json", "adapter_config.json"} & set(paths):
        raise Unsupported(f"{name} has no config.json, so it is not a model of transformers.", "Choose another model.")


def license_of(info: ModelInfo | DatasetInfo) -> str | None:
    """The licence that a model or dataset is tagged with."""
    return next((tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")), None)


def _no_rows(name: str, paths: list[str]) -> Unsupported:
    if any(path.endswith(".py") for path in paths):
        return Unsupported(
            f"{name} is a script that makes the rows, and the studio runs no code of a repository.",
            f"The Hub often has a converted copy: try {name}@refs/convert/parquet.",
        )
    others = sorted({path.rpartition("/")[2].partition(".")[2] for path in paths if "." in path.lstrip(".")} - {"md"})
    holds = f"only .{', .'.join(others[:5])}" if others else "no files with rows"
    return Unsupported(
        f"{name} holds {holds}, which the studio cannot read as rows of text.",
        f"Choose a dataset with files of {', '.join(_ROWS)}, or try {name}@refs/convert/parquet.",
    )


def _no_weights(name: str, paths: list[str]) -> Unsupported:
    if any(_PICKLES.search(path) for path in paths):
        return PickleOnly(
            f"{name} has its weights only as pickle files, which can run code when they are opened.",
            "Convert it to safetensors on the Load tab, or look for a version that has them.",
        )
    if any(path.endswith(".gguf") for path in paths):
        return Unsupported(
            f"{name} has its weights only as GGUF, which is for running and cannot be tuned.",
            "Choose the model that it was made from; or download one of the files and give its path as the model.",
        )
    others = sorted(
        {path.rpartition(".")[2] for path in paths if path.endswith((".h5", ".msgpack", ".onnx", ".nemo", ".mlmodel"))}
    )
    if others:
        return Unsupported(
            f"{name} has its weights only as .{' and .'.join(others)}.", "Choose a model with *.safetensors files."
        )
    return Unsupported(
        f"{name} has no weights: there is no *.safetensors in its main folder.",
        "Choose a model with *.safetensors files.",
    )


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Like a shell, a pattern does not reach into folders unless it says so: original/ and onnx/ hold copies."""
    return any(fnmatch(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns)
