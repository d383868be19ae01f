"""Train a tokenizer, so that it can be stopped at any moment.

The texts go to a file; a child process, `python -m studio.tokenizer.fitting`, learns from them. It writes to a folder
beside, which gets its name when it is complete.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from studio import child, errors
from studio.disk import sync
from studio.errors import DoesNotFit, InputError, StudioError, Unsupported
from studio.events import Finished, Phase, Progress
from studio.tokenizer.comparing import Comparison, compare
from studio.tokenizer.gathering import Gathered, gather, written
from studio.tokenizer.reading import load_tokenizer
from studio.tokenizer.recipe import Kind, Recipe
from studio.tokenizer.samples import Sample

_BEAT_SECONDS = 0.2
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Learned:
    """A tokenizer that was trained, and what came of it."""

    folder: str
    asked: int
    """Tokens at most, as in the recipe."""
    vocabulary: int
    """Tokens that there are, the special ones included."""
    texts: int
    characters: int
    """Read to learn from; without those that were held out."""
    bytes: int
    seconds: float
    """From the first text read to the folder written."""
    weight: int
    """Bytes of the folder."""
    held_out: int
    """Pieces of text, of up to 1,000 characters each, that were kept out of the training."""
    came_back: int
    """How many of them are the same text after having been turned into tokens and back."""
    warnings: tuple[str, ...]
    comparison: Comparison | None
    """Beside the tokenizer that it was held against, on the pieces held out."""


def learn(
    texts: Iterable[str], recipe: Recipe, folder: Path, *, against: Path | None = None
) -> Generator[Progress | Finished[Learned], None, None]:
    """Train a tokenizer and write it to the new folder `folder`, where `AutoTokenizer.from_pretrained` finds it.

    A twentieth of the texts is held out; with `against`, the folder of another tokenizer, both are compared on it.
    Closing the generator stops it, and what is not complete by then is deleted. Raises InputError, Unsupported or
    DoesNotFit, and Damaged where that other tokenizer cannot be read.
    """
    with written(folder):
        if folder.exists() or not folder.name:
            raise InputError(f"{folder} exists already.", "Choose a folder that is not there yet.")
    current = None if against is None else load_tokenizer(against)
    begin = time.monotonic()
    part = folder.with_name(folder.name + ".part")
    with written(folder):
        shutil.rmtree(part, ignore_errors=True)  # of a training that was killed
        part.mkdir(parents=True)
    try:
        gathered = yield from gather(texts, part / "texts.jsonl")
        with written(folder):
            (part / "held_out.json").write_text(json.dumps(gathered.held_out), encoding="utf-8")
        report = yield from _follow(recipe, gathered, part)
        with written(folder):
            _sync(part / "tokenizer")
            (part / "tokenizer").rename(folder)
            _sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    seconds = time.monotonic() - begin
    comparison = None
    if current is not None and gathered.held_out:
        both = {"learned": load_tokenizer(folder), "current": current}
        comparison = yield from _compared(both, gathered.held_out)
    yield Finished(
        Learned(
            folder=str(folder),
            asked=recipe.vocabulary_size,
            vocabulary=report["vocabulary"],
            texts=gathered.texts,
            characters=gathered.characters,
            bytes=gathered.bytes,
            seconds=seconds,
            weight=sum(file.stat().st_size for file in folder.iterdir()),
            held_out=len(gathered.held_out),
            came_back=report["came_back"],
            warnings=_warnings(recipe, report),
            comparison=comparison,
        )
    )


def _compared(tokenizers: dict[str, Any], texts: list[str]) -> Generator[Progress, None, Comparison]:
    for event in compare(tokenizers, [Sample("held-out texts", tuple(texts))]):
        if isinstance(event, Finished):
            return event.result
        yield event
    raise AssertionError("a comparison ends with its result")


def _follow(recipe: Recipe, gathered: Gathered, part: Path) -> Generator[Progress, None, dict[str, Any]]:
    """Run the child to its end. Raises what it reports."""
    order = {
        "recipe": asdict(recipe),
        "texts": str(part / "texts.jsonl"),
        "folder": str(part / "tokenizer"),
        "samples": str(part / "held_out.json"),
    }
    latest = Progress(Phase.COUNT_WORDS, 0, gathered.bytes)
    report: dict[str, Any] = {}
    with child.working("studio.tokenizer.fitting", order, env=child.offline_env(), complained=_complained) as messages:
        while True:
            yield latest
            try:
                message = messages.get(timeout=_BEAT_SECONDS)
            except Empty:
                continue
            match message:
                case {"fed": int(fed)}:
                    latest = Progress(Phase.COUNT_WORDS, fed, gathered.bytes)
                case {"computing": True}:
                    latest = Progress(Phase.LEARN)
                case {"fitted": fitted, "occurrences": occurrences}:
                    report = {**fitted, "occurrences": occurrences}
                case {"finished": True}:
                    return report
                case {"error": kind, "message": str(said), "hint": str(hint)}:
                    raise getattr(errors, kind)(said, hint)
                case {"exit": code}:
                    raise _broke_off(recipe, code)


def _broke_off(recipe: Recipe, code: int) -> StudioError:
    if code == -9:
        return DoesNotFit(
            "The training was killed, most likely because the memory ran out.",
            "Close other programs, or give less text.",
        )
    return Unsupported(
        f"The training broke off: its process ended with {code}.",
        f"Give more text, or choose another kind than {recipe.kind}.",
    )


def _warnings(recipe: Recipe, report: dict[str, Any]) -> tuple[str, ...]:
    found = [
        f"{token} occurs in the text, {count:,}×. The tokenizer reads it as the special token, also where a person"
        " writes it."
        for token, count in report["occurrences"].items()
    ]
    if report["vocabulary"] < recipe.vocabulary_size:
        pairs = f", as no pair of tokens that occurs {recipe.minimum_frequency or 2} times was left"
        found.append(
            f"The vocabulary has {report['vocabulary']:,} tokens instead of {recipe.vocabulary_size:,}: there was not"
            f" enough text for more{'' if recipe.kind == Kind.UNIGRAM else pairs}."
        )
    return tuple(found)


def _sync(folder: Path) -> None:
    """Wait until the disk has a folder and its files: a rename must not come before what it names."""
    for path in (*(file for file in folder.iterdir() if file.is_file()), folder):
        sync(path)


def _complained(words: str) -> None:
    _LOG.debug("The training said: %s", words)
