"""How a model is named and how its weights are held. Names and numbers only: nothing here looks at a disk."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from studio.errors import InputError

# The Hub's own rule: letters, digits, "-", "_" and ".", no "--" or "..", no dash or dot at either end of a part.
_PART = r"(?![-.])(?!.*(?:--|\.\.))[\w.-]{1,96}(?<![-.])"
_REPO = re.compile(rf"^(?:(?:{_PART})/)?(?:{_PART})$", re.ASCII)
_REVISION = re.compile(r"^(?!.*\.\.)[\w./-]{1,250}$", re.ASCII)
_HUB_PAGE = re.compile(
    r"^https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/?#]+)(?:/tree/([^?#]+?))?/?(?:[?#].*)?$"
)
_FOLDER = re.compile(r"^(?:[~.]{0,2}[/\\]|~$|\.{1,2}$|[A-Za-z]:[/\\])")

Where = Literal["hub", "folder", "starter"]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model by name: on the Hub at one revision, in a folder of this machine, or the starter that is shipped."""

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
            # Absolute, so that what is printed reads back as the same folder.
            # resolve() would ask the disk, and Path.expanduser() raises for a person that is not there.
            return cls("folder", os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111
        if page := _HUB_PAGE.match(text):
            text = page[1] + (f"@{page[2]}" if page[2] else "")
        repo, _, revision = text.partition("@")
        if repo == "starter" and revision in ("", "main"):
            return STARTER
        if not _REPO.fullmatch(repo):
            raise InputError(
                f"{text!r} is not the name of a model." if text else "No model is named.",
                "Write owner/name, for example Qwen/Qwen3-0.6B, a folder that begins with / or ./, or starter.",
            )
        if revision and not _REVISION.fullmatch(revision):
            raise InputError(
                f"{revision!r} is not the name of a revision.", "Use a branch, a tag or a commit after the @."
            )
        return cls("hub", repo, revision or "main")

    def __str__(self) -> str:
        return self.name if self.revision == "main" else f"{self.name}@{self.revision}"


STARTER = ModelRef("starter", "starter")


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
