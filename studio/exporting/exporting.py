"""A model folder into a GGUF file that is proven before it gets its name."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from studio.checkpoint import read_checkpoint
from studio.disk import explained, sync
from studio.errors import DoesNotFit, InputError
from studio.events import Finished, Phase, Progress
from studio.exporting import proving
from studio.exporting.beside import compare
from studio.exporting.plan import Exported, ExportPlan
from studio.exporting.shape import Pairs, Shape, read_shape
from studio.exporting.texts import probes
from studio.exporting.vocabulary import Vocabulary, read_vocabulary
from studio.exporting.writing import Placed, general, placed, write
from studio.heartbeat import heartbeat
from studio.loading.outlook import read_config
from studio.tokenizer import load_tokenizer

SMALL = 64_000_000
"""Bytes beside the weights: a vocabulary of 150,000 takes 6 MB, and what is gained by looking closer is nothing."""
_PART = ".part"


def export(plan: ExportPlan) -> Generator[Progress | Finished[Exported], None, None]:
    """Write the model of a folder as one GGUF file, read it back and compare it; last comes `Finished(Exported)`.

    Only local files are read, some rows at a time. The file is there when all of it is on the disk and was compared,
    and not before: closing the generator leaves nothing. Raises InputError, Unsupported, Damaged or DoesNotFit.
    """
    started = time.monotonic()
    part = plan.target.with_name(plan.target.name + _PART)
    read_checkpoint(plan.folder)
    shape = read_shape(read_config(plan.folder))
    tensors = placed(plan.folder, shape, plan.kind)
    _check_target(plan.target, sum(tensor.bytes for tensor in tensors) + SMALL)
    try:
        with explained(plan.target):
            shutil.rmtree(part, ignore_errors=True)  # of one that was killed
            part.mkdir(parents=True)
            file = part / plan.target.name
            yield Progress(Phase.EXPORT)
            done = yield from _written(plan, file, shape, tensors)
            likeness, why_not, caveats = yield from compare(
                plan.folder, file, shape, done.texts, exact=done.weight_error == 0
            )
            size = file.stat().st_size
            sync(file)
            # A link and not a rename: whatever came to be in this place meanwhile stays as it is.
            os.link(file, plan.target)
            sync(plan.target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    yield Finished(
        Exported(
            file=plan.target,
            bytes=size,
            kind=plan.kind,
            architecture=shape.architecture,
            tensors=len(tensors),
            weight_error=done.weight_error,
            pre_tokenizer=done.vocabulary.split,
            texts=len(done.texts),
            likeness=likeness,
            not_compared=why_not,
            caveats=(*done.vocabulary.caveats, *caveats),
            seconds=time.monotonic() - started,
        )
    )


@dataclass(frozen=True, slots=True)
class _Written:
    vocabulary: Vocabulary
    texts: list[str]
    weight_error: float


class _GaveUp(Exception):
    """Raised inside the thread that writes, to end it."""


def _written(plan: ExportPlan, file: Path, shape: Shape, tensors: list[Placed]) -> Generator[Progress, None, _Written]:
    """Write the file and read it back, on a thread."""
    total = sum(tensor.bytes for tensor in tensors)
    said = general(plan.folder.name, plan.kind)

    def work(say: Callable[[Progress], None], stop: Event) -> _Written:
        def look() -> None:
            if stop.is_set():
                raise _GaveUp

        moved = 0

        def move(count: int) -> None:
            nonlocal moved
            look()
            moved += count
            say(Progress(Phase.EXPORT, moved, total))

        def checked(count: int) -> None:
            look()
            say(Progress(Phase.CHECK, count, len(tensors)))

        tokenizer = load_tokenizer(plan.folder)
        texts = probes(tokenizer)
        look()
        vocabulary = read_vocabulary(plan.folder, tokenizer, shape.vocabulary, texts, look)
        write(file, shape, vocabulary, tensors, said, move)
        return _Written(vocabulary, texts, _proven(file, plan, (shape, vocabulary, tensors, said), texts, checked))

    latest = Progress(Phase.EXPORT)

    def tell(news: list[Progress]) -> list[Progress]:
        nonlocal latest
        latest = news[-1] if news else latest
        return [latest]

    return (yield from heartbeat(work, tell, every=0.1))


def _proven(
    file: Path,
    plan: ExportPlan,
    meant: tuple[Shape, Vocabulary, list[Placed], Pairs],
    texts: list[str],
    checked: Callable[[int], None],
) -> float:
    """Read the file as others will. Returns the error of the weights."""
    shape, vocabulary, tensors, said = meant
    reader = proving.opened(file)
    proving.check_head(reader, shape, vocabulary, said)
    proving.check_texts(reader, load_tokenizer(plan.folder), texts)
    return proving.check_weights(reader, tensors, checked)


def _check_target(target: Path, needed: int) -> None:
    if target.exists():
        raise InputError(f"{target} exists already.", "Choose another name, or remove it first.")
    disk = next(place for place in (target.absolute(), *target.absolute().parents) if place.exists())
    if (free := shutil.disk_usage(disk).free) < needed:
        raise DoesNotFit(
            f"The file takes {needed / 1e9:.2f} GB, and the disk with {disk} has {free / 1e9:.2f} GB free.",
            "Free some space, or choose a smaller kind or a folder on a larger disk.",
        )
