"""What the Hub knows about models, and which of their files a text model needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING
from urllib.parse import quote

from studio.errors import AccessDenied, NotFound, PickleOnly, Unsupported
from studio.hub.client import Token, ask, explained
from studio.models import ModelRef

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_NEEDED = (
    "config*.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
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
    "adapter_config.json",
    "README.md",
    "LICENSE*",
)
# Copies of the same weights in another layout, and code and pickles whatever they are called.
_NEVER = ("consolidated*.safetensors", "*.py", "*.bin", "*.pt", "*.pth")
_PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_PICKLES = re.compile(r"(?:^|/)(?!training_args|optimizer|scheduler|rng_state)[^/]+\.(?:bin|pt|pth|ckpt|pkl)$")
_PUBLIC: set[str] = set()


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository: its size in bytes and, for one that is too large for git, its hash."""

    path: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RepoFacts:
    """A model at one commit: who may read it, what it is and which files it has. What the Hub does not say is None."""

    ref: ModelRef
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
    pickles: bool = False
    """Whether weights that are pickles count as needed: to be converted, never to be opened."""

    @property
    def commit(self) -> str:
        """The commit that all of this is about."""
        return self.ref.revision

    @property
    def needed(self) -> tuple[RepoFile, ...]:
        """The files that loading needs, which are those that are downloaded."""
        return needed(self.files, pickles=self.pickles)

    @property
    def download_bytes(self) -> int:
        """Bytes of all files that loading needs."""
        return sum(file.size for file in self.needed)


def facts(ref: ModelRef, *, token: Token) -> RepoFacts:
    """What the Hub says about a model to whoever holds the token. Gated models show these facts to everyone."""
    from huggingface_hub import ModelInfo

    path = f"models/{ref.name}/revision/{quote(ref.revision, safe='')}"
    try:
        with explained(str(ref)):
            info = ModelInfo(**ask(path, token=token, what=str(ref), params={"blobs": True}).json())
    except (NotFound, AccessDenied):
        _PUBLIC.discard(ref.name)
        raise
    public = not info.private and not info.gated
    (_PUBLIC.add if public else _PUBLIC.discard)(ref.name)
    config = info.config or {}
    weights = info.safetensors
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


def check_access(repo: RepoFacts, *, token: Token) -> None:
    """Raise AccessDenied where the token may see a gated model but not read its files."""
    if repo.gated:
        ask(f"models/{repo.ref.name}/auth-check", token=token, what=repo.ref.name)


def known_public(repo: str) -> bool:
    """Whether the Hub has shown this model to everyone since the studio was started."""
    return repo in _PUBLIC


def needed(files: Iterable[RepoFile], *, pickles: bool = False) -> tuple[RepoFile, ...]:
    """The files that a text model or an adapter is loaded from, or converted from, and its card and licence."""
    files = list(files)
    chosen = [file for file in files if _matches(file.path, _NEEDED) and not _matches(file.path, _NEVER)]
    if pickles:
        chosen += [file for file in files if _matches(file.path, _PICKLED)]
    if any(file.path == "model.safetensors" for file in chosen):
        # The whole checkpoint is read in preference to its shards.
        chosen = [file for file in chosen if not fnmatch(file.path, "model-*-of-*.safetensors")]
    return tuple(chosen)


def check_usable(repo: RepoFacts) -> None:
    """Raise Unsupported where the list of files alone shows that the studio cannot load the model."""
    paths = [file.path for file in repo.files]
    name = repo.ref.name
    if "model_index.json" in paths:
        raise Unsupported(
            f"{name} is a pipeline of several models, as for images, not a text model.",
            "Search for a text-generation model.",
        )
    if not any(file.path.endswith(".safetensors") or _matches(file.path, _PICKLED) for file in repo.needed):
        raise _no_weights(name, paths)
    if not {"config.json", "adapter_config.json"} & set(paths):
        raise Unsupported(f"{name} has no config.json, so it is not a model of transformers.", "Choose another model.")


def license_of(info: ModelInfo) -> str | None:
    """The licence that a model is tagged with."""
    return next((tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")), None)


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
