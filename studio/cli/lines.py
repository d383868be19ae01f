"""Results as lines of text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.inspection import Inspection
    from studio.jobs import Answer, Tokenization
    from studio.loading import Resident
    from studio.memory import Accuracy, Estimate


def tokenized(found: Tokenization, *, stages: bool) -> Iterator[str]:
    """A text and its tokens, a token a line; with `stages`, what each stage made of it first."""
    counts = found.counts
    yield f"{found.model}: {counts.tokens:,} tokens, {counts.characters:,} characters, {counts.bytes:,} bytes"
    if stages:
        yield from _staged(found)
    rows = (
        [
            f"{piece.index}",
            f"{piece.id}",
            "" if piece.start is None else f"{piece.start}-{piece.end}",
            repr(piece.token),
            "" if piece.text == piece.token else repr(piece.text),
            "" if piece.kind == "text" else piece.kind,
        ]
        for piece in found.pieces
    )
    yield from table("Tokens", rows)
    if found.difference:
        yield from ("", f"The ids give another text. {found.difference.words}")
    if found.not_covered:
        yield from ("", found.not_covered)
    if found.chat:
        yield from ("", f"As the first message of a chat it is {len(found.chat.ids):,} tokens:", repr(found.chat.text))
        if found.chat.end_of_turn and found.chat.end_of_turn.consequence:
            yield found.chat.end_of_turn.consequence
    else:
        yield from ("", found.no_chat)


def _staged(found: Tokenization) -> Iterator[str]:
    way = found.stages
    yield f"{way.identity.name}, {way.identity.written_in}, {way.identity.vocabulary:,} tokens"
    for normalized in way.normalizers:
        yield f"normalized by {normalized.step.name}: {normalized.after!r}"
    for cut in way.pre_tokenizers:
        yield f"cut by {cut.step.name}: {' '.join(repr(part.text) for part in cut.parts)}"
    if way.model:
        yield f"model: {way.model.name}"
    for addition in way.additions:
        yield f"put in at {addition.index}: {addition.token!r}"
    yield from way.notes


def loaded(resident: Resident, *, report: bool) -> Iterator[str]:
    """A model that was in memory, line by line."""
    from studio import memory

    yield f"{resident.plan.model} in {resident.plan.precision}"
    yield f"{resident.parameters:,} weights, loaded in {resident.seconds:.1f} s"
    off = 100 * (resident.weights - resident.estimated) / max(1, resident.estimated)
    yield f"measured {size(resident.weights)}, estimated {size(resident.estimated)}, {off:+.2f} %"
    if not report:
        return
    for title, sizes in (("Dtypes", memory.by_dtype), ("Devices", memory.by_device)):
        yield from table(title, ([name, size(bytes_)] for name, bytes_ in sizes(resident.modules).items()))
    kinds: dict[tuple[str, str, str], list[int]] = {}
    for module in resident.modules:
        kinds.setdefault((module.kind, module.dtype, module.note), []).append(module.bytes)
    rows = ([of[0], size(sum(sizes)), f"{len(sizes)}x", *of[1:]] for of, sizes in kinds.items())
    yield from table("Modules", rows)


def inspected(found: Inspection, *, tensors: bool) -> Iterator[str]:
    """An inspection line by line."""
    facts, how, text = found.architecture, found.quantization, found.tokenizer
    yield found.model + (f" at {found.commit}" if found.commit else "")
    told = [facts.class_name or facts.model_type or "no architecture is named"]
    numbers = {"layers": facts.layers, "hidden": facts.hidden, "heads": facts.heads, "kv heads": facts.kv_heads}
    numbers |= {"tokens": facts.vocabulary, "context": facts.context}
    yield ", ".join([*told, *(f"{value:,} {name}" for name, value in numbers.items() if value)])
    yield f"{found.parameters:,} weights, {size(found.bytes)}" + (f", quantized with {how.method}" if how else "")
    yield f"tokenizer: {('fast' if text.fast else 'slow') if text.present else 'none'}, chat template: " + (
        text.chat_template or "none"
    )
    yield from table("Files", ([file.name, size(file.bytes), file.kind] for file in found.files))
    yield from table("Dtypes", ([of.dtype, size(of.bytes), f"{of.weights:,} weights"] for of in found.dtypes))
    groups = (
        [
            group.name,
            size(group.bytes) + (" each" if len(group.layers) > 1 else ""),
            f"{group.parameters:,} weights",
            " ".join(group.dtypes),
        ]
        for group in found.groups
    )
    yield from table("Groups", groups)
    listed = ([of.name, size(of.bytes), of.dtype, str(list(of.shape)), of.file] for of in found.tensors)
    yield from table("Tensors", listed if tensors else ())
    if found.findings:
        yield from ("", "Findings")
    for finding in found.findings:
        yield f"  {finding.severity:<8} {finding.message}"
        yield f"  {'':<8} {finding.hint}"


def estimated(found: Answer) -> Iterator[str]:
    """What a model takes in memory: the peak by part, the devices, what would fit the one that was asked for."""
    answer = found.estimate
    yield f"{found.model}: {answer.parameters:,} weights, {answer.trainable:,} trained"
    yield f"{size(answer.peak)} at the peak, {answer.moment}, by the {answer.engine}"
    if answer.offloaded:
        yield f"{size(answer.offloaded)} more lie in main memory"
    if found.difference is not None:
        yield f"the closed form is {100 * found.difference:+.1f} % off the dry run, which is trusted"
    yield from filter(None, (found.no_closed_form, found.no_dry_run))
    yield from table("Parts", ([part.name, size(part.bytes)] for part in answer.parts))
    yield from table("Moments", ([moment.name, size(moment.bytes)] for moment in answer.moments))
    asked = found.question.device
    fits = [fit for fit in found.fits if not asked or fit.device == asked]
    rows = ([fit.device, size(fit.usable), fit.verdict, f"{size(fit.corrected)} of {fit.name}"] for fit in fits)
    yield from table("Devices", rows)
    for fit in fits:
        if learned := fit.correction:
            kinds = f"{learned.entries} of the last {learned.entries} {learned.work}s"
            more = f"{size(abs(learned.bytes))} {'more' if learned.bytes > 0 else 'less'} than estimated"
            yield f"  {fit.device} is corrected from {size(fit.peak)}: it held {more} in {kinds}"
    yield from _limited(found)
    if found.disk and found.disk.total:
        parts = ("download", "adapter", "merged", "checkpoints")
        sizes = ((name, getattr(found.disk, name)) for name in parts)
        yield from table("Disk", ([name, size(count)] for name, count in sizes if count))
    yield from _noted(answer)


def _limited(found: Answer) -> Iterator[str]:
    if found.limits is None:
        return
    fitting = found.limits.fitting
    longest, widest = found.limits.context, found.limits.batch
    enough = f"All else as it is, {longest:,} tokens of context fit, or a batch of {widest:,}."
    yield from ("", enough if longest else "However short the context is, it does not fit as it is.")
    if fitting.changes:
        yield f"By the closed form, it fits {fitting.device} with {size(fitting.estimate.peak)} at the peak after"
        for change in fitting.changes:
            values = ", ".join(f"{name} {value}" for name, value in change.values)
            yield f"  {values}: saves {size(change.saved)}. {change.price}"
    elif fitting.verdict in ("probably not", "no"):
        yield "No small set of changes makes it fit."


def _noted(answer: Estimate) -> Iterator[str]:
    if answer.notes:
        yield from ("", "Notes")
    for note in answer.notes:
        yield f"  {note.severity:<8} {note.message}"


def remembered(accuracies: Iterable[Accuracy]) -> Iterator[str]:
    """How right the estimates were on this machine; nothing where none was kept."""
    accuracies = tuple(accuracies)
    if accuracies:
        yield from ("", "Estimates so far")
    for of in accuracies:
        count = f"{of.entries:,} {of.work}{'s' if of.entries > 1 else ''} on {of.device}"
        yield f"  {count}, median error {100 * of.median_error:.1f} %, worst {100 * of.worst_error:.1f} %"
        if of.correction:
            more = "more" if of.correction.bytes > 0 else "less"
            held = f"{size(abs(of.correction.bytes))} {more} than predicted"
            yield f"  whatever the model, {held} is held there, as the last {of.correction.entries} tell"


def table(title: str, rows: Iterable[list[str]]) -> Iterator[str]:
    """Aligned columns under a title; nothing where there are no rows."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if rows:
        yield from ("", title)
    for name, size, *rest in rows:
        cells = [cell.ljust(width) for cell, width in zip(rest, widths[2:], strict=True)]
        yield "  ".join(["", name.ljust(widths[0]), size.rjust(widths[1]), *cells]).rstrip()


def size(count: int) -> str:
    """Bytes in a decimal unit."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:,.2f} {unit}"
    return f"{count} bytes"


def safe(line: str) -> str:
    """The line without what could steer a terminal: names and dtypes are whatever the files say."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
