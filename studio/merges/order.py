"""What a merge is to do: the file order.json in its folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio import fields
from studio.errors import InputError
from studio.loading import Quantization
from studio.merging.outcome import NOT_PROVEN
from studio.merging.plan import MergePlan
from studio.models import ModelRef, Precision
from studio.runs.document import put
from studio.runs.plain import as_plain, from_plain

FILE = "order.json"
_SET = ("dtype", "shard_size", "onto", "precision", "prove")
"""The fields that can be set by name."""
_OF_PLAN = {each.name: each for each in dataclasses.fields(MergePlan)}


def _as_in_plan(name: str) -> Any:
    """A field that is declared where the merge is."""
    declared = _OF_PLAN[name]
    return field(default=declared.default, metadata=declared.metadata)


@dataclass(frozen=True, slots=True)
class MergeOrder:
    """A base and an adapter by name, and where both are to be one model."""

    base: ModelRef
    adapter: ModelRef
    """A folder, or a repository of the Hub."""
    output: Path
    """A folder that is not there yet, or empty. It comes to be at the end, all at once."""
    dtype: str = _as_in_plan("dtype")
    shard_size: float = _as_in_plan("shard_size")
    onto: str = _as_in_plan("onto")
    precision: Precision | None = None
    """How the base was quantized while the adapter learnt; looked at where the merge is not onto the original."""
    quantization: Quantization = field(default_factory=Quantization)
    """The rest of how it was."""
    prove: bool = field(
        default=True, metadata={"help": "Hold the merged folder against base and adapter before it gets its name"}
    )
    prompts: tuple[str, ...] = ()
    """What both are asked in the proof, beside what is asked always."""
    run: str = ""
    """The run that made the adapter, whose held-out rows the proof reads; empty where none did."""

    def __post_init__(self) -> None:
        fields.check(self)
        if self.precision and not self.precision.quantizes:
            raise InputError(f"{self.precision} quantizes nothing.", "Choose nf4, fp4 or int8, or leave it out.")
        if self.adapter.where == "starter":
            raise InputError(
                "The starter is a model and no adapter.", "Choose a run, a folder, or an adapter of the Hub."
            )
        if self.output.name.endswith((NOT_PROVEN, ".part")):
            raise InputError(
                f"{self.output.name} is what an unfinished merge would be called.", "Choose a name with another ending."
            )


def with_fields(order: MergeOrder, values: Iterable[tuple[str, str]]) -> MergeOrder:
    """The order with fields as (dtype, fp32) or (prove, false) say. Raises InputError that names the field."""
    said = as_plain(order)
    for name, text in values:
        if name not in _SET:
            raise InputError(f"A merge has no setting {name[:60]!r}.", f"There are {', '.join(_SET)}.")
        kind = type(said[name])
        try:
            said[name] = {"true": True, "false": False}[text] if kind is bool else kind(text) if said[name] else text
        except (KeyError, ValueError) as error:
            raise InputError(f"{name} is {text[:60]!r}.", "Write a number, true or false.") from error
    return from_plain(MergeOrder, said, "order")


def write(order: MergeOrder, made: str, folder: Path) -> None:
    """Put an order into the folder of its merge, whole or not at all. `made` is when."""
    put(folder / FILE, json.dumps({"made": made, "order": as_plain(order)}, indent=1) + "\n")


def read(folder: Path) -> tuple[MergeOrder, str]:
    """The order in a folder, and when it was made. Raises InputError where there is none that can be read."""
    try:
        said = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return from_plain(MergeOrder, said["order"], "order"), str(said["made"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder.name} is no merge any more: {FILE} cannot be read.", "Begin a new one.") from error
