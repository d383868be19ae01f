"""Checkpoints that are whole or not there: written beside, proven by a manifest, renamed; broken ones passed over."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.disk import sync
from studio.errors import Damaged, DoesNotFit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FOLDER, BEST = "checkpoints", "best"
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
_NAME = re.compile(r"step-(\d+)")
_PART, _OLD = ".part", ".old"


@dataclass(frozen=True, slots=True)
class Found:
    """What a run can go on from."""

    newest: Path | None
    broken: tuple[Path, ...]
    """Newer ones that cannot be trusted."""


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, below its `folder`, whose every byte is as it was written."""
    return find(folder / FOLDER).newest


def find(place: Path) -> Found:
    """The newest whole checkpoint in a place, and the broken ones passed over on the way to it."""
    broken: list[Path] = []
    for folder in reversed(all_of(place)):
        if is_whole(folder):
            return Found(folder, tuple(broken))
        broken.append(folder)
    return Found(None, tuple(broken))


def all_of(place: Path) -> list[Path]:
    """The checkpoints in a place, whole or not, the oldest first."""
    found = [folder for folder in place.glob("step-*") if _NAME.fullmatch(folder.name)]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The optimizer step that a checkpoint is of."""
    return int(folder.name.rpartition("-")[2])


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint holds the files of its manifest, each with the bytes that were written."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return bool(listed) and all(_sha256(folder / name) == known for name, known in listed.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write(place: Path, step: int, fill: Callable[[Path], None], *, check: Callable[[], None]) -> Path:
    """Have `fill` write a checkpoint into a folder, and put it in its place once all of it is on the disk.

    `check` is called between files and may raise. Raises DoesNotFit where the disk does not take it; then, and
    whatever else happens, everything is as before.
    """
    target = place / f"step-{step}"
    part = target.with_name(target.name + _PART)
    try:
        with_room(place, lambda: _write(part, target, fill, check))
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _write(part: Path, target: Path, fill: Callable[[Path], None], check: Callable[[], None]) -> None:
    shutil.rmtree(part, ignore_errors=True)  # of one that was killed
    part.mkdir(parents=True)
    fill(part)
    listed = {}
    for file in sorted(part.iterdir()):
        check()
        sync(file)
        listed[file.name] = _sha256(file)
    manifest = part / MANIFEST
    manifest.write_text(json.dumps({"files": listed}, indent=1), encoding="utf-8")
    sync(manifest)
    put(part, target)


def put(part: Path, target: Path) -> None:
    """Rename a folder into its place, instead of what is there."""
    sync(part)
    old = target.with_name(target.name + _OLD)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def with_room(place: Path, work: Callable[[], None]) -> None:
    """Do what writes, and turn what a disk complains of, itself or by way of a library, into our words."""
    try:
        work()
    except OSError as error:
        raise _no_room(place, error.strerror or str(error)) from error
    except RuntimeError as error:
        # PyTorch reports a full disk as what its zip writer noticed first.
        if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise
        raise _no_room(place, "PyTorch could not write to it") from error
    except BaseException as error:
        # safetensors must not be imported for its class alone, before anything is written.
        if type(error).__name__ != "SafetensorError":
            raise
        raise _no_room(place, str(error)) from error


def _no_room(place: Path, why: str) -> DoesNotFit:
    disk = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    free = shutil.disk_usage(disk).free / 1e9
    return DoesNotFit(
        f"The disk did not take what was to be written ({why}); it has {free:.2f} GB free.",
        "Free some space and start the run again: it goes on from its last checkpoint.",
    )


def rotate(newest: Path, *, keep: int) -> None:
    """Remove all checkpoints but `keep`, the newest of them the last, and what killed writers left.

    One of a later step is broken, or the run would have gone on from it.
    """
    place = newest.parent
    there = all_of(place)
    upto = [folder for folder in there if step_of(folder) <= step_of(newest)]
    for folder in there:
        if folder not in upto[-keep:]:
            remove(folder)
    for left in [*place.glob(f"step-*{_PART}"), *place.glob(f"step-*{_OLD}")]:
        shutil.rmtree(left, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a checkpoint so that it is never found half gone."""
    old = folder.with_name(folder.name + _OLD)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def save_weights(model: PreTrainedModel, file: Path) -> None:
    """Write every parameter that is trained, bit for bit."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in _trained(model).items()}, file)


def load_weights(model: PreTrainedModel, file: Path) -> None:
    """Put the parameters of a file into the model. Raises Damaged where they are not the ones that are trained."""
    import torch
    from safetensors import safe_open

    trained = _trained(model)
    with torch.no_grad(), safe_open(file, "pt") as stored:
        names = set(stored.keys())
        if strangers := sorted(names ^ trained.keys()):
            raise Damaged(
                f"The checkpoint {file.parent.name} holds other weights than this run trains, such as {strangers[0]}.",
                "Start the run anew in another folder.",
            )
        for name, parameter in trained.items():
            parameter.copy_(stored.get_tensor(name))


def _trained(model: Any) -> dict[str, Any]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
