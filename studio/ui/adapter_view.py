"""An adapter seen through, and what was made of it, as HTML with every foreign text escaped."""

from __future__ import annotations

import html
from collections.abc import Callable
from math import ceil

from studio.adapters import Combined, CombineOutlook, Compressed, Converted, Extracted, SeenModule, XRay, heat_map
from studio.ui import sheet, wording

RELATIVE, DIRECTIONS = "Size of the update", "Directions that count"
_FIGURES: dict[str, Callable[[SeenModule], float | None]] = {
    RELATIVE: lambda module: module.relative,
    DIRECTIONS: lambda module: module.effective_rank,
}
FIGURES = tuple(_FIGURES)
"""What a cell of the heat map can show."""
_STEPS = 5
"""Shades of the heat map."""
_MOST_COLUMNS = 48
"""Modules of a layer that are drawn: experts that are modules of their own are hundreds."""
_NAMED = 12
"""Modules without an effect that are named."""
_ROUNDING = 1e-5
"""What is less, relative, is no more than the rounding of fp32."""


def xray(seen: XRay, figure: str) -> str:
    """All of it: the sentence, the numbers, the map, and what is brought whole."""
    parts = [_headline(seen), _facts(seen)]
    if seen.modules:
        parts += [_map(seen, figure), _legend(seen, figure)]
    if seen.without_effect:
        more = len(seen.without_effect) - _NAMED
        names = ", ".join(seen.without_effect[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        parts.append(sheet.folded("What has no effect", f"<p class='names'>{html.escape(names)}</p>"))
    if seen.whole:
        rows = [
            (
                each.name,
                "all of it" if each.rows is None else f"{each.rows:,} rows",
                f"{each.new_rows:,}" if each.new_rows else "–",
                percent(each.relative),
            )
            for each in seen.whole
        ]
        head = ("Brought whole", "How much", "Of them new", "Change, relative")
        parts.append(sheet.table(head, rows))
    return f'<div class="sheet">{"".join(parts)}</div>'


def _headline(seen: XRay) -> str:
    total = len(seen.modules) + len(seen.whole)
    effects = [each.effect for each in seen.modules] + [each.effect for each in seen.whole]
    nothing, faint = len(seen.without_effect), effects.count("faint")
    first = f"No effect in {nothing:,} of {total:,} modules" if nothing else f"All {total:,} modules have an effect"
    return sheet.headline(first, " ".join([_enough(seen), *([_faint(faint)] if faint else [])]), good=not nothing)


def _enough(seen: XRay) -> str:
    enough, rank = enough_rank(seen), max((module.rank for module in seen.modules), default=0)
    if not rank:
        return "It has no updates of weights, only tensors that replace those of the base."
    if enough < rank:
        return f"Rank {enough} would keep 99 % of every update, and it has {rank}: it can be made smaller below."
    return f"It needs its whole rank of {rank} to keep 99 % of every update."


def enough_rank(seen: XRay) -> int:
    """The rank that keeps 99 % of every update; 0 where there is none."""
    return max((module.enough for module in seen.modules), default=0)


def _faint(count: int) -> str:
    are = "is" if count == 1 else "are"
    return f"{count:,} {are} fainter than what rounding the weights to bf16 changes: merge into fp32 to keep them."


def _facts(seen: XRay) -> str:
    dora = sum(module.dora for module in seen.modules)
    told = [
        (percent(seen.relative), "of the weights that it changes"),
        (f"{len(seen.modules):,}", "updates"),
        *([(f"{dora:,}", "of them with DoRA")] if dora else []),
        (wording.duration(seen.seconds), "to look at"),
    ]
    return wording.facts(told)


def _map(seen: XRay, figure: str) -> str:
    value = _FIGURES[figure]
    drawn, modules = heat_map(seen, value), {(each.layer, each.name): each for each in seen.modules}
    most = max((cell for row in drawn.cells for cell in row if cell is not None), default=0.0)
    names = drawn.names[:_MOST_COLUMNS]
    head = "".join(f"<th scope='col'>{_short(name)}</th>" for name in names)
    body = []
    for layer in drawn.layers:
        title = "–" if layer is None else f"{layer}"
        cells = (_cell(modules.get((layer, name)), value, figure, most) for name in names)
        body.append(f"<tr><th scope='row'>{title}</th>{''.join(cells)}</tr>")
    rest = len(drawn.names) - len(names)
    more = wording.done(f"The first {len(names):,} modules of a layer are drawn, {rest:,} are not.") if rest else ""
    return (
        f'<div class="scroll"><table class="heat" aria-label="{html.escape(figure)}"><thead><tr><th>Layer</th>{head}'
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>{more}"
    )


def _short(name: str) -> str:
    before, _, last = name.rpartition(".")
    return f"<small>{html.escape(before)}</small>{html.escape(last).replace('_', '_<wbr>')}"


def _cell(module: SeenModule | None, value: Callable[[SeenModule], float | None], figure: str, most: float) -> str:
    if module is None:
        return "<td class='none'></td>"
    number = value(module)
    shade = ceil(_STEPS * number / most) if number and most and module.effect != "none" else 0
    words = "none" if module.effect == "none" else _number(number, figure)
    title = (
        f"{module.module}: {percent(module.relative)} of its weight, {module.effective_rank:.1f} of {module.rank}"
        f" directions count, rank {module.enough} keeps 99 %"
    )
    return f'<td class="h{shade}" data-effect="{module.effect}" title="{html.escape(title)}">{words}</td>'


def _number(number: float | None, figure: str) -> str:
    if number is None:
        return "–"
    return f"{100 * number:.2g}" if figure == RELATIVE else f"{number:.1f}"


def _legend(seen: XRay, figure: str) -> str:
    rank = max(module.rank for module in seen.modules)
    words = {
        RELATIVE: "Percent of the weight that the update has, by their norms. The stronger the colour, the more.",
        DIRECTIONS: f"How many directions of the {rank} that it has really carry the update.",
    }[figure]
    faint = (
        " Underlined: fainter than rounding to bf16." if any(each.effect == "faint" for each in seen.modules) else ""
    )
    return f"<p class='legend'>{html.escape(words + faint)}</p>"


def percent(share: float | None) -> str:
    """A share with two digits that count; a dash where it is not known."""
    return "–" if share is None else f"{100 * share:.2g} %"


# What was made of it


def smaller(done: Compressed) -> str:
    """An adapter at a smaller rank, and what it lost."""
    worst = max(done.modules, key=lambda module: module.loss)
    kept = (
        "Nothing was lost beyond rounding."
        if done.loss < 1e-6
        else (f"{percent(done.loss)} of all updates was cut off; the most, {percent(worst.loss)}, in {worst.module}.")
    )
    told = [
        (f"{done.rank}", "rank"),
        (f"{wording.count(done.parameters_before)} → {wording.count(done.parameters)}", "parameters"),
        (f"{wording.size(done.bytes_before)} → {wording.size(done.bytes)}", "in fp32"),
    ]
    return _written(done.folder, kept, told, ())


def combination(ahead: CombineOutlook) -> str:
    """What a combination would be."""
    told = [
        (f"{ahead.modules:,}", "updates"),
        (f"{ahead.rank}", "rank"),
        (wording.count(ahead.parameters), "parameters"),
        (wording.size(ahead.bytes), "on the disk"),
    ]
    return f'<div class="sheet">{wording.facts(told)}{"".join(map(wording.caution, ahead.caveats))}</div>'


def combined(done: Combined) -> str:
    """Two adapters as one, and how far that is from their sum."""
    far = (
        "It is the exact weighted sum, up to rounding."
        if done.error < _ROUNDING
        else f"It is {percent(done.error)} away from the exact weighted sum."
    )
    told = [
        (done.kind, "method"),
        (f"{done.rank}", "rank"),
        (wording.count(done.parameters), "parameters"),
        (wording.size(done.bytes), "on the disk"),
    ]
    return _written(done.folder, far, told, done.caveats)


def extracted(done: Extracted) -> str:
    """An adapter that was made of the difference of two models: how near it comes, in all and by module."""
    near = (
        "It is what tuning changed of the linear layers, up to rounding"
        if done.error < _ROUNDING
        else f"It is {percent(done.error)} away from what tuning changed of the linear layers"
    )
    if done.left_out:
        near += f", and {percent(done.error_with_left_out)} from all that it changed"
    told = [
        (f"{done.rank}", "rank"),
        (f"{len(done.modules):,}", "updates"),
        (wording.count(done.parameters), "parameters"),
        (wording.size(done.bytes), "in fp32"),
    ]
    modules = sorted(done.modules, key=lambda module: -module.error)
    rows = [(each.module, f"{each.rank}", percent(each.relative), _error(each.error)) for each in modules]
    more = sheet.table(("Module", "Rank", "Changed", "Error"), rows)
    if done.left_out:
        left = [(each.parameter, percent(each.relative)) for each in done.left_out]
        more += sheet.table(("Changed, and not in the adapter", "By how much"), left)
    return _written(done.folder, f"{near}.", told, (), more)


def _error(share: float) -> str:
    return "rounding" if share < _ROUNDING else percent(share)


def converted(done: Converted) -> str:
    """An adapter of the type MiSS that was one of the type Bone."""
    told = [(f"{done.rank}", "rank"), (f"{done.modules:,}", "updates"), (wording.size(done.bytes), "on the disk")]
    if done.variant:
        told.append((done.variant, "variant"))
    return _written(done.folder, "It holds the same numbers, as PEFT reads them today.", told, ())


def _written(folder: str, words: str, told: list[tuple[str, str]], caveats: tuple[str, ...], more: str = "") -> str:
    name = folder.rstrip("/").rpartition("/")[2]
    head = sheet.headline(f"{name} is written", words, good=True)
    notes = "".join(map(wording.caution, caveats))
    place = f"<p class='place'>It is in <code>{html.escape(folder)}</code></p>"
    return f'<div class="sheet">{head}{wording.facts(told)}{notes}{more}{place}</div>'
