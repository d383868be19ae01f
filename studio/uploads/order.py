"""What an upload is to do: the files order.json and README.md in its folder. A token is never among it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from studio import fields
from studio.errors import InputError
from studio.models import ModelRef
from studio.runs.document import put
from studio.runs.plain import as_plain, from_plain

FILE, CARD = "order.json", "README.md"


@dataclass(frozen=True, slots=True)
class UploadOrder:
    """A folder, and where on the Hub it is to be."""

    folder: Path
    repo: str
    """owner/name."""
    owner: str
    """Who signed in, by name: the upload is theirs alone."""
    private: bool = field(default=True, metadata={"help": "Nobody else sees it; of a repository that is made for it"})
    pull_request: bool = field(default=False, metadata={"help": "Open a pull request and leave the branch alone"})
    branch: str = field(default="main", metadata={"help": "The branch it goes to; one that is not there is made"})
    licence: str = field(default="", metadata={"help": "What it is published under; empty is as its base"})
    base: str = field(default="", metadata={"help": "The Hub's name of its base; empty is what the record says"})

    def __post_init__(self) -> None:
        fields.check(self)
        if "/" not in self.repo or "@" in self.repo or ModelRef.parse(self.repo).where != "hub":
            raise InputError(
                f"{self.repo[:100]!r} is not the name of a repository.", "Write owner/name, for example alice/persona."
            )
        ModelRef.parse(f"{self.repo}@{self.branch}")
        if self.pull_request and self.branch != "main":
            raise InputError("A pull request is opened against main.", "Leave the branch as it is, or the request out.")


def with_fields(order: UploadOrder, values: Iterable[tuple[str, str]]) -> UploadOrder:
    """The order with fields as (licence, mit) or (pull_request, true) say. Raises InputError that names the field."""
    said = as_plain(order)
    known = [each.name for each in dataclasses.fields(order) if each.metadata]
    for name, text in values:
        if name not in known:
            raise InputError(f"An upload has no setting {name[:60]!r}.", f"There are {', '.join(known)}.")
        if isinstance(said[name], bool) and text not in ("true", "false"):
            raise InputError(f"{name} is {text[:60]!r}.", "Write true or false.")
        said[name] = text == "true" if isinstance(said[name], bool) else text
    return from_plain(UploadOrder, said, "order")


def write(order: UploadOrder, card: str, made: str, folder: Path) -> None:
    """Put an order and its card into the folder of its upload. `made` is when."""
    put(folder / CARD, card)
    put(folder / FILE, json.dumps({"made": made, "order": as_plain(order)}, indent=1) + "\n")


def read(folder: Path) -> tuple[UploadOrder, str]:
    """The order in a folder, and when it was made. Raises InputError where there is none that can be read."""
    try:
        said = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return from_plain(UploadOrder, said["order"], "order"), str(said["made"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder.name} is no upload any more: {FILE} cannot be read.", "Begin a new one.") from error


def card(folder: Path) -> str:
    """The card of an upload."""
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder.name} has lost its card.", "Begin a new upload.") from error
