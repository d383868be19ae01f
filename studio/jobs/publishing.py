"""What is known of a thing that is to be published, collected from the records of runs, merges and models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from studio import hub, keeping, merges, merging, publishing, runs
from studio.checkpoint import read_json
from studio.errors import HubError, InputError, StudioError
from studio.evaluation import EXACT, Meter
from studio.events import Finished
from studio.hub import Outgoing
from studio.jobs.fetching import folder_here
from studio.jobs.weighing import weighed
from studio.merges.adapters import made
from studio.models import STARTER, DatasetRef, ModelRef
from studio.publishing import CURVE, Contents, Dataset, Figure, Kind, Lineage, Record, Sample, Thing
from studio.runs import Run, Told
from studio.runs.plain import as_plain
from studio.settings import Settings
from studio.training import Began, Learnt, Sampled, TrainingSettings

_TOLD = ("method", "rank", "alpha", "targets", "learning_rate", "epochs", "batch_tokens", "schedule", "seed")
"""Settings that a card always has; the others where they are not as usual."""
_SAMPLES, _LONGEST = 3, 600


@dataclass(frozen=True, slots=True)
class Offer:
    """What would be published, before anything is sent."""

    thing: Thing
    record: Record
    contents: Contents
    card: str
    licence: str
    cautions: tuple[str, ...]
    """What to know, each a sentence."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Something of the workspace that can be published."""

    label: str
    folder: Path


def choices() -> tuple[Choice, ...]:
    """What the workspace holds, the newest of each first; nothing for visitors, who own none of it."""
    settings = Settings.from_env()
    if settings.shared:
        return ()
    return tuple(_choices(settings.workspace))


def _choices(workspace: Path) -> Iterator[Choice]:
    yield from (Choice(f"Adapter: {each.label}", each.folder) for each in made())
    for merge in merges.listing():
        outcome = merge.outcome
        if outcome and outcome.passed and outcome.folder.is_dir():
            yield Choice(f"Merged model: {outcome.folder.name}", outcome.folder)
    yield from (
        Choice(f"Model: {each.name} ({each.precision})", each.folder) for each in keeping.kept_models(workspace)
    )
    there = [run for run in runs.listing() if isinstance(run, Run)]
    yield from (
        Choice(f"Model: {run.document.name} ({run.id[:6]})", run.folder / "model")
        for run in there
        if (run.folder / "model" / "config.json").is_file()
    )
    yield from (Choice(f"Tokenizer: {folder.name}", folder) for folder in keeping.kept_tokenizers(workspace))
    yield from (Choice(f"Record of the run: {run.document.name} ({run.id[:6]})", run.folder) for run in there)


def offer(folder: Path, repo: str, *, licence: str = "", base: str = "", token: hub.Token) -> Offer:
    """Look a thing over: what it is, which files, its licence and its card. The Hub is asked for the card of the base.

    `base` is the Hub's name of its base where the record knows none. Raises InputError, Unsupported, PickleOnly or
    Damaged where it cannot be published as it is.
    """
    settings = Settings.from_env()
    thing = publishing.look(folder, inside=settings.workspace if settings.shared else None)
    record, cautions = _record(thing, _base_given(base), token)
    under = publishing.check_licence(record.base.license, licence)
    if licence and not hub.knows_licence(under):
        raise InputError(f"{licence!r} is no licence that the Hub knows.", "Write apache-2.0 or mit, for example.")
    places = ((str(settings.workspace), "workspace"), (str(Path.home()), "~"))
    contents = publishing.contents(thing, record.base.repo or record.base.called, places)
    if picture := publishing.curve(record):
        drawn = Outgoing(CURVE, len(picture.encode()), text=picture)
        contents = Contents((*contents.files, drawn), contents.left_out)
    if record.base.called and not record.base.license:
        cautions = (*cautions, "The base says no licence: ask its authors before others see this.")
    card = publishing.draw(thing.kind, record, licence=under, repo=repo)
    return Offer(thing, record, contents, card, under, cautions)


def check_card(card: str, offered: Offer, *, token: hub.Token) -> None:
    """Raise InputError for a card that the Hub would not take, that sets the thing freer than its base allows, or that
    holds a secret; and where the very token is in one of the texts."""
    if faults := hub.card_faults(card):
        raise InputError(faults[0], "Change the card, or draw it anew.")
    publishing.check_licence(offered.record.base.license, hub.card_licence(card))
    publishing.check_text("The card", card.encode())
    texts = [card, *(file.text for file in offered.contents.files if file.text)]
    if token and any(token in text for text in texts):
        raise InputError("The token that this is published with is in one of its texts.", "Take it out.")


def _base_given(text: str) -> ModelRef | None:
    if not text.strip():
        return None
    ref = ModelRef.parse(text)
    if ref.where != "hub":
        raise InputError("The base in a card is a name on the Hub, not a place of this machine.", "Write owner/name.")
    return ref


# The record of each kind


def _record(thing: Thing, base: ModelRef | None, token: hub.Token) -> tuple[Record, tuple[str, ...]]:
    folder = thing.folder
    run = _run_of(thing)
    merge = next((each for each in merges_here() if each.outcome and each.outcome.folder.resolve() == folder), None)
    if merge and merge.order.run:
        run = _found(merge.order.run)
    ref = base or (merge.order.base if merge else run.document.run.plan.model if run else _named_base(thing))
    lineage, cautions = _lineage(ref, token)
    told: dict[str, Any] = _of_run(run) if run else {"name": folder.name}
    if thing.kind is Kind.MERGED:
        told |= {"name": folder.name, "proof": merging.read_proof(folder), "measured": False}
        told["took"] = (*told.get("took", ()), *_merging_took(merge))
    if thing.kind is Kind.QUANTIZED:
        told |= _of_kept(folder)
    told |= {"base": lineage, **_tokenizer_of(thing, ref)}
    return Record(**told), cautions


def merges_here() -> tuple[merges.Merge, ...]:
    """The merges of the workspace; none for visitors."""
    return () if Settings.from_env().shared else merges.listing()


def _found(id_: str) -> Run | None:
    try:
        return runs.of(id_)
    except StudioError:
        return None


def _run_of(thing: Thing) -> Run | None:
    """The run that a folder came of."""
    folder = thing.folder if thing.kind is Kind.RUN else thing.folder.parent
    try:
        return runs.at(folder) if (folder / "run.yaml").is_file() else None
    except StudioError:
        return None


def _named_base(thing: Thing) -> ModelRef | None:
    """The base, as the files of a thing name it."""
    names = {
        Kind.ADAPTER: ("adapter_config.json", "base_model_name_or_path"),
        Kind.MERGED: ("merge.json", "base"),
        Kind.QUANTIZED: (keeping.REPORT, "model"),
    }
    file, field = names.get(thing.kind, ("", ""))
    if not file or not (thing.folder / file).is_file():
        return None
    said = str(read_json(thing.folder / file).get(field) or "")
    if said == STARTER.name:
        return STARTER
    try:
        # A name without an owner is more likely the last part of a path.
        return ModelRef.parse(said) if "/" in said else ModelRef("folder", said) if said else None
    except InputError:
        return None


def _lineage(ref: ModelRef | None, token: hub.Token) -> tuple[Lineage, tuple[str, ...]]:
    if ref is None:
        return Lineage(), ()
    if ref.where != "hub":
        folder = folder_here(ref) if _is_here(ref) else None
        card = hub.read_card(folder) if folder else hub.ModelCard()
        called = ref.name if ref.where == "starter" else Path(ref.name).name
        return Lineage(called=called, license=card.license, languages=card.languages), ()
    cautions: tuple[str, ...] = ()
    try:
        card = hub.card(ref, token=token)
    except HubError as error:
        here = hub.cached(ref, shared=Settings.from_env().shared)
        card = hub.read_card(here) if here else hub.ModelCard()
        if not card.license:
            cautions = (f"The licence of the base could not be looked up: {error.message}",)
    return Lineage(ref.name, ref.revision, ref.name, card.license, card.languages), cautions


def _tokenizer_of(thing: Thing, ref: ModelRef | None) -> dict[str, Any]:
    own = thing.folder / "tokenizer.json"
    where: Path | None = thing.folder
    if not own.is_file():
        here = ref and ref.where == "hub" and hub.cached(ref, shared=Settings.from_env().shared, part="tokenizer")
        where = here or (folder_here(ref) if ref and ref.where != "hub" and _is_here(ref) else None)
    return {"has_tokenizer": own.is_file(), "has_template": bool(where and (where / "chat_template.jinja").is_file())}


def _is_here(ref: ModelRef) -> bool:
    """Visitors name no folder of this machine, not even by way of an adapter."""
    return ref.where == "starter" or (not Settings.from_env().shared and Path(ref.name).is_dir())


def _merging_took(merge: merges.Merge | None) -> Iterator[tuple[str, str]]:
    if merge and merge.outcome:
        outcome = merge.outcome
        yield "Merge", f"{outcome.tensors:,} tensors, {outcome.changed:,} of them changed, into {merge.order.dtype}"
        yield "Time of the merge", f"{outcome.seconds:.1f} s"
        yield "Memory of the merge", _size(outcome.peak)


def _of_kept(folder: Path) -> dict[str, Any]:
    if not (folder / keeping.REPORT).is_file():
        return {}
    said = read_json(folder / keeping.REPORT)
    sizes = (("Weights before", _size(int(said.get("before", 0)))), ("Weights now", _size(int(said.get("after", 0)))))
    return {"settings": (("precision", str(said.get("precision", ""))),), "took": sizes}


# A run


def _of_run(run: Run) -> dict[str, Any]:
    events = runs.events(run.folder)
    curve = runs.curve(run.folder)
    learnt = _learnt(events)
    meter = weighed(run.folder)
    data = tuple(_dataset(source.name) for source in run.document.run.data)
    precision = run.document.run.plan.precision
    sign = f"It learnt on a base held in {precision}; on one in 16 bit its replies differ a little."
    return {
        "name": run.document.name,
        "datasets": data,
        "settings": tuple(_settings(run)),
        "versions": run.document.versions,
        "took": tuple(_took(events, learnt)),
        "figures": tuple(_figures(meter, data[0].name, curve.held_out, learnt)),
        "samples": tuple(_samples(meter, events)),
        "curve": curve.learnt,
        "held_out": curve.held_out,
        "sign": sign if precision and precision.quantizes else "",
    }


def _learnt(events: list[Told]) -> Learnt | None:
    for told in reversed(events):
        if isinstance(told.event, Finished) and isinstance(told.event.result, Learnt):
            return told.event.result
    return None


def _dataset(name: str) -> Dataset:
    try:
        ref = DatasetRef.parse(name)
    except InputError:
        return Dataset(name, on_hub=False)  # a file that was uploaded for the run
    if ref.where == "hub":
        return Dataset(ref.name, on_hub=True, revision=ref.revision if ref.revision != "main" else "")
    return Dataset(Path(ref.name).name, on_hub=False)


def _settings(run: Run) -> Iterator[tuple[str, str]]:
    settings, usual = run.document.run.settings, TrainingSettings()
    if precision := run.document.run.plan.precision:
        yield "precision", str(precision)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value != "" and field.name != "adapter" and (field.name in _TOLD or value != getattr(usual, field.name)):
            yield field.name, json.dumps(as_plain(value)).strip('"')


def _took(events: list[Told], learnt: Learnt | None) -> Iterator[tuple[str, str]]:
    began = next((told.event for told in events if isinstance(told.event, Began)), None)
    if began:
        yield "Device", f"{began.device}, computed in {began.compute}"
        yield "Rows", f"{began.rows:,} to learn from, {began.held_out:,} held out"
    if learnt:
        yield "Trained parameters", f"{learnt.trainable:,}"
        yield "Steps", f"{learnt.steps:,}, {learnt.tokens:,} tokens"
        yield "Time", f"{learnt.seconds:.1f} s"
        yield "Memory at the peak", _size(learnt.peak)


def _figures(
    meter: Meter | None, on: str, held_out: tuple[tuple[int, float], ...], learnt: Learnt | None
) -> Iterator[Figure]:
    if meter is None:
        if learnt and learnt.held_out_loss is not None:
            before = held_out[0][1] if held_out and held_out[0][0] == 0 else None
            yield Figure("Held-out loss", "loss", before, learnt.held_out_loss, on)
        return
    if meter.after.loss is not None:
        yield Figure("Held-out loss", "loss", meter.before.loss, meter.after.loss, on)
    for change in (*meter.learnt, *meter.kept):
        metric = "exact_match" if change.name == EXACT else "accuracy"
        yield Figure(change.name.capitalize(), metric, change.before, change.after, on, change.of)
    yield Figure(
        "Perplexity of a general text", "perplexity", meter.before.perplexity, meter.after.perplexity, "a general text"
    )


def _samples(meter: Meter | None, events: list[Told]) -> Iterator[Sample]:
    if meter:
        pairs = [(a.prompt, a.reply, b.reply) for a, b in zip(meter.before.said, meter.after.said, strict=False)]
    else:
        said = [told.event for told in events if isinstance(told.event, Sampled)]
        first = {each.prompt: each.reply for each in reversed(said) if each.step == 0}
        last = {each.prompt: each.reply for each in said}
        pairs = [(prompt, first[prompt], last[prompt]) for prompt in first]
    for prompt, before, after in pairs[:_SAMPLES]:
        yield Sample(prompt, before[:_LONGEST], after[:_LONGEST])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
