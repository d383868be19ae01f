"""Several tokenizers on the same text, the same rows, or the same sentences in many languages."""

from __future__ import annotations

import html
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio import jobs
from studio.jobs import Excerpt
from studio.jobs.tokenizing import EXCERPT_BYTES
from studio.models import ModelRef
from studio.tokenizer.comparing import MOST, Comparison, Row
from studio.tokenizer.samples import Sample, bundled
from studio.ui import sheet, wording
from studio.ui.dataset_chooser import chosen_rows
from studio.ui.handlers import Update, answering, hub_token, on, on_cancel, told
from studio.ui.model_strip import model_choices
from studio.ui.tokenizer_panel import Panel

_LONGEST_MEAN_WORD = 15
"""Characters: no language that parts its words has longer ones on the mean."""
SAMPLES, TYPED = "Sample texts in many languages", "The text above"
ROWS = "The rows under Your data"


@dataclass(frozen=True, slots=True)
class Compared:
    """What the tokenizers are compared on."""

    samples: Sequence[Sample]
    name: str
    """As it ends the sentence “needs the fewest tokens for”."""
    note: str = ""
    """What was left out."""


def draw_compare() -> tuple[gr.Tab, dict[str, Any]]:
    """Draw the panel; `connect_compare` brings it to life once the rows are there that it may be about."""
    with gr.Tab("Compare", id="compare") as tab:
        with gr.Row(elem_id="compare-what"):
            others = gr.Dropdown(
                [],
                value=[],
                multiselect=True,
                max_choices=MOST - 1,
                allow_custom_value=True,
                label="Beside the model above",
                info="Up to three more: a Hub id, a folder, a tokenizer that you trained",
                scale=3,
                min_width=260,
                elem_id="compare-others",
            )
            on_what = gr.Radio([SAMPLES, TYPED, ROWS], value=SAMPLES, label="On", min_width=260, elem_id="compare-on")
        with gr.Row(elem_id="compare-buttons", elem_classes="button-row"):
            begin = gr.Button("Compare", variant="primary", min_width=140, scale=0, elem_id="compare-begin")
            stop = gr.Button("Stop", variant="stop", min_width=96, scale=0, visible=False, elem_id="compare-stop")
        note = gr.HTML("", elem_id="compare-note", elem_classes="note-line")
        found = gr.HTML("", elem_id="compared", elem_classes="bare")
    return tab, {"others": others, "on_what": on_what, "begin": begin, "stop": stop, "note": note, "found": found}


def connect_compare(
    tab: gr.Tab, parts: dict[str, Any], model: gr.Dropdown, text: gr.Textbox, rows: dict[str, Any]
) -> Panel:
    """Connect the panel. `rows` are the widgets that say which rows are chosen, as `chosen_rows` takes them."""
    outputs = {name: parts[name] for name in ("others", "stop", "note", "found")}
    asked = {"model": model, "others": parts["others"], "on_what": parts["on_what"], "text": text, **rows}
    run = on(
        parts["begin"].click, compare, inputs=asked, outputs=outputs, concurrency_id="compare", concurrency_limit=4
    )
    on_cancel(parts["stop"], [run], stopped, note=parts["note"], inputs={}, outputs=outputs)
    return Panel(tab, names_offered, {}, {"others": parts["others"]})


def names_offered() -> Iterator[Update]:
    """What can be chosen without the network."""
    yield {"others": gr.update(choices=model_choices())}


@answering
def compare(*, model: str | None, others: list[str], on_what: str, text: str, **rows: Any) -> Iterator[Update]:
    """Hold the tokenizers against each other."""
    refs = [ModelRef.parse(name) for name in (model or "", *others)]
    if on_what == SAMPLES:
        on_these = Compared(bundled(), "all samples together")
    elif on_what == TYPED:
        on_these = Compared((Sample("Your text", (text or "",)),), "this text")
    else:
        on_these = yield from _rows_to_compare_on(**rows)
    found: Comparison = yield from told(jobs.compare_tokenizers(refs, on_these.samples, token=hub_token()))
    yield {"found": comparison(found, on_these.name), "note": wording.done(on_these.note) if on_these.note else ""}


def _rows_to_compare_on(**chosen: Any) -> Generator[Update, None, Compared]:
    rows = yield from chosen_rows(**chosen)
    taken: Excerpt = yield from told(jobs.excerpt(rows))
    if taken.rows == rows.count:
        return Compared(taken.samples, f"{rows.name}, {rows.count:,} row{'' if rows.count == 1 else 's'}")
    name = f"the first {taken.rows:,} of {rows.count:,} rows of {rows.name}"
    return Compared(taken.samples, name, f"Compared on {wording.size(EXCERPT_BYTES)} of text, which is {name}.")


def stopped() -> Update:
    """The panel after Stop."""
    return {"stop": gr.update(visible=False), "note": wording.done("Stopped.")}


def comparison(found: Comparison, texts: str) -> str:
    """A comparison on `texts` as HTML, every name escaped."""
    parts = [_headline(found, texts), _contenders(found), _rows(found), _overlaps(found), _differences(found)]
    return f'<div class="sheet">{"".join(parts)}</div>'


def _headline(found: Comparison, texts: str) -> str:
    sums = [sum(row.counts[place].tokens for row in found.rows) for place in range(len(found.tokenizers))]
    best = min(range(len(sums)), key=sums.__getitem__)
    name = found.tokenizers[best].name
    if len(sums) == 1:
        alone = "Add another model above to see the two beside each other."
        return sheet.headline(f"{name} makes {sums[0]:,} tokens of {texts}", alone, good=True)
    most = max(sums)
    more = f"up to {most / sums[best] - 1:.0%} more with the others" if sums[best] else ""
    return sheet.headline(f"{name} needs the fewest tokens for {texts}: {sums[best]:,}", more, good=True)


def _contenders(found: Comparison) -> str:
    rows = [
        (
            each.name,
            f"{each.vocabulary:,}",
            "Rust" if each.rust else "Python",
            f"{1 / each.seconds_per_megabyte:.2f} MB/s" if each.seconds_per_megabyte else "–",
            "yes" if each.template else "no",
            ", ".join(token for token in (each.begin, each.end, each.pad, each.unknown) if token) or "none",
        )
        for each in found.tokenizers
    ]
    head = ("Tokenizer", "Vocabulary", "Runs in", "Speed here", "Chat template", "Special tokens")
    said = f"Speed is the median of {found.repeats} turns on {wording.size(found.timed_bytes)} of text."
    return sheet.table(head, rows) + wording.done(said)


def _rows(found: Comparison) -> str:
    names = [each.name.rpartition("/")[2] for each in found.tokenizers]
    head = ("Text", *(f"{name}: tokens" for name in names), *(f"{name}: bytes a token" for name in names))
    head = (*head, *(f"{name}: a word" for name in names), "Unknown", "Parts of characters")
    return sheet.table(head, [_row(row) for row in found.rows])


def _row(row: Row) -> tuple[str, ...]:
    def ratios(name: str) -> list[str]:
        values = [getattr(counts, name) for counts in row.counts]
        # A script without spaces between words has "words" of a whole sentence.
        none = name == "tokens_per_word" and row.characters > _LONGEST_MEAN_WORD * row.words
        return ["–" if none or value is None else f"{value:.2f}" for value in values]

    return (
        row.sample,
        *(f"{counts.tokens:,}" for counts in row.counts),
        *ratios("bytes_per_token"),
        *ratios("tokens_per_word"),
        " · ".join(f"{counts.unknown:,}" for counts in row.counts),
        " · ".join(f"{counts.byte_tokens:,}" for counts in row.counts),
    )


def _overlaps(found: Comparison) -> str:
    rows = [
        (f"{each.first} and {each.second}", f"{each.shared:,}", f"{each.of_first:.1%}", f"{each.of_second:.1%}")
        for each in found.overlaps
    ]
    return sheet.table(("Vocabularies", "Tokens in common", "Of the first", "Of the second"), rows) if rows else ""


def _differences(found: Comparison) -> str:
    def shown(value: Any) -> str:
        return {None: "none", True: "yes", False: "no"}.get(value, str(value))

    rows = [(each.fact, *map(shown, each.values)) for each in found.differences]
    names = [html.unescape(each.name) for each in found.tokenizers]
    return sheet.table(("They differ in", *names), rows) if rows else ""
