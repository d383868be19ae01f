"""What a model would take in memory, before anything is downloaded: in closed form, and by a dry run on request."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from studio import compute, hub, inspection, memory
from studio.checkpoint import FLOATS, parse_json, read_json
from studio.errors import InputError, Unsupported
from studio.events import Finished, Phase, Progress, outcome
from studio.heartbeat import heartbeat
from studio.inspection import Inspection
from studio.jobs.fetching import folder_here, peek
from studio.jobs.shelf import Shelf
from studio.memory import (
    THIS,
    Correction,
    Device,
    DiskNeeds,
    Estimate,
    Facts,
    Fitting,
    Point,
    Question,
    Record,
    Stored,
)
from studio.memory.dry_run import dry_run
from studio.memory.hardware import Verdict
from studio.models import ModelRef
from studio.settings import Settings

Result = TypeVar("Result")

KEPT = 32
"""Facts that stay; those of a large model take some 100 kB."""
APART = 0.10
"""How far the closed form may be from the dry run before it is said; the dry run is trusted either way."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What the question comes to on one device."""

    device: str
    """Its key; `this` is the machine as it is measured now."""
    name: str
    peak: int
    """Bytes at the fullest moment there: a device may have to unpack what another computes in."""
    usable: int
    verdict: Verdict
    measured: bool
    """Its size was asked of the device, or seen in a message of PyTorch; else it is from a data sheet."""
    correction: Correction | None = None
    """What the verdict counts beside the peak, as the record of this machine tells; None where it tells nothing."""

    @property
    def corrected(self) -> int:
        """The peak with what was learned."""
        return self.peak + (self.correction.bytes if self.correction else 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What would fit the device of the question. Of the closed form alone."""

    context: int
    """The longest that fits, all else as it is; 0 where not even one token does."""
    batch: int
    fitting: Fitting


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that is said to a question about memory."""

    question: Question
    model: str
    """What was looked at, of the Hub with its commit."""
    estimate: Estimate
    """The one to trust: of the dry run, where there was one."""
    closed_form: Estimate | None
    """None where the formula has no answer."""
    no_closed_form: str
    """Why."""
    dry_run: Estimate | None
    no_dry_run: str
    """Why there is none, where one was asked for."""
    difference: float | None
    """How far the closed form is from the dry run, as a share of the latter; None without both."""
    fits: tuple[Fit, ...]
    """This machine first."""
    limits: Limits | None
    """None where the question names no device."""
    disk: DiskNeeds | None
    """None where nothing can be trained."""
    facts: Facts
    over_context: tuple[Point, ...]
    """The peak over the context, all else as it is. Of the closed form, as the next; empty where it has no answer."""
    over_batch: tuple[Point, ...]

    @property
    def is_apart(self) -> bool:
        """Whether the two engines differ by more than ten percent."""
        return self.difference is not None and abs(self.difference) > APART


@dataclass(frozen=True, slots=True)
class Known:
    """A model without its weights, and where it is from."""

    facts: Facts
    model: str
    download: int
    """Bytes of weights that are not on this machine yet."""


_Key = tuple[str, str | float]
_SHELF: Shelf[tuple[str, str], _Key, Known] = Shelf(KEPT)


def facts_of(model_text: str, *, token: hub.Token) -> Generator[Progress, None, Facts]:
    """What a model is made of: the starter, a folder, a name of the Hub, or numbers typed by hand (8B, 32 layers).

    No weights are downloaded. At once where it is known. Raises Unsupported for what transformers does not know and
    that has no headers either, InputError for numbers that make no model, or a HubError.
    """
    return (yield from known_of(model_text, token=token)).facts


def known_of(model_text: str, *, token: hub.Token) -> Generator[Progress, None, Known]:
    """The same with where it is from, and what is still to be fetched. As `facts_of`."""
    if memory.is_typed(model_text):
        return (yield from _typed(model_text.strip()))
    ref = ModelRef.parse(model_text)
    if folder := folder_here(ref):
        return (yield from _of_folder(str(ref), folder, 0))
    if (place := _SHELF.shown(ref, token)) and (known := _SHELF.find(place)):
        return known
    seen = yield from peek(ref, token=token)
    place = (seen.ref.name, seen.ref.revision)
    _SHELF.show(ref, token, place)
    if known := _SHELF.find(place):
        return known
    if seen.folder:
        known = yield from _of_folder(str(seen.ref), seen.folder, 0)
    else:
        inside = inspection.inspect_peek(seen)
        here = hub.cached(seen.ref, shared=Settings.from_env().shared) is not None
        contents = dict(seen.contents)
        _refuse(inside, has_config="config.json" in contents)
        config = parse_json("config.json", contents["config.json"]) if "config.json" in contents else {}
        known = yield from _read(config, inside, str(seen.ref), 0 if here else inside.bytes)
    _SHELF.put(place, known)
    return known


def estimate(
    question: Question, *, token: hub.Token, dry: bool = False
) -> Generator[Progress | Finished[Answer], None, None]:
    """Answer a question about memory. The last event is `Finished(Answer)`.

    In closed form that takes milliseconds once the model is known; `dry` carries out the real step on tensors without
    content as well, in a process of its own, which takes seconds and is trusted. Raises Unsupported where neither
    has an answer, InputError where the question makes no sense, or a HubError.
    """
    known = yield from known_of(question.model, token=token)
    yield from compute.imports()
    rehearsed, why = None, ""
    if dry:
        try:
            rehearsed = yield from outcome(_rehearse(question, known.facts))
        except Unsupported as error:
            why = str(error)
    learned = record().correction(question.task, compute.machine().name)
    yield Finished(answer(known, question, rehearsed, no_dry_run=why, learned=learned))


def record() -> Record:
    """How right the estimates were on this machine. Nothing where visitors share it: it would tell of others."""
    try:
        settings = Settings.from_env()
    except InputError:
        return Record((), 0)  # a port that is none is the page's concern
    return Record((), 0) if settings.shared else memory.summary(settings.workspace)


def answer(
    known: Known,
    question: Question,
    rehearsed: Estimate | None = None,
    *,
    no_dry_run: str = "",
    learned: Correction | None = None,
) -> Answer:
    """The closed form beside a dry run, where there was one, and what follows. Raises Unsupported without either.

    `learned` is what this machine holds beyond every estimate, as its record tells.
    """
    facts = known.facts
    places = _devices(learned)
    target = (places.get(question.device) or memory.device(question.device)) if question.device else None
    closed, why = None, ""
    try:
        closed = memory.estimate(facts, question, target)
    except Unsupported as error:
        if rehearsed is None:
            raise
        why = str(error)
    # A dry run is of no device in particular, and so is what it is held against: a CPU has no workspace.
    plain = memory.estimate(facts, question) if closed and rehearsed else closed
    trusted = rehearsed or closed
    assert trusted
    limits = None
    if target and closed:
        longest, widest = (memory.largest(facts, question, target, axis) for axis in ("context", "batch"))
        limits = Limits(longest, widest, memory.make_fit(facts, question, target))
    return Answer(
        question=question,
        model=known.model,
        estimate=trusted,
        closed_form=closed,
        no_closed_form=why,
        dry_run=rehearsed,
        no_dry_run=no_dry_run,
        difference=plain.peak / rehearsed.peak - 1 if plain and rehearsed else None,
        fits=tuple(
            replace(_fit(facts, question, plain, rehearsed, place), correction=learned if key == THIS else None)
            for key, place in places.items()
        ),
        limits=limits,
        disk=_disk(known, question),
        facts=facts,
        over_context=memory.curve(facts, question, "context", _around(question.context, 2048), target)
        if closed
        else (),
        over_batch=memory.curve(facts, question, "batch", _around(question.batch, 8), target) if closed else (),
    )


def _around(value: int, least: int) -> list[int]:
    """Where a curve is drawn: powers of two up to twice a value and more, and the value itself."""
    most = min(2 * max(value, least), 65_536 if least == 8 else 16_777_216)
    first = max(1, most >> 7)
    return sorted({value, *(1 << n for n in range(first.bit_length() - 1, most.bit_length()))})


def _rehearse(question: Question, facts: Facts) -> Generator[Progress | Finished[Estimate], None, None]:
    """The dry run: the one place that knows it."""
    if facts.covers == "headers":
        raise Unsupported("There is no architecture to carry out a step of.", "Its weights as stored are all there is.")
    yield from dry_run(question, dict(facts.config))


def _devices(learned: Correction | None) -> dict[str, Device]:
    here = memory.device(THIS)
    return {THIS: replace(here, learned=learned.bytes if learned else 0), **memory.DEVICES}


def _fit(facts: Facts, question: Question, closed: Estimate | None, rehearsed: Estimate | None, place: Device) -> Fit:
    """What it comes to on a device. There the dry run differs as the closed form does: by workspace and unpacking."""
    peak = 0
    if closed:
        peak = memory.estimate(facts, question, place).peak
    if rehearsed:
        peak = rehearsed.peak + (peak - closed.peak if closed else 0)
    return Fit(place.key, place.name, peak, place.usable, memory.fit(peak, place), not place.nominal)


def _disk(known: Known, question: Question) -> DiskNeeds | None:
    try:
        return memory.disk_needs(known.facts, question, download=known.download)
    except Unsupported:
        return None


def _typed(text: str) -> Generator[Progress, None, Known]:
    key = ("typed", text)
    if known := _SHELF.find(key):
        return known
    config, notes = memory.typed_config(text)
    yield from compute.imports()
    facts = yield from _working(partial(_typed_facts, config, notes))
    known = Known(facts, text, 0)
    _SHELF.put(key, known)
    return known


def _typed_facts(config: dict[str, Any], notes: tuple[memory.Note, ...]) -> Facts:
    facts = memory.read_facts(config)
    return replace(facts, notes=(*notes, *facts.notes))


def _of_folder(model: str, folder: Path, download: int) -> Generator[Progress, None, Known]:
    if folder.is_file():
        raise Unsupported(
            "The memory that a GGUF file takes is not estimated here.",
            "Load says what it takes; or choose the model that it was made from.",
        )
    key = (str(folder), _changed(folder))
    if known := _SHELF.find(key):
        return known
    inside = yield from _working(partial(inspection.inspect_folder, folder))
    has_config = (folder / "config.json").is_file()
    _refuse(inside, has_config=has_config)
    known = yield from _read(read_json(folder / "config.json") if has_config else {}, inside, model, download)
    _SHELF.put(key, known)
    return known


def _refuse(inside: Inspection, *, has_config: bool) -> None:
    """Raise Unsupported for what is no model: nothing tells what it is made of."""
    if has_config:
        return
    if any(file.name == "adapter_config.json" for file in inside.files):
        raise Unsupported(f"{inside.model} is an adapter.", "Choose the model that it was made for.")
    if not inside.tensors:
        worst = inside.findings[0]
        raise Unsupported(worst.message, worst.hint)


def _read(config: dict[str, Any], inside: Inspection, model: str, download: int) -> Generator[Progress, None, Known]:
    yield from compute.imports()
    facts = yield from _working(partial(memory.read_facts, config, _stored(inside)))
    return Known(facts, model, download)


def _stored(inside: Inspection) -> Stored | None:
    """What the headers say; None where there are none to read."""
    if not inside.tensors:
        return None
    floats = sum(prod(tensor.shape) for tensor in inside.tensors if tensor.dtype in FLOATS)
    others = sum(tensor.bytes for tensor in inside.tensors if tensor.dtype not in FLOATS)
    return Stored(floats, inside.bytes, 2 * floats + others)


def _working(work: Callable[[], Result]) -> Generator[Progress, None, Result]:
    """Work of a second or so on a thread."""
    return (yield from heartbeat(lambda _say, _stop: work(), lambda _: [Progress(Phase.RESOLVE)], every=0.2))


def _changed(folder: Path) -> float:
    """When what the facts are read from was last written."""
    files = [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.index.json")]
    return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)
