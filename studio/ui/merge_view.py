"""An adapter, its fit and what a merge takes, as HTML with every foreign text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterator

from studio.jobs.matching import Matched
from studio.merging import WAYS, Choices
from studio.ui import sheet, wording

_SHOWN = 8
"""Modules of an adapter that are named."""
_TITLES = {
    "original": "Into the original",
    "dequantized": "Into the dequantized",
    "quantized": "Back into the quantized",
}
_SPARE = 1.3
"""What a proof takes beside the weights, as a factor."""


def nothing() -> str:
    """What to do where there is no adapter yet."""
    head = sheet.headline(
        "Nothing has been learnt yet",
        "Fine-tune the starter first: with what is filled in there, one click on Start makes an adapter in two minutes."
        " An adapter from elsewhere works too: write its folder, or its name on the Hub, below.",
        good=True,
    )
    return f'<div class="sheet">{head}</div>'


def about(found: Matched) -> str:
    """What an adapter is, and whether it fits."""
    adapter = found.adapter
    told = [
        (_kind(found), "type"),
        (f"{adapter.rank}" if adapter.rank else "–", "rank"),
        (f"{adapter.alpha:g}" if adapter.alpha else "–", "alpha"),
        (_scaling(found), "scaling"),
        (wording.count(adapter.parameters), "parameters"),
        (wording.size(adapter.bytes), "on the disk"),
    ]
    rows = list(_rows(found))
    table = sheet.folded("More of it", sheet.table(("What", "Value"), rows))
    rules = "".join(map(sheet.advice, found.advice))
    return f'<div class="sheet">{_fit(found)}{wording.facts(told)}{table}{rules}</div>'


def _kind(found: Matched) -> str:
    adapter = found.adapter
    names = [adapter.type.replace("LORA", "LoRA")]
    names += ["DoRA"] if adapter.dora else []
    names += ["rsLoRA"] if adapter.rslora else []
    return " · ".join(names)


def _scaling(found: Matched) -> str:
    values = sorted({module.scaling for module in found.adapter.modules if module.scaling is not None})
    if not values:
        return "–"
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def _fit(found: Matched) -> str:
    base = wording.model(found.base) if found.base else ""
    if found.fits and found.fit:
        words = (
            f"{len(found.fit.matches):,} updates and {len(found.fit.replaced):,} whole tensors meet their place in it"
        )
        if not found.fit.replaced:
            words = f"All {len(found.fit.matches):,} updates meet a tensor of their name and shape"
        more = f"; the vocabulary becomes {found.fit.vocabulary:,} tokens" if _grows(found) else ""
        return sheet.headline(f"It fits {base}", f"{words}{more}.", good=True)
    if found.fit is None and not found.weights:
        return sheet.headline(found.why, found.hint, good=True)
    return sheet.headline(
        f"It does not fit {base}" if base else "It has no base", f"{found.why} {found.hint}", good=False
    )


def _grows(found: Matched) -> bool:
    return bool(found.fit and any(each.rows is not None for each in found.fit.replaced))


def _rows(found: Matched) -> Iterator[tuple[str, str]]:
    adapter = found.adapter
    yield "Base, as it says", f"{adapter.base or 'not said'}{f' at {adapter.revision}' if adapter.revision else ''}"
    if adapter.targets:
        yield "Target modules", ", ".join(adapter.targets)
    if adapter.target_parameters:
        yield "Target parameters", ", ".join(adapter.target_parameters)
    if adapter.modules:
        paths = [module.path for module in adapter.modules[:_SHOWN]]
        rest = f" and {len(adapter.modules) - _SHOWN:,} more" if len(adapter.modules) > _SHOWN else ""
        yield "Modules with an update", f"{len(adapter.modules):,}: {', '.join(paths)}{rest}"
    for name, ranks in (("Other ranks", adapter.rank_pattern), ("Other alphas", adapter.alpha_pattern)):
        if ranks:
            yield name, ", ".join(f"{key} {value:g}" for key, value in list(ranks.items())[:_SHOWN])
    if adapter.whole:
        yield "Saved whole", ", ".join(each.name for each in adapter.whole[:_SHOWN])
    if adapter.tokens:
        yield "Rows of tokens", ", ".join(f"{len(each.rows):,} of {each.path}" for each in adapter.tokens)
    yield "Began as", adapter.start
    yield "Tensors", f"{adapter.tensors:,}"
    if adapter.peft_version:
        yield "Made by", f"PEFT {adapter.peft_version}"
    if found.trained and found.trained.precision:
        yield "Its base was held as", str(found.trained.precision)


def takes(found: Matched, dtype: str) -> str:
    """What it takes on the disk, and what the proof takes in memory."""
    if not found.weights:
        return ""
    needed = found.bytes(dtype)
    fits = needed < found.disk
    second = f"{wording.size(found.disk)} are free. The merge goes piece by piece and never holds the model."
    if not fits:
        second = f"Only {wording.size(found.disk)} are free: make room first, or merge it elsewhere."
    runs = found.proof_bytes * _SPARE < found.memory
    proof = f"The proof runs base and merged model one after the other: {wording.size(found.proof_bytes)} of memory."
    if not runs:
        proof = (
            f"To run both models the proof needs {wording.size(found.proof_bytes * _SPARE)} of memory, and"
            f" {wording.size(found.memory)} are free. It then goes tensor by tensor, and says so."
        )
    head = sheet.headline(f"{wording.size(needed)} on the disk, in {dtype}", second, good=fits)
    return f'<div class="sheet">{head}{wording.done(proof) if runs else wording.caution(proof)}</div>'


# The ways into a quantized base


def ways_explained() -> str:
    """Why there is something to choose."""
    words = (
        "An adapter that learnt on a base in 4 or 8 bit makes up for the rounding of those bits. Merged into the"
        " original 16-bit base, it meets other weights than it was trained on. How much that changes is measured on"
        " this model, beside the two other ways; any of them can be chosen here."
    )
    return f"<p>{html.escape(words)}</p>"


def ways(found: Choices) -> str:
    """The three ways, each with its distance from the adapter on its own base."""
    most = max(choice.distance.kl for choice in found.choices) or 1.0
    rows = []
    for choice in found.choices:
        far = choice.distance
        rows.append(
            (
                f"{_TITLES[choice.way]}{' · nearest' if choice.way == found.nearest and most else ''}",
                f"{far.kl:.3g}",
                f"{far.largest:.3g}",
                f"{far.kl / found.adapter.kl:,.1%}".replace("%", " %") if found.adapter.kl else "–",
                WAYS[choice.way].capitalize() + ".",
            )
        )
    nearest = _TITLES[found.nearest].lower()
    head = sheet.headline(
        f"Nearest to what was trained in {found.precision}: {nearest}",
        f"Measured on {found.tokens:,} tokens in {wording.duration(found.seconds)}. Choose under Onto"
        " which way the merge goes.",
        good=True,
    )
    table = sheet.table(
        ("Way", "KL, nats a token", "Largest score apart", "Of what the adapter does", "What it is"), rows
    )
    return f'<div class="sheet">{head}{table}</div>'
