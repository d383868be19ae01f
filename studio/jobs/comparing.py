"""One prompt to a model and to adapters of it, in columns: the same settings and the same seed, one after another."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from studio import adapters, compute, fields, generation, hub
from studio.adapters import Adapter, Attached
from studio.errors import InputError, StudioError
from studio.events import Finished, Phase, Progress, TextDelta, Waiting
from studio.generation import GenerationSettings, Prompt, Reply
from studio.heartbeat import patiently
from studio.jobs.conversing import Refusal
from studio.jobs.fetching import fetch, folder_here
from studio.jobs.merging import adapter_folder
from studio.jobs.model import SESSION
from studio.loading import LoadedModel, LoadPlan
from studio.merges.adapters import named
from studio.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Column:
    """Who answers."""

    adapter: str = ""
    """A run, a folder, or a name of the Hub; the base alone where it is empty."""
    strength: float = field(
        default=1.0,
        metadata={"help": "0 is the base, 1 the adapter as it was trained", "min": 0.0, "max": 1.5, "step": 0.05},
    )

    def __post_init__(self) -> None:
        fields.check(self)


@dataclass(frozen=True, slots=True)
class ComparisonRequest:
    """What all columns are asked, and how. The plan says which base, and how it is held; its adapter is left out."""

    plan: LoadPlan
    columns: tuple[Column, ...]
    prompt: Prompt
    settings: GenerationSettings = field(default_factory=GenerationSettings)

    def __post_init__(self) -> None:
        if not self.columns:
            raise InputError("There is nobody to ask.", "Choose an adapter.")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a column said."""

    reply: Reply
    bytes: int
    """That its adapter took beside the base, measured; 0 for the base, and where it had a model of its own."""
    apart: str
    """Why the base was loaded anew for this column; empty where it was not."""


@dataclass(frozen=True, slots=True)
class InColumn:
    """An event of one column, the first being 0. An Answer or a Refusal is the last one of it."""

    column: int
    event: Progress | Waiting | TextDelta | Answer | Refusal


@dataclass(frozen=True, slots=True)
class _Asked:
    column: int
    adapter: Adapter | None
    strength: float


Comparing = Progress | Waiting | InColumn | Finished[tuple[Answer | Refusal, ...]]
_Answering = Generator[Progress | Waiting | TextDelta | Answer, None, None]


def without_strength(adapter: str) -> str:
    """Why an adapter by name has no strength, as a sentence; empty where it has one, or where it is not here yet."""
    ref, _ = named(adapter)
    folder = folder_here(ref)
    return adapters.no_strength(adapters.read(folder)) if folder else ""


def compare(request: ComparisonRequest, *, token: hub.Token) -> Generator[Comparing, None, None]:
    """Ask every column the same, one after the other. The last event is `Finished`, with what became of each.

    Adapters go on the one base in memory and off again; the few that would change it get one of their own, last. A
    column that cannot answer says why, and the others go on. Without a seed, one is drawn for all.
    """
    base = replace(request.plan, adapter=None)
    if request.settings.seed is None:
        request = replace(request, settings=replace(request.settings, seed=random.getrandbits(32)))
    folder = yield from fetch(base, token=token)
    yield from compute.imports()
    asked: list[_Asked] = []
    ended: dict[int, Answer | Refusal] = {}
    for number, column in enumerate(request.columns):
        try:
            asked.append(_Asked(number, (yield from _found(column, token)), column.strength))
        except StudioError as error:
            ended[number] = Refusal(error.message, error.hint)
            yield InColumn(number, ended[number])
    seconds = 60 * max(1, len(asked))
    yield from compute.run(_compare, replace(request, plan=base), folder, tuple(asked), ended, seconds=seconds)


def _found(column: Column, token: hub.Token) -> Generator[Progress, None, Adapter | None]:
    """The adapter of a column on this machine; None for the base."""
    if not column.adapter:
        return None
    ref, _ = named(column.adapter)
    folder = yield from adapter_folder(ref, token=token)
    adapter = adapters.read(folder)
    if column.strength != 1 and (why := adapters.no_strength(adapter)):
        raise InputError(why, "Leave its strength at 1.")
    return adapter


def _compare(
    request: ComparisonRequest, folder: Path, asked: tuple[_Asked, ...], ended: dict[int, Answer | Refusal]
) -> Iterator[Comparing]:
    later: list[tuple[_Asked, str]] = []
    ended = dict(ended)
    if asked:
        with SESSION.borrow(request.plan, folder, purpose="comparing") as loan:
            loaded = yield from loan
            for each in asked:
                if each.adapter and (why := adapters.apart(each.adapter, loaded.model)):
                    later.append((each, why))
                else:
                    ended[each.column] = yield from _in_column(each, _answer(loaded, each, request))
            del loaded  # or the session could not let go of it
    for each, why in later:
        ended[each.column] = yield from _in_column(each, _answer_apart(each, why, request, folder))
    yield Finished(tuple(ended[number] for number in range(len(request.columns))))


def _in_column(each: _Asked, answering: _Answering) -> Generator[InColumn, None, Answer | Refusal]:
    """The events of a column as such, and how it ended; what went wrong in it is the last one."""
    last: Answer | Refusal | None = None
    try:
        with closing(answering) as events:
            for event in events:
                yield InColumn(each.column, event)
                last = event if isinstance(event, Answer) else None
    except StudioError as error:
        last = Refusal(error.message, error.hint)
        yield InColumn(each.column, last)
    assert last
    return last


def _answer(loaded: LoadedModel, each: _Asked, request: ComparisonRequest) -> _Answering:
    with adapters.unchanged(loaded.model):
        took = 0
        if adapter := each.adapter:
            yield Progress(Phase.ATTACH)
            put = yield from patiently(partial(_attach, loaded, adapter, each.strength), Progress(Phase.ATTACH))
            took, loaded = put.bytes, replace(loaded, model=put.model, tokenizer=_tokenizer(loaded, adapter))
            del put
        yield from _said(loaded, request, took, "")


def _attach(loaded: LoadedModel, adapter: Adapter, strength: float, _stop: Event) -> Attached:
    adapters.check_attachable(adapter, loaded.model)
    return adapters.attach(loaded.model, adapter, strength)


def _tokenizer(loaded: LoadedModel, adapter: Adapter) -> PreTrainedTokenizerBase:
    """That of the adapter where it has one, as when it is loaded with its base."""
    folder = Path(adapter.folder)
    return load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else loaded.tokenizer


def _answer_apart(each: _Asked, why: str, request: ComparisonRequest, folder: Path) -> _Answering:
    assert each.adapter
    plan = replace(request.plan, adapter=Path(each.adapter.folder))
    with SESSION.borrow(plan, folder, purpose="comparing") as loan:
        loaded = yield from loan
        yield from _said(loaded, request, 0, why)


def _said(loaded: LoadedModel, request: ComparisonRequest, took: int, why: str) -> _Answering:
    # Closed before anything is taken off the model: a thread of its own is at work with it.
    with closing(generation.stream(loaded, request.prompt, request.settings)) as events:
        for event in events:
            yield Answer(event.result, took, why) if isinstance(event, Finished) else event
