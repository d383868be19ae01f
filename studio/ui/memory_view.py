"""What the Memory tab shows, as HTML with every foreign text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from studio.advice import Advice
from studio.jobs import Answer, Fit
from studio.memory import Accuracy, Correction, Entry, Estimate, Facts, Fitting, Note, Record, parameters_by_module
from studio.ui import sheet, wording

_WORDS = {
    "fits": "fits",
    "tight": "tight",
    "probably not": "probably not",
    "no": "does not fit",
}
_GOOD = ("fits", "tight")
_ENGINES = {
    "dry run": "the real step, carried out on tensors without content",
    "closed form": "a formula",
    "headers": "the headers of its weights alone",
}
_KINDS = {
    "full": "full attention",
    "sliding": "a sliding window",
    "latent": "a latent cache (MLA)",
    "linear": "linear attention",
    "hybrid": "attention and a state",
    "shared": "the cache of another layer",
}
_MOST_MODULES = 12
_WORK = {"load": ("Load", "Loads"), "run": ("Run", "Runs")}
_MOST_ENTRIES = 6


def answer(found: Answer, rules: Sequence[Advice]) -> str:
    """The peak by part, when it is, which engine says so, and what to know about it."""
    trusted = found.estimate
    task = "to train" if found.question.task == "train" else "to generate"
    trained = f" · {wording.count(trusted.trainable)} of them trained" if trusted.trainable else ""
    first = f"{wording.size(trusted.peak)} {task} {found.model} in {_held(found)}"
    second = (
        f"at the fullest moment, {trusted.moment} · told by {_ENGINES[trusted.engine]} · "
        f"{wording.count(trusted.parameters)} parameters{trained}"
    )
    wanted = found.question.device or found.fits[0].device
    head = sheet.headline(first, second, good=any(f.device == wanted and f.verdict in _GOOD for f in found.fits))
    parts = [
        head,
        _corrected(found),
        _stack(trusted),
        _engines(found),
        _notes(trusted.notes),
        "".join(map(sheet.advice, rules)),
    ]
    folds = [
        sheet.folded("Its architecture, exactly", _architecture(found.facts)),
        sheet.folded("Download and disk", _disk(found)),
    ]
    return f'<div class="sheet memory-answer">{"".join(parts)}{"".join(folds)}</div>'


def _held(found: Answer) -> str:
    """What the weights are in; a checkpoint that was quantized before is that, whatever was chosen."""
    return found.facts.quantization or str(found.question.precision)


def devices(fits: Iterable[Fit]) -> str:
    """Every device with its verdict."""
    rows = "".join(
        f'<tr data-verdict="{fit.verdict}"><td>{html.escape(_device(fit))}</td><td><b>{_WORDS[fit.verdict]}</b></td>'
        f"<td>{_share(fit)}</td><td>{wording.size(fit.corrected)} of {wording.size(fit.usable)}"
        f"{'' if fit.measured else ', by its data sheet'}"
        f"{f', corrected from {wording.size(fit.peak)}' if _is_seen(fit) else ''}</td></tr>"
        for fit in fits
    )
    head = "<tr><th>Device</th><th>Verdict</th><th>Share</th><th>Takes</th></tr>"
    body = f'<div class="scroll"><table class="verdicts"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    return f'<div class="sheet"><h4>Where it fits</h4>{body}</div>'


def fitting(found: Answer) -> str:
    """What would make it fit the device of the question, and what fits as it is."""
    if found.limits is None:
        return ""
    limits = found.limits
    place = next(fit for fit in found.fits if fit.device == limits.fitting.device)
    more = place.correction.bytes if place.correction else 0
    told = [
        (f"{limits.context:,}" if limits.context else "none", "longest context that fits"),
        (f"{limits.batch:,}" if limits.batch else "none", "largest batch that fits"),
    ]
    return f'<div class="sheet fitting">{_way(limits.fitting, place.name, more)}{wording.facts(told)}</div>'


def record(kept: Record, device: str) -> str:
    """How right the estimates were on this machine, by kind of work, and the last ones; nothing where none is kept."""
    here = [accuracy for accuracy in kept.accuracies if accuracy.device == device]
    if not here:
        return ""
    parts = "".join(
        _accuracy(each, [e for e in kept.recent if (e.work, e.device) == (each.work, device)]) for each in here
    )
    damaged = wording.done(f"{kept.damaged:,} lines of the record could not be read.") if kept.damaged else ""
    return f'<div class="sheet record"><h4>How right it was on this machine</h4>{parts}{damaged}</div>'


def _accuracy(of: Accuracy, last: Sequence[Entry]) -> str:
    one, many = _WORK[of.work]
    counted = f"{of.entries:,} {(many if of.entries > 1 else one).lower()} on this machine"
    told = f"{counted}, median error {of.median_error:.1%}, worst {of.worst_error:.1%}"
    learned = _constant(of.correction) if of.correction else "no constant to correct by"
    rows = [
        (
            entry.model or "a folder",
            entry.precision,
            wording.size(entry.predicted),
            wording.size(entry.measured),
            f"{entry.error:+.1%}" if abs(entry.error) >= 0.0005 else "none",
        )
        for entry in last[:_MOST_ENTRIES]
    ]
    head = ("Model", "Precision", "Predicted", "Measured", "Error")
    return wording.facts([(told, learned)]) + (sheet.table(head, rows) if rows else "")


def _constant(learned: Correction) -> str:
    """What a device held beyond the estimates, and how often: this machine took 212 MB more in 9 of 9 loads."""
    more = f"{wording.size(abs(learned.bytes))} {'more' if learned.bytes > 0 else 'less'}"
    return f"this machine took {more} in {learned.entries} of {learned.entries} {_WORK[learned.work][1].lower()}"


def _corrected(found: Answer) -> str:
    """The peak on this machine with what was learned of it, and why; nothing where that is nothing."""
    fit = found.fits[0]
    if fit.correction is None or not _is_seen(fit):
        return ""
    return wording.caution(
        f"On this machine {wording.size(fit.corrected)}, corrected from {wording.size(fit.peak)}: "
        f"{_constant(fit.correction)}. The bar and the other devices are not corrected."
    )


def _is_seen(fit: Fit) -> bool:
    """Whether a correction shows in the digits that are drawn."""
    return wording.size(fit.corrected) != wording.size(fit.peak)


def _way(found: Fitting, name: str, more: int) -> str:
    """`more` is what was learned of the device and is held there beside the peak."""
    peak = wording.size(found.estimate.peak + more)
    if found.changes:
        count = len(found.changes)
        after = f"{peak} then, by the formula: {_WORDS[found.verdict]}"
        head = sheet.headline(f"{count} change{'s' * (count > 1)} and it fits {name}", after, good=True)
        rows = "".join(
            f"<li><b>{html.escape(', '.join(_changed(n, v) for n, v in change.values))}</b> saves "
            f"{wording.size(change.saved)}. {html.escape(change.price)} "
            f"<small>{html.escape(change.source)}</small></li>"
            for change in found.changes
        )
        return f'{head}<ul class="findings">{rows}</ul>'
    size = f"{peak} at the peak, by the formula"
    if found.verdict in _GOOD:
        return sheet.headline(f"It fits {name} as it is", size, good=True)
    return sheet.headline(f"No four changes make it fit {name}", f"{size}; choose a larger device", good=False)


def _changed(name: str, value: object) -> str:
    words = {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return f"{name.replace('_', ' ')} {words}"


def _device(fit: Fit) -> str:
    return f"This machine, {fit.name}" if fit.device == "this" else fit.name


def _share(fit: Fit) -> str:
    share = fit.corrected / max(1, fit.usable)
    return f"{share:.0%}" if share < 9.995 else f"{share:.0f} times"


def _stack(trusted: Estimate) -> str:
    """A bar as long as the peak, cut by what holds it, and the same in words."""
    cells = "".join(
        f'<i class="{_class(part.name)}" style="flex-grow:{part.bytes}" title="{part.name}: '
        f'{wording.size(part.bytes)}"></i>'
        for part in trusted.parts
    )
    legend = "".join(
        f'<li><i class="{_class(part.name)}"></i>{part.name} <b>{wording.size(part.bytes)}</b></li>'
        for part in trusted.parts
    )
    moments = ", ".join(f"{m.name} {wording.size(m.bytes)}" for m in trusted.moments[1:5])
    others = f"<small>The other moments: {html.escape(moments)}.</small>" if moments else ""
    if trusted.offloaded:
        others += f"<small><b>{wording.size(trusted.offloaded)}</b> more lie in main memory.</small>"
    return (
        f'<div class="stack"><div class="cells" role="img" aria-label="Memory by part">{cells}</div>'
        f"<ul>{legend}</ul>{others}</div>"
    )


def _class(part: str) -> str:
    return f"part-{part.replace(' ', '-')}"


def _engines(found: Answer) -> str:
    if found.no_dry_run:
        return wording.caution(f"The dry run has no answer. {found.no_dry_run}")
    if found.dry_run is None:
        return ""
    if found.closed_form is None or found.difference is None:
        return wording.done(f"The formula has no answer. {found.no_closed_form}")
    formula = found.dry_run.peak * (1 + found.difference)  # on no device in particular, as the dry run
    words = (
        f"The dry run says {wording.size(found.dry_run.peak)}, the formula {wording.size(formula)}: "
        f"{abs(found.difference):.1%} apart"
    )
    if found.is_apart:
        return wording.caution(f"{words}. That is more than 10 %; the dry run is the one to trust, and it is shown.")
    return wording.done(f"{words}.")


def _notes(notes: Iterable[Note]) -> str:
    rows = "".join(f'<li data-severity="{note.severity}">{html.escape(note.message)}</li>' for note in notes)
    return f'<ul class="findings">{rows}</ul>' if rows else ""


def _architecture(facts: Facts) -> str:
    told = [
        ("Architecture", f"{facts.model_type}, {facts.covers}"),
        ("Parameters", f"{facts.parameters:,}"),
        ("Layers", ", ".join(f"{layer.count} with {_KINDS.get(layer.kind, layer.kind)}" for layer in facts.layers)),
        ("Hidden, intermediate", f"{facts.hidden:,}, {facts.intermediate:,}" if facts.hidden else ""),
        ("Heads", f"{facts.heads}, {facts.kv_heads} for keys and values, {facts.head_dim} wide" if facts.heads else ""),
        ("Experts", f"{facts.experts}, {facts.experts_per_token} for each token" if facts.experts else "none"),
        ("Vocabulary", f"{facts.vocabulary:,}" if facts.vocabulary else ""),
        ("Head", "is the embedding" if facts.tied else "its own"),
        ("Context", f"{facts.context:,} tokens" if facts.context else ""),
        ("Quantized", f"{facts.quantization}, {facts.quantization_bits} bit" if facts.quantization else ""),
    ]
    grid = "".join(f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in told if value)
    modules = list(parameters_by_module(facts).items())
    rows = [(name or "the model", f"{count:,}") for name, count in modules[:_MOST_MODULES]]
    if rest := modules[_MOST_MODULES:]:
        rows.append((f"{len(rest)} others", f"{sum(count for _, count in rest):,}"))
    table = sheet.table(("Module", "Parameters"), rows) if rows else ""
    return f'<dl class="grid">{grid}</dl>{table}'


def _disk(found: Answer) -> str:
    needs = found.disk
    if needs is None:
        return wording.done("Nothing can be trained, so nothing is written.")
    told = [("to be fetched", needs.download)]
    if found.question.task == "train":
        told += [
            ("the adapter", needs.adapter),
            ("base and adapter merged", needs.merged),
            (f"{needs.kept + 1} checkpoints of {wording.size(needs.checkpoint)}", needs.checkpoints),
            ("all of it at once", needs.total),
        ]
    facts = [
        (wording.size(size) if size else "nothing", name) for name, size in told if size or name == "to be fetched"
    ]
    return wording.facts(facts)
