"""What the Load tab shows, as HTML with every foreign text escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from studio import memory
from studio.advice import Advice
from studio.inspection import Inspection
from studio.loading import Block, Outlook, Resident
from studio.memory import ModuleWeights
from studio.quality import Quality
from studio.speed import Speed
from studio.ui import sheet, wording

_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def outlook(ahead: Outlook, advice: Sequence[Advice]) -> str:
    """The estimate, where every layer would go, and what the other precisions would take."""
    held, why = ahead.plan.precision, f" ({ahead.why})" if ahead.why else ""
    free = f"{wording.size(sum(room.free for room in ahead.rooms))} free" if ahead.rooms else ""
    verdict = "does not fit" if ahead.misfit else "fits"
    head = sheet.headline(
        f"{wording.size(ahead.weights)} of weights in {held}{why}",
        f"{wording.count(ahead.parameters)} parameters · {verdict} · {free} on {_names(ahead)}",
        good=ahead.misfit is None,
    )
    problem = wording.problem(ahead.misfit) if ahead.misfit else _map(ahead)
    others = _alternatives(ahead, ahead.rooms[0].free)
    return f'<div class="sheet">{head}{problem}{others}{"".join(map(sheet.advice, advice))}</div>'


def resident(held: Resident) -> str:
    """A model in memory: measured against estimated, what holds the bytes, and which layer became what."""
    off = 100 * (held.estimated / held.weights - 1) if held.weights else 0.0
    head = sheet.headline(
        f"{wording.size(held.weights)} measured, {wording.size(held.estimated)} estimated",
        f"{_percent(off)} off · {wording.count(held.parameters)} parameters in {held.plan.precision} · loaded in "
        f"{wording.duration(held.seconds)}",
        good=abs(off) < 0.1,
    )
    devices = sheet.bars("On each device", memory.by_device(held.modules))
    formats = sheet.bars("Held as", {_SHORT.get(k, k): v for k, v in memory.by_dtype(held.modules).items()})
    return f'<div class="sheet">{head}<div class="pair">{devices}{formats}</div>{_modules(held.modules)}</div>'


def quality(found: Quality) -> str:
    """A quantized model beside itself in 16 bit, on the same text."""
    head = sheet.headline(
        f"{found.agreement:.1%} of the next tokens are the same as in 16 bit",
        f"on {found.tokens:,} tokens of the bundled text · measured in {wording.duration(found.seconds)}",
        good=found.agreement > 0.9,
    )
    facts = [
        ("Perplexity", f"{found.perplexity:,.2f}"),
        ("In 16 bit", f"{found.reference_perplexity:,.2f}"),
        ("KL divergence", f"{found.kl:.4f} nats a token"),
    ]
    cells = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in facts)
    return f'<div class="sheet">{head}<dl class="grid">{cells}</dl></div>'


def speeds(found: Sequence[Speed]) -> str:
    """What each precision costs in speed here."""
    rows = [(str(each.precision), f"{each.writing:,.0f}", f"{each.reading:,.0f}") for each in found]
    best = max(found, key=lambda each: each.writing)
    head = sheet.headline(
        f"{best.precision} writes fastest here: {best.writing:,.0f} tokens/s with the starter",
        "a small model; on a large one fewer bytes a weight count for more",
        good=True,
    )
    table = sheet.table(("Precision", "Writes, tokens/s", "Reads a prompt, tokens/s"), rows)
    return f'<div class="sheet">{head}{table}</div>'


def inspection(inside: Inspection, advice: Sequence[Advice]) -> str:
    """A checkpoint as its headers have it."""
    shape = inside.architecture
    facts = [
        ("Architecture", shape.class_name or shape.model_type or "not told"),
        ("Parameters", wording.count(inside.parameters)),
        ("On disk", wording.size(inside.bytes)),
        ("Layers × width", f"{shape.layers or '?'} × {shape.hidden or '?'}"),
        ("Heads", f"{shape.heads or '?'}" + (f", {shape.kv_heads} for keys" if shape.kv_heads else "")),
        ("Vocabulary", f"{shape.vocabulary:,}" if shape.vocabulary else "not told"),
        ("Context", f"{shape.context:,} tokens" if shape.context else "not told"),
        ("Head", {True: "tied to the embedding", False: "its own", None: "not told"}[shape.tied]),
        ("Tokenizer", _tokenizer(inside)),
        ("Chat template", inside.tokenizer.chat_template or "none"),
        ("Quantized", inside.quantization.method if inside.quantization else "no"),
        ("Commit", (inside.commit or "")[:12] or "a folder"),
    ]
    cells = "".join(f"<div><dt>{label}</dt><dd>{html.escape(str(value))}</dd></div>" for label, value in facts)
    findings = "".join(
        f'<li data-severity="{finding.severity}"><strong>{html.escape(finding.message)}</strong> '
        f"{html.escape(finding.hint)}</li>"
        for finding in inside.findings
    )
    parts = [
        (p.name, f"{p.tensors:,}", wording.count(p.parameters), wording.size(p.bytes), ", ".join(p.dtypes))
        for p in inside.groups
    ]
    files = [(f.name, wording.size(f.bytes), f.kind if f.read else f"{f.kind}, not read") for f in inside.files]
    folds = [
        sheet.folded(
            f"{len(inside.tensors):,} tensors by part",
            sheet.table(("Part", "Tensors", "Weights", "Bytes", "Dtype"), parts),
        ),
        sheet.folded(f"{len(files)} files", sheet.table(("File", "Size", "Kind"), files)),
        sheet.folded("Every tensor", _tensors(inside)),
    ]
    found = f'<ul class="findings">{findings}</ul>' if findings else ""
    rules = "".join(map(sheet.advice, advice))
    return f'<div class="sheet"><dl class="grid">{cells}</dl>{found}{rules}{"".join(folds)}</div>'


def _tensors(inside: Inspection) -> str:
    shown = inside.tensors[:2000]  # a page of 70 B would hold a hundred thousand cells
    rows = [(t.name, "×".join(map(str, t.shape)), t.dtype, wording.size(t.bytes), t.file) for t in shown]
    more = f"<p>The first {len(shown):,} of {len(inside.tensors):,}.</p>" if len(inside.tensors) > len(shown) else ""
    return sheet.table(("Tensor", "Shape", "Dtype", "Bytes", "File"), rows) + more


def _tokenizer(inside: Inspection) -> str:
    if not inside.tokenizer.present:
        return "none"
    return "fast" if inside.tokenizer.fast else "slow"


def _percent(share: float) -> str:
    return "0 %" if abs(share) < 0.005 else f"{share:+.2f} %"


def _names(ahead: Outlook) -> str:
    return " and ".join(room.device for room in ahead.rooms)


def _map(ahead: Outlook) -> str:
    """One row a device, one cell a block, as wide as its bytes."""
    rows = []
    free = {room.device: room.free for room in ahead.rooms}
    most = max(1, max((sum(b.bytes for b in blocks) for _, blocks in _by_device(ahead.blocks)), default=1))
    for number, (device, blocks) in enumerate(_by_device(ahead.blocks)):
        used = sum(block.bytes for block in blocks)
        cells = "".join(
            f'<i style="flex-grow:{max(1, block.bytes)}" title="{html.escape(block.name or "the model")}: '
            f'{wording.size(block.bytes)}"></i>'
            for block in blocks
            if block.bytes
        )
        room = f" of {wording.size(free[device])} free" if device in free else ""
        rows.append(
            f'<div class="device d{number % 4}"><b>{html.escape(device)}</b>'
            f'<div class="cells" style="width:{max(4, 100 * used / most):.1f}%">{cells}</div>'
            f"<span>{wording.size(used)}{room}: {html.escape(_told(blocks))}</span></div>"
        )
    return f'<div class="map" role="img" aria-label="Which layer goes where">{"".join(rows)}</div>'


def _by_device(blocks: Iterable[Block]) -> list[tuple[str, list[Block]]]:
    found: dict[str, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.device, []).append(block)
    return list(found.items())


_NUMBER = re.compile(r"\.(\d+)$")


def _told(blocks: Sequence[Block]) -> str:
    """The names of blocks; layers in a row are one entry: layers 0–27."""
    told = []
    for stem, group in groupby(blocks, key=lambda block: _NUMBER.sub("", block.name)):
        numbers = [match[1] for block in group if (match := _NUMBER.search(block.name))]
        name = stem.rpartition(".")[2] or "all of it"
        told.append(f"{name} {numbers[0]}–{numbers[-1]}" if len(numbers) > 1 else " ".join([name, *numbers]))
    return ", ".join(told)


def _alternatives(ahead: Outlook, free: int) -> str:
    if not ahead.alternatives:
        return ""
    most = max(size for _, size in ahead.alternatives)
    rows = []
    for precision, size in ahead.alternatives:
        mark = " chosen" if precision == ahead.plan.precision else ""
        rows.append(sheet.bar(str(precision), size, most, mark=mark, after="" if size <= free else ", too much"))
    return f'<div class="bars"><h4>In each precision</h4>{"".join(rows)}</div>'


def _modules(modules: Sequence[ModuleWeights]) -> str:
    """Modules of one kind in one row: what they became, and why others were left alone."""
    kinds: dict[tuple[str, str, str], list[ModuleWeights]] = {}
    for module in modules:
        kinds.setdefault((module.kind, module.dtype, module.note), []).append(module)
    rows = []
    for (kind, dtype, note), group in sorted(kinds.items(), key=lambda pair: -memory.total(pair[1])):
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        weights, size = wording.count(sum(m.parameters for m in group)), wording.size(memory.total(group))
        rows.append((kind, _SHORT.get(dtype, dtype), f"{len(group):,}", weights, size, note or group[0].name + more))
    return sheet.table(("Became", "Held as", "Modules", "Parameters", "Bytes", "Where, or why left alone"), rows)
