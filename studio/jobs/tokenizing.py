"""What a tokenizer makes of texts: for the page, the command line and the API alike."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio import hub
from studio.dataset import Rows
from studio.errors import InputError, StudioError
from studio.events import Finished, Phase, Progress
from studio.jobs.learning import Written
from studio.jobs.opening import Opened, open_tokenizer
from studio.models import ModelRef
from studio.tokenizer.comparing import MOST, Comparison, compare
from studio.tokenizer.conversation import Message
from studio.tokenizer.ending import EndOfTurn, end_of_turn, generation_ends
from studio.tokenizer.pieces import Counts, Piece, tokenize
from studio.tokenizer.reading import encode
from studio.tokenizer.round_trip import Difference, round_trip
from studio.tokenizer.samples import Sample
from studio.tokenizer.stages import Stages, stages
from studio.tokenizer.template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXCERPT_BYTES = 5_000_000
"""How much of a dataset tokenizers are compared on: one in Rust takes 2 to 3 seconds for it."""
EXCERPT_TEXT = 500_000
"""Characters that are taken of a text: as much as is read between two looks whether somebody pressed Stop."""


@dataclass(frozen=True, slots=True)
class AsChat:
    """The text as the first message of a chat: what the model reads before it answers."""

    text: str
    ids: tuple[int, ...]
    end_of_turn: EndOfTurn | None
    """None where it cannot be told."""


@dataclass(frozen=True, slots=True)
class Tokenization:
    """A text as a tokenizer reads it, whole."""

    model: str
    text: str
    ids: tuple[int, ...]
    counts: Counts
    pieces: tuple[Piece, ...]
    covered: bool
    """Whether the pieces, joined by their offsets, are the text."""
    not_covered: str
    """Why not."""
    decoded: str
    """What the ids stand for, without special tokens around the text."""
    difference: Difference | None
    """Where that parts from the text."""
    stages: Stages
    chat: AsChat | None
    no_chat: str
    """Why there is no chat."""


def tokenize_text(
    ref: ModelRef, text: str, *, special_tokens: bool = True, token: hub.Token
) -> Generator[Progress | Finished[Tokenization], None, None]:
    """Say everything about a text and a tokenizer. The last event is `Finished(Tokenization)`."""
    opened = yield from open_tokenizer(ref, token=token)
    tokenizer = opened.tokenizer
    found = tokenize(tokenizer, text, special_tokens=special_tokens)
    back = round_trip(tokenizer, text)
    chat, no_chat = _as_chat(opened, text)
    yield Finished(
        Tokenization(
            model=str(ref),
            text=text,
            ids=tuple(found.ids),
            counts=found.counts,
            pieces=found.window(0, len(found.ids)),
            covered=found.covers.exact,
            not_covered=found.covers.why,
            decoded=back.text,
            difference=back.difference,
            stages=stages(tokenizer, text),
            chat=chat,
            no_chat=no_chat,
        )
    )


def _as_chat(opened: Opened, text: str) -> tuple[AsChat | None, str]:
    tokenizer: PreTrainedTokenizerBase = opened.tokenizer
    try:
        rendered = render(tokenizer, (Message("user", text),))
    except StudioError as error:
        return None, error.message
    ids = tuple(encode(tokenizer, rendered, special_tokens=False))
    try:
        end = end_of_turn(tokenizer, generation_ends(opened.folder))
    except StudioError:
        end = None  # the chat is shown all the same
    return AsChat(rendered, ids, end), ""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The first rows of a dataset as texts to compare on."""

    samples: tuple[Sample, ...]
    """A column each, by its name."""
    rows: int
    """How many rows they are from."""


def excerpt(rows: Rows) -> Generator[Progress | Finished[Excerpt], None, None]:
    """The texts of the first rows, EXCERPT_BYTES of them at most. The last event is `Finished(Excerpt)`."""
    texts: dict[str, list[str]] = {}
    size, said, taken = 0, 0, rows.count
    for number, column, text in Written(rows, rows.columns).texts():
        part = text[:EXCERPT_TEXT]
        texts.setdefault(column, []).append(part)
        size += len(part.encode(errors="surrogatepass"))
        if size - said > EXCERPT_TEXT:
            said = size
            yield Progress(Phase.GATHER, size)
        if size >= EXCERPT_BYTES:
            taken = number + 1
            break
    yield Finished(Excerpt(tuple(Sample(name, tuple(each)) for name, each in texts.items()), taken))


def compare_tokenizers(
    refs: Sequence[ModelRef], samples: Sequence[Sample], *, token: hub.Token
) -> Generator[Progress | Finished[Comparison], None, None]:
    """Hold the tokenizers of up to four models against each other. The last event is `Finished(Comparison)`."""
    distinct = list(dict.fromkeys(refs))
    if len(distinct) > MOST:
        raise InputError(f"{len(distinct)} tokenizers cannot be compared.", f"Choose up to {MOST}.")
    opened = {}
    for ref in distinct:
        opened[str(ref)] = (yield from open_tokenizer(ref, token=token)).tokenizer
    yield from compare(opened, samples)
