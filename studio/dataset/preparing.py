"""Rows of several datasets into examples to learn from, and others to measure with, on the disk."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio.dataset.conversing import Example
from studio.dataset.examples import Learnable, Maker, read
from studio.dataset.fingerprint import fingerprint
from studio.dataset.formats import ColumnMapping, texts_of
from studio.dataset.lengths import percentiles
from studio.dataset.mixing import check_weight, content_key, fair_shares, is_held_out, times
from studio.dataset.packing import saved_by_packing
from studio.dataset.preparation import Dropped, Examples, Preparation, Prepared
from studio.dataset.reading import disk
from studio.dataset.reasons import BadRow, Reason
from studio.dataset.rows import Rows
from studio.dataset.stopping import LONG_CHARS, Stopped, patiently
from studio.dataset.writing import ExampleWriter, beside_of
from studio.errors import InputError
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Source = tuple[Rows, ColumnMapping, float]
"""Rows, what their columns mean, and their weight."""
_PLACES = 10
_BEAT_SECONDS = 0.1


def prepare(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    preparation: Preparation,
    *,
    held_out: tuple[Rows, ColumnMapping] | None = None,
    folder: Path,
) -> Generator[Progress | Finished[Prepared], None, None]:
    """Make examples of rows and keep them in a folder, to be found there the next time. Ends with `Finished(Prepared)`.

    Weights: a row of a source with a weight of 2 is learnt twice an epoch; of 0.5 half of the rows are, drawn by the
    seed. `most_rows` are the first rows of the sources, as many of one as of another while they last.

    Held out is a share of the rows, each once, chosen by what a row says and the seed: the same one always is, whatever
    rows are beside it, and one that occurs twice is on one side. With `held_out` it is those rows instead, and what is
    among them is not learnt. Where there are so few rows that none would be left to learn, none is held out.

    How a row is written and masked is told at `Maker`. One that cannot be learnt from is counted with its reason.
    Closing stops within 0.3 seconds. Raises InputError where that are all of them, or a column is not there, and
    Unsupported for pairs of preferred and rejected answers.
    """
    total = sum(fair_shares([rows.count for rows, _, _ in sources], preparation.most_rows))
    total, last = total + (held_out[0].count if held_out else 0), 0

    def tell(said: list[int]) -> list[Progress]:
        nonlocal last
        last = said[-1] if said else last
        return [Progress(Phase.PREPARE, last, total)]

    def work(say: Callable[[int], None], stop: Event) -> Prepared:
        with disk(" and ".join(rows.name for rows, _, _ in sources), folder):
            return _Preparing(sources, held_out, Maker(tokenizer, preparation), preparation, say, stop).result(
                tokenizer, folder
            )

    yield Progress(Phase.PREPARE, 0, total)
    yield Finished((yield from heartbeat(work, tell, every=_BEAT_SECONDS)))


@dataclass(slots=True)
class _Lot:
    """Rows that are left out for one reason."""

    example: str
    rows: int = 0
    places: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Tally:
    """What is counted on the way."""

    rows: int = 0
    cut: int = 0
    lost: int = 0
    endless: int = 0
    dropped: dict[Reason, _Lot] = field(default_factory=dict)

    def drop(self, error: BadRow, place: str) -> None:
        lot = self.dropped.setdefault(error.reason, _Lot(error.message))
        lot.rows += 1
        if len(lot.places) < _PLACES:
            lot.places.append(place)

    def take(self, learnable: Learnable) -> None:
        lost = len(learnable.masked.ids) - learnable.kept
        self.cut += lost > 0
        self.lost += lost
        self.endless += learnable.ends is False


class _Preparing:
    """The work, on its thread."""

    def __init__(
        self,
        sources: Sequence[Source],
        held_out: tuple[Rows, ColumnMapping] | None,
        maker: Maker,
        preparation: Preparation,
        say: Callable[[int], None],
        stop: Event,
    ) -> None:
        self._sources, self._held_out, self._maker, self._preparation = sources, held_out, maker, preparation
        self._say, self._stop = say, stop
        self._tally = _Tally()
        self._keys = array("Q")

    def result(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Prepared:
        apart = [(*self._held_out, 0.0)] if self._held_out else []
        for rows, _, weight in self._sources:
            check_weight(rows.name, weight)
        for rows, mapping, _ in (*self._sources, *apart):
            mapping.check(rows.columns)
            self._maker.check(rows.name, mapping)
        mark = fingerprint([*self._sources, *apart], tokenizer, self._preparation, self._stop)
        kept = folder / f"{mark[:32]}.json"
        return _kept(kept, mark) or self._made(kept, mark)

    def _made(self, kept: Path, mark: str) -> Prepared:
        learnt, measured = (kept.with_suffix(f".{side}.arrow") for side in ("learn", "held-out"))
        with ExitStack() as files:
            learn, held = (files.enter_context(ExampleWriter(file)) for file in (learnt, measured))
            self._hold_out(held)
            self._learn(learn, held)
            if learn.lengths:
                examples, others = learn.finish(), held.finish()
            else:  # so few rows that the seed would hold out all
                learn = held
                examples, others = None if self._held_out else held.finish(as_=learnt), None
        if examples is None:
            raise self._nothing()
        prepared = self._prepared(examples, others, learn.lengths, mark)
        beside = beside_of(kept)
        beside.write_text(json.dumps(_plain(prepared)), encoding="utf-8")
        beside.replace(kept)
        return prepared

    def _hold_out(self, held: ExampleWriter) -> None:
        """The rows of a source that is held out as a whole."""
        if self._held_out:
            rows, mapping = self._held_out
            for index, _, example, learnable in self._examples(rows, mapping, rows.count):
                self._keys.append(content_key(example))
                held.add(learnable, index, 1)
                self._tally.take(learnable)
            self._keys = array("Q", sorted(self._keys))
            if not held.lengths:
                raise self._nothing()

    def _learn(self, learn: ExampleWriter, held: ExampleWriter) -> None:
        preparation, before = self._preparation, 0
        shares = fair_shares([rows.count for rows, _, _ in self._sources], preparation.most_rows)
        for number, ((rows, mapping, weight), share) in enumerate(zip(self._sources, shares, strict=True)):
            for index, place, example, learnable in self._examples(rows, mapping, share):
                key, often = content_key(example), times(weight, number, index, preparation.seed)
                if self._is_apart(key):
                    said = f"{place} is among the rows that are held out, too."
                    self._tally.drop(BadRow(said, "It is measured with.", Reason.HELD_OUT), place)
                    continue
                side = learn
                if not self._held_out and is_held_out(key, preparation.held_out, preparation.seed):
                    side, often = held, 1
                side.add(learnable, before + index, often)
                if often:
                    self._tally.take(learnable)
            before += rows.count

    def _is_apart(self, key: int) -> bool:
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and self._keys[at] == key

    def _examples(self, rows: Rows, mapping: ColumnMapping, most: int) -> Iterator[tuple[int, str, Example, Learnable]]:
        """The rows that can be learnt from, with index and place; the others are counted. Raises Stopped."""
        batches = rows.batches(mapping.used)
        for index, row in islice(((start + at, row) for start, batch in batches for at, row in enumerate(batch)), most):
            if self._stop.is_set():
                raise Stopped
            place = rows.place(index)
            self._tally.rows += 1
            try:
                example = read(row, mapping, place)
                yield index, place, example, self._learnable(example, row, mapping, place)
            except BadRow as error:
                self._tally.drop(error, place)
            self._say(self._tally.rows)

    def _learnable(self, example: Example, row: dict[str, Any], mapping: ColumnMapping, place: str) -> Learnable:
        if sum(len(text) for _, text in texts_of(row, mapping)) < LONG_CHARS:
            return self._maker.make(example, place)
        return patiently(lambda: self._maker.make(example, place), self._stop)

    def _prepared(self, learn: Examples, held: Examples | None, lengths: array[int], mark: str) -> Prepared:
        tally, limit = self._tally, self._preparation.limit
        return Prepared(
            learn=learn,
            held_out=held,
            rows=tally.rows,
            dropped=tuple(
                Dropped(reason.value, lot.rows, tuple(lot.places), lot.example)
                for reason, lot in sorted(tally.dropped.items(), key=lambda each: -each[1].rows)
            ),
            cut=tally.cut,
            lost=tally.lost,
            endless=tally.endless,
            percentiles=percentiles(sorted(lengths)),
            packing=saved_by_packing(lengths, limit),
            fingerprint=mark,
        )

    def _nothing(self) -> InputError:
        dropped, rows = self._tally.dropped, self._tally.rows
        if not dropped:
            return InputError("No row is left to learn from.", "Choose a larger weight, or another seed.")
        reason, lot = max(dropped.items(), key=lambda each: each[1].rows)
        return InputError(
            f"No row can be learnt from: {lot.rows:,} of {rows:,} are dropped because of “{reason}”. {lot.example}",
            _HINTS.get(reason, "Correct the rows, or choose what their columns mean by hand."),
        )


_HINTS = {
    Reason.NO_REPLY: "Choose the column that holds the answers, or learn every token instead of replies.",
    Reason.REFUSED: "See what the template refuses at Preview: some allow no system prompt, or no tools.",
    Reason.UNPROVEN: "Learn the last reply alone, or every token; or use a template with {% generation %}.",
    Reason.TOO_LONG: "Raise the limit, or have longer rows cut.",
    Reason.CUT_AWAY: "Raise the limit: the replies begin behind it.",
    Reason.HELD_OUT: "Hold out other rows than those that are learnt, or let a share be split off.",
}


# What was made before


def _plain(prepared: Prepared) -> dict[str, Any]:
    plain = asdict(prepared)
    for side in ("learn", "held_out"):
        if plain[side]:
            plain[side]["file"] = plain[side]["file"].name
    return plain


def _kept(file: Path, mark: str) -> Prepared | None:
    """What was made of the same; None where nothing was, or not all of it is there."""
    if not file.is_file():
        return None
    plain = json.loads(file.read_text(encoding="utf-8"))
    if plain["fingerprint"] != mark:
        return None
    for side in ("learn", "held_out"):
        if plain[side]:
            plain[side] = Examples(**plain[side] | {"file": file.parent / plain[side]["file"]})
            if not plain[side].file.is_file():
                return None
    plain["dropped"] = tuple(Dropped(**each | {"places": tuple(each["places"])}) for each in plain["dropped"])
    plain["percentiles"] = tuple((share, length) for share, length in plain["percentiles"])
    return Prepared(**plain)
