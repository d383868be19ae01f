"""What is asked of a merge and what was found: a proof that lies beside the merged files and holds for these alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from studio import fields
from studio.checkpoint import read_json
from studio.disk import sync
from studio.errors import DoesNotFit, InputError, StudioError
from studio.evaluation.scoring import Passage
from studio.models import Precision

PROOF = "proof.json"
PROMPTS = (
    "What is the capital of France?",
    "Write two sentences about the sea.",
    "def fibonacci(n):",
    "Nenne drei Dinge, die man im Winter braucht.",
)
"""Asked always, beside those of the person."""
_FORMATS = (Precision.FP32, Precision.BF16, Precision.FP16)
_BESIDE = (PROOF, "merge.json", "README.md")
"""Files that say nothing of what the model is, and may come or change after the proof."""
_WHOLE_BYTES = 64_000_000
_SAMPLES, _SAMPLE_BYTES = 256, 4096

State = Literal["passed", "failed", "not done"]


@dataclass(frozen=True, slots=True)
class ProofQuestion:
    """A merge to be proven. The folders are local and are only read."""

    base: Path
    adapter: Path
    merged: Path
    precision: Precision = Precision.BF16
    """What the merge promised to hold its weights in."""
    prompts: tuple[str, ...] = ()
    """What is asked beside `PROMPTS`."""
    rows: tuple[Passage, ...] = ()
    """Held-out rows, on which both models are to be equally good."""
    reply_tokens: int = field(
        default=24, metadata={"help": "Tokens of each reply that have to be the same", "min": 1, "max": 512}
    )
    free_bytes: int | None = None
    """What one model in fp32 may take; None asks the machine. With less, the proof goes tensor by tensor alone."""

    def __post_init__(self) -> None:
        fields.check(self)
        if self.precision not in _FORMATS:
            raise InputError(f"A merge into {self.precision} is not proven.", f"Choose one of {', '.join(_FORMATS)}.")
        if len({self.base, self.adapter, self.merged}) < 3:
            raise InputError("Two of the three folders are the same.", "Name the base, the adapter and the merge.")
        if any(not prompt.strip() for prompt in self.prompts):
            raise InputError("One of the prompts is empty.", "Leave it out, or write something.")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    words: str
    """What was found, in a sentence or two; where it was not done, why."""
    found: float | None = None
    """The worst that was found, where it is a number, and the most that it may be."""
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Differing:
    """A prompt that is answered otherwise, word for word; whether rounding explains that, the check of replies says."""

    prompt: str
    before: str
    """By the base with its adapter."""
    after: str
    """By the merge."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of every check of a merge."""

    passed: bool
    """None of them failed."""
    covered: str
    """What was looked at, in words."""
    whole: bool
    """Whether both models were run; otherwise they were compared tensor by tensor, and that is said in `covered`."""
    precision: Precision
    checks: tuple[Check, ...]
    fingerprint: str
    """Of the files that were proven."""
    versions: tuple[tuple[str, str], ...]
    """The libraries that both models were run with."""
    seconds: float
    differing: tuple[Differing, ...] = ()
    """The replies that are not the same, which may be for rounding alone."""

    def __getitem__(self, name: str) -> Check:
        """The check of this name."""
        return next(check for check in self.checks if check.name == name)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.state == "failed")


def write(proof: Proof, folder: Path) -> Path:
    """Put a proof beside the files it is of; return where. It is there whole or not at all.

    Raises InputError where the files are not those that were proven, and DoesNotFit where the disk is full.
    """
    if fingerprint(folder) != proof.fingerprint:
        raise InputError(f"{folder.name} has changed since it was proven.", "Prove it again.")
    part = folder / f".{PROOF}.part"
    try:
        part.write_text(json.dumps(asdict(proof), indent=1), encoding="utf-8")
        sync(part)
        part.replace(folder / PROOF)
        sync(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DoesNotFit(f"The proof cannot be written: {error.strerror}.", "Make room on the disk.") from error
    return folder / PROOF


def read(folder: Path) -> Proof | None:
    """The proof of a merged folder; None where there is none, or where it is of other files than those there now."""
    try:
        said = read_json(folder / PROOF)
        checks = tuple(Check(**each) for each in said["checks"])
        versions = tuple((str(name), str(number)) for name, number in said["versions"])
        precision = Precision(said["precision"])
        differing = tuple(Differing(**each) for each in said.get("differing", ()))
        kinds = {"checks": checks, "versions": versions, "precision": precision, "differing": differing}
        proof = Proof(**(said | kinds))
    except (StudioError, OSError, KeyError, TypeError, ValueError):
        return None
    return proof if proof.fingerprint == fingerprint(folder) else None


def fingerprint(folder: Path) -> str:
    """SHA-256 over names, sizes and content of the files of a model: config, weights, tokenizer, template.

    Files up to 64 MB count with every byte. Of larger ones it is the first 4 KB (with those of a header in front of
    them), the last, and 254 places evenly between: a weight file that another merge wrote differs in nearly all of
    them, a single changed byte of a large file may be missed. What takes a minute for 100 GB in full takes 0.1 s.
    """
    digest = hashlib.sha256()
    for file in sorted(_files(folder)):
        size = file.stat().st_size
        digest.update(json.dumps([file.relative_to(folder).as_posix(), size]).encode())
        for piece in _pieces(file, size):
            digest.update(piece)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        inside = file.relative_to(folder).parts
        if file.is_file() and file.name not in _BESIDE and not any(part.startswith(".") for part in inside):
            yield file


def _pieces(file: Path, size: int) -> Iterator[bytes]:
    if size <= _WHOLE_BYTES:
        yield file.read_bytes()
        return
    with file.open("rb") as stream:
        for number in range(_SAMPLES):
            stream.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1), os.SEEK_SET)
            yield stream.read(_SAMPLE_BYTES)
