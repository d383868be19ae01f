"""How models and datasets are named, and how weights are held. Names and numbers only: nothing looks at a disk."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal, TypeVar

from studio.errors import InputError

# The Hub's own rule: letters, digits, "-", "_" and ".", no "--" or "..", no dash or dot at either end of a part.
_PART = r"(?![-.])(?!.*(?:--|\.\.))[\w.-]{1,96}(?<![-.])"
_REPO = re.compile(rf"^(?:(?:{_PART})/)?(?:{_PART})$", re.ASCII)
_REVISION = re.compile(r"^(?!.*\.\.)[\w./-]{1,250}$", re.ASCII)
_HUB_PAGE = re.compile(
    r"^https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/?#]+)(?:/tree/([^?#]+?))?/?(?:[?#].*)?$"
)
_FOLDER = re.compile(r"^(?:[~.]{0,2}[/\\]|~$|\.{1,2}$|[A-Za-z]:[/\\])")
# What the datasets library allows: a config may name a folder, a split may not.
_CONFIG = r"[^<>:/\\|?*\s][^<>:/\\|?*]*"
_SPLIT = r"\w+(?:\.\w+)*"
_PART_OF_IT = re.compile(rf"^(?P<name>.*?)(?::(?P<config>{_CONFIG})?)?:(?P<split>{_SPLIT})?$", re.DOTALL)

_DATASET_PAGE = re.compile(
    r"^https?://(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/([^/?#]+(?:/[^/?#]+)?)"
    rf"(?:/tree/([^?#]+?)|/viewer/({_CONFIG})/({_SPLIT}))?/?(?:[?#].*)?$"
)

Kind = Literal["models", "datasets"]
"""What the Hub calls the two in its addresses."""
Where = Literal["hub", "folder", "starter"]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model by name: on the Hub at one revision, in a folder of this machine, or the starter that is shipped."""

    kind: ClassVar[Kind] = "models"
    where: Where
    name: str
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read `starter`, a folder (`./model`, `/data/model`, `~/model`), `owner/name[@revision]` or its web address.

        Raises InputError where the text is none of these.
        """
        text = text.strip()
        if _FOLDER.match(text):
            return cls("folder", _absolute(text))
        if page := _HUB_PAGE.match(text):
            text = page[1] + (f"@{page[2]}" if page[2] else "")
        if _is(text, "starter"):
            return STARTER
        repo, revision = _on_the_hub(
            text,
            "model",
            "Write owner/name, for example Qwen/Qwen3-0.6B, a folder that begins with / or ./, or starter.",
        )
        return cls("hub", repo, revision)

    def __str__(self) -> str:
        return self.name if self.revision == "main" else f"{self.name}@{self.revision}"


STARTER = ModelRef("starter", "starter")

BUNDLED = ("persona", "orders")
"""The datasets that are shipped."""


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A dataset by name, and which part of it: on the Hub at one revision, files of this machine, or one shipped.

    A config and a split that are None are to be chosen later.
    """

    kind: ClassVar[Kind] = "datasets"
    where: Literal["hub", "local", "bundled"]
    name: str
    """The name on the Hub, the absolute path of a file or folder, or the word of a bundled set."""
    revision: str = "main"
    config: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, text: str) -> DatasetRef:
        """Read `persona`, `orders`, a path (`./rows.jsonl`, `/data/folder`), `owner/name[@revision]` or a web address.

        Each may be followed by `:split`, `:config:split` or `:config:`. Raises InputError where the text is none of
        these.
        """
        text, config, split = text.strip(), None, None
        if page := _DATASET_PAGE.match(text):
            text = page[1] + (f"@{page[2]}" if page[2] else "")
            config, split = page[3], page[4]
        elif part := _PART_OF_IT.match(text):
            text, config, split = part["name"], part["config"], part["split"]
        if _FOLDER.match(text):
            return cls("local", _absolute(text), config=config, split=split)
        for name in BUNDLED:
            if _is(text, name):
                return cls("bundled", name, config=config, split=split)
        repo, revision = _on_the_hub(
            text,
            "dataset",
            "Write owner/name, for example HuggingFaceH4/no_robots, a file or folder that begins with / or ./, "
            f"or {' or '.join(BUNDLED)}; a split goes behind a colon.",
        )
        return cls("hub", repo, revision, config, split)

    def __str__(self) -> str:
        name = self.name if self.revision == "main" else f"{self.name}@{self.revision}"
        if self.config is not None or ":" in self.name:
            return f"{name}:{self.config or ''}:{self.split or ''}"
        return name if self.split is None else f"{name}:{self.split}"


Ref = TypeVar("Ref", bound=ModelRef | DatasetRef)


def _is(text: str, name: str) -> bool:
    return text in (name, f"{name}@", f"{name}@main")


def _absolute(path: str) -> str:
    # Absolute, so that what is printed reads back as the same folder.
    # resolve() would ask the disk, and Path.expanduser() raises for a person that is not there.
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111


def _on_the_hub(text: str, what: str, write: str) -> tuple[str, str]:
    """The repository and the revision in `owner/name[@revision]`. Raises InputError that says what to `write`."""
    repo, _, revision = text.partition("@")
    if not _REPO.fullmatch(repo):
        raise InputError(f"{text!r} is not the name of a {what}." if text else f"No {what} is named.", write)
    if revision and not _REVISION.fullmatch(revision):
        raise InputError(f"{revision!r} is not the name of a revision.", "Use a branch, a tag or a commit after the @.")
    return repo, revision or "main"


class Precision(StrEnum):
    """How weights are held in memory."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    NF4 = "nf4"
    FP4 = "fp4"
    STORED = "as stored"
    """A checkpoint that was quantized before, as it is."""

    @property
    def bits(self) -> int | None:
        """Bits of one weight; None where the checkpoint decides."""
        return {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "nf4": 4, "fp4": 4}.get(self.value)

    @property
    def quantizes(self) -> bool:
        """Whether the weights are quantized while they are read."""
        return self in (Precision.INT8, Precision.NF4, Precision.FP4)
