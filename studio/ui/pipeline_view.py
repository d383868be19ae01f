"""The way of a text through a tokenizer, one word's way through its model, and a batch as a grid, as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from studio.tokenizer.batch import Grid, Row
from studio.tokenizer.splitting import Span
from studio.tokenizer.stages import Options, Stages, Step
from studio.tokenizer.words import Part, WordStory
from studio.ui import sheet, wording
from studio.ui.tokens_view import visible

_CHIPS = 300
"""Parts of a stage that are drawn; the first page of a text shows how it is read."""
_COLUMNS = 120
"""Places of a row of the grid that are drawn."""


def stages(found: Stages) -> str:
    """All stages, in order."""
    drawn = [_identity(found), _added(found), _normalization(found), _pre_tokenization(found), _model(found)]
    drawn += [_post_processing(found), _settings(found), _encoded(found)]
    cards = "".join(f'<li><h4>{title}</h4><div class="stage">{body}</div></li>' for title, body in filter(None, drawn))
    notes = "".join(wording.caution(note) for note in found.notes)
    if found.left_out:
        notes += wording.done(f"The last {found.left_out:,} characters of the text are left out here.")
    return f'<div class="sheet">{notes}<ol class="stages">{cards}</ol></div>'


def _identity(found: Stages) -> tuple[str, str]:
    who = found.identity
    facts = [
        (f"{who.vocabulary:,}", "tokens"),
        (f"{who.added:,}", "of them added"),
        (f"{who.special:,}", "special"),
        (f"{who.longest:,}" if who.longest else "not told", "longest row"),
    ]
    name = f"<p><strong>{html.escape(who.name)}</strong>, written in {who.written_in} ({html.escape(who.library)})</p>"
    return "The tokenizer", name + wording.facts(facts)


def _added(found: Stages) -> tuple[str, str] | None:
    if not found.splits:
        return None
    taken = [span for span in found.splits if span.id is not None]
    words = _chips(found.splits) if taken else "<p>None of them is in this text.</p>"
    return "Special and added tokens are taken out first", words


def _normalization(found: Stages) -> tuple[str, str] | None:
    if not found.splits:
        return None
    if not found.normalizers:
        return "Normalization", "<p>None: the text stays as it is.</p>"
    steps = []
    for step in found.normalizers:
        same = step.before == step.after
        became = "changes nothing here" if same else f"<code>{_cut(step.after)}</code>"
        steps.append(f"<p>{_step(step.step)} {became}</p>")
    return "Normalization", "".join(steps)


def _pre_tokenization(found: Stages) -> tuple[str, str] | None:
    if not found.splits:
        return None
    if not found.pre_tokenizers:
        return "Pre-tokenization", "<p>None: the model gets the text in one piece.</p>"
    return "Pre-tokenization", "".join(
        f"<p>{_step(step.step)}</p>{_chips(step.parts)}" for step in found.pre_tokenizers
    )


def _model(found: Stages) -> tuple[str, str] | None:
    if found.model is None:
        return None
    words = "".join(
        f'<span class="word"><b>{html.escape(visible(word.part.text))}</b>'
        + "".join(_token(token, id) for token, id in zip(word.tokens, word.ids, strict=True))
        + "</span>"
        for word in found.words[:_CHIPS]
    )
    return "The model", f'<p>{_step(found.model)}</p><div class="words">{words}</div>{_more(len(found.words))}'


def _post_processing(found: Stages) -> tuple[str, str] | None:
    if found.model is None:
        return None
    named = " ".join(map(_step, found.post_processors)) or "None."
    put_in = [f"<code>{html.escape(each.token)}</code> as token {each.index + 1}" for each in found.additions]
    what = f"It puts in {', '.join(put_in)}." if put_in else "Nothing is put in."
    return "Post-processing", f"<p>{named} {what}</p>"


def _settings(found: Stages) -> tuple[str, str] | None:
    if found.model is None:
        return None

    def told(name: str, options: Options) -> str:
        return f"<p>{name}: {_options(options) if options else 'off'}</p>"

    return "Truncation and padding", told("Truncation", found.truncation) + told("Padding", found.padding)


def _encoded(found: Stages) -> tuple[str, str]:
    return "What the model gets", grid(found.encoded)


def _step(step: Step) -> str:
    return f"<strong>{html.escape(step.name)}</strong> <small>{_options(step.options)}</small>"


def _options(options: Options) -> str:
    return html.escape(", ".join(f"{name} {value}" for name, value in options if value != "null"))


def _chips(spans: Sequence[Span]) -> str:
    chips = "".join(
        f'<span class="chip{" s" if span.id is not None else ""}" title="characters {span.start} to {span.end}">'
        f"{html.escape(visible(span.text))}</span>"
        for span in spans[:_CHIPS]
    )
    return f'<div class="chips">{chips}</div>{_more(len(spans))}'


def _more(count: int) -> str:
    return f"<p><small>and {count - _CHIPS:,} more</small></p>" if count > _CHIPS else ""


def _token(token: str, id: int) -> str:
    return f'<span class="chip" title="id {id}">{html.escape(visible(token))}<small>{id}</small></span>'


def _cut(text: str) -> str:
    return html.escape(visible(text if len(text) <= 400 else f"{text[:400]}…"))


# One word


def story(told: WordStory) -> str:
    """How one word became its tokens."""
    count = sum(len(part.tokens) for part in told.parts)
    kind = {"BPE": "byte-pair encoding", "WordPiece": "longest match first", "Unigram": "the likeliest of all ways"}
    how = kind.get(told.model, "one look-up in the vocabulary")
    head = sheet.headline(f"{told.word!r} becomes {count} token{'s' * (count != 1)}", f"{told.model}: {how}", good=True)
    return f'<div class="sheet">{head}{"".join(map(_part, told.parts))}</div>'


def _part(part: Part) -> str:
    tokens = "".join(_token(token, id) for token, id in zip(part.tokens, part.ids, strict=True))
    notes = "".join(wording.caution(note) for note in part.notes)
    if part.added:
        return f'<div class="words">{tokens}</div>{wording.done("An added token is taken whole, before the model.")}'
    if part.whole:
        notes += wording.done("The vocabulary has it whole, so no merge is looked at.")
    return f'<div class="words">{tokens}</div>{notes}{_steps(part)}'


def _steps(part: Part) -> str:
    if part.merges:
        rows = [
            (
                str(number),
                f"{visible(merge.left)} + {visible(merge.right)}",
                f"{merge.rank + 1:,}",
                _row_of(merge.result),
            )
            for number, merge in enumerate(part.merges, start=1)
        ]
        begin = ("", "begins as", "", _row_of(part.begins_as))
        return sheet.table(("Step", "These two become one", "Learned as number", "Then it reads"), [begin, *rows])
    if part.matches:
        looked = [
            (
                visible(match.rest),
                visible(match.token) if match.token else "nothing: the word is unknown",
                f"{match.tried}",
            )
            for match in part.matches
        ]
        return sheet.table(("What is left", "Longest beginning in the vocabulary", "Longer ones tried"), looked)
    if part.segmentations:
        best = part.segmentations[0].score
        ways = [
            (_row_of(way.tokens), f"{way.score:.2f}", "taken" if not number else f"{best - way.score:.2f} less likely")
            for number, way in enumerate(part.segmentations)
        ]
        return sheet.table(("Ways to take it apart", "Log probability", ""), ways)
    return ""


def _row_of(tokens: Iterable[str]) -> str:
    return "  ".join(map(visible, tokens))


# Several texts


def grid(found: Grid) -> str:
    """Rows of tokens under each other, padding and what was cut told apart."""
    notes = "".join(wording.caution(note) for note in found.notes)
    rows = "".join(map(_grid_row, found.rows))
    facts = [(f"{len(found.rows):,}", "row" if len(found.rows) == 1 else "rows"), (f"{found.cells:,}", "places")]
    if found.padded:
        facts.append((f"{found.padded / found.cells:.0%}", "of them filling"))
    if found.cut:
        facts.append((f"{found.cut:,}", "tokens cut off"))
    return f'{notes}{wording.facts(facts)}<div class="scroll"><table class="places"><tbody>{rows}</tbody></table></div>'


def _grid_row(row: Row) -> str:
    name = f"{row.text + 1}" + (f", part {row.part + 1}" if row.part else "")
    cells = "".join(_place(row, place) for place in range(min(len(row.ids), _COLUMNS)))
    more = f"<td>… {len(row.ids) - _COLUMNS:,} more</td>" if len(row.ids) > _COLUMNS else ""
    return f"<tr><th>{name}</th>{cells}{more}</tr>"


def _place(row: Row, place: int) -> str:
    look = (
        "pad" if not row.attention[place] else "s" if row.special[place] else "second" if _of(row.types, place) else ""
    )
    told = [f"id {row.ids[place]}", f"attention_mask {row.attention[place]}", f"special {row.special[place]}"]
    if row.types:
        told.append(f"token_type_ids {row.types[place]}")
    if row.offsets:
        told.append(f"characters {row.offsets[place][0]} to {row.offsets[place][1]}")
    token = html.escape(visible(row.tokens[place]))
    return f'<td class="{look}" title="{html.escape(", ".join(told))}">{token}<small>{row.ids[place]}</small></td>'


def _of(types: Sequence[int], place: int) -> int:
    return types[place] if types else 0
