"""Replies in columns, and a tally of votes, as HTML with every foreign text escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from studio.events import Progress, TextDelta, Waiting
from studio.jobs.comparing import Answer, Column
from studio.jobs.conversing import Refusal
from studio.ui import sheet, wording

BASE = "The base"


@dataclass(slots=True)
class Side:
    """One column as far as it has come."""

    name: str
    text: str = ""
    now: str = ""
    """What is going on in it, in words."""
    end: Answer | Refusal | None = None

    def heard(self, event: Progress | Waiting | TextDelta | Answer | Refusal) -> None:
        """Take in an event of the column."""
        match event:
            case TextDelta(text, tokens):
                self.text += text
                self.now = f"Writing… {tokens:,} tokens"
            case Progress(phase):
                self.now = f"{wording.phase(phase)}…"
            case Waiting():
                self.now = "Waiting for the model…"
            case _:
                self.now, self.end = "", event


@dataclass(frozen=True, slots=True)
class Round:
    """What was asked last: who, in the order in which they are shown, and how it came out."""

    sides: tuple[Side, ...]
    blind: bool
    """Whether names are hidden until somebody votes."""
    choice: str = ""
    """What was voted for, as it is offered."""

    @property
    def hidden(self) -> bool:
        return self.blind and not self.choice

    @property
    def offered(self) -> dict[str, int]:
        """What can be voted for → the column it is; only what has answered."""
        return {letter(at): at for at, side in enumerate(self.sides) if isinstance(side.end, Answer)}


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes of this page by name."""

    won: Mapping[str, int] = field(default_factory=dict)
    shown: Mapping[str, int] = field(default_factory=dict)
    """Rounds that were voted on and had it."""
    undecided: int = 0

    def voted(self, among: Sequence[str], best: str | None) -> Tally:
        """One vote more; None finds no difference."""
        shown = dict(self.shown) | {name: self.shown.get(name, 0) + 1 for name in among}
        won = dict(self.won) | ({best: self.won.get(best, 0) + 1} if best else {})
        return Tally(won, shown, self.undecided + (best is None))


def letter(at: int) -> str:
    """What a column is called while its name is hidden."""
    return chr(ord("A") + at)


def named(columns: Sequence[Column], labels: Mapping[str, str]) -> list[str]:
    """A name for each column, no two alike: what is offered under `labels`, or the end of a path, or all of it."""
    short = [labels.get(each.adapter) or each.adapter.rstrip("/").rpartition("/")[2] or BASE for each in columns]
    of = {name: {each.adapter for each, own in zip(columns, short, strict=True) if own == name} for name in short}
    names = [name if len(of[name]) == 1 else each.adapter for each, name in zip(columns, short, strict=True)]
    return [
        name if each.strength == 1 else f"{name} at {each.strength:g}"
        for each, name in zip(columns, names, strict=True)
    ]


def columns(asked: Round) -> str:
    """All columns side by side."""
    cells = "".join(_column(at, side, asked) for at, side in enumerate(asked.sides))
    return f'<div class="sides">{cells}</div>'


def _column(at: int, side: Side, asked: Round) -> str:
    title = letter(at) if asked.hidden else f"{letter(at)}: {side.name}" if asked.blind else side.name
    best = ' data-best="true"' if asked.choice == letter(at) else ""
    body = f"<p class='reply'>{html.escape(side.text)}</p>" if side.text else ""
    if isinstance(side.end, Refusal):
        body += f"<p class='refused'><strong>{html.escape(side.end.message)}</strong> {html.escape(side.end.hint)}</p>"
    elif isinstance(side.end, Answer):
        body += "" if asked.hidden else f"<p class='legend'>{_facts(side.end)}</p>"
    else:
        # What is put on or loaded would tell who it is.
        words = side.now if not asked.hidden or side.text else "Getting ready…" if side.now else "In line"
        body += f"<p class='legend'>{html.escape(words or 'In line')}</p>"
    return (
        f'<section class="side"{best} aria-label="{html.escape(title)}"><h4>{html.escape(title)}</h4>{body}</section>'
    )


def _facts(answer: Answer) -> str:
    reply = answer.reply
    told = [f"{reply.tokens:,} tokens", wording.duration(reply.seconds), f"seed {reply.seed}"]
    if answer.bytes:
        told.append(f"adapter takes {wording.size(answer.bytes)}")
    if answer.apart:
        told.append(f"loaded with a base of its own. {answer.apart}")
    return "".join(f"<span>{html.escape(each)}</span>" for each in told)


def tally(votes: Tally) -> str:
    """Who was found best how often; nothing before the first vote."""
    if not votes.shown:
        return ""
    order = sorted(votes.shown, key=lambda name: (-votes.won.get(name, 0) / votes.shown[name], name))
    rows = [(name, f"{votes.won.get(name, 0):,}", f"{votes.shown[name]:,}", _share(votes, name)) for name in order]
    more = f"<p class='legend'>No difference was found {votes.undecided:,} times.</p>" if votes.undecided else ""
    return f'<div class="sheet">{sheet.table(("Votes", "Best", "Of", "Share"), rows)}{more}</div>'


def _share(votes: Tally, name: str) -> str:
    return f"{votes.won.get(name, 0) / votes.shown[name]:.0%}"
