"""What the tests of training share: rows as prepared examples, a run, and its events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
from datasets import Dataset
from pico import load_pico

from studio import training
from studio.dataset.preparation import Examples, Prepared
from studio.events import Finished, Progress
from studio.loading import LoadPlan
from studio.models import ModelRef, Precision
from studio.training import DataSource, TrainingRun, TrainingSettings


def examples(folder: Path, lengths: Sequence[int], *, seed: int = 0, prompt: int = 3) -> Examples:
    """Rows of random bytes of these lengths in an Arrow file; all but the first tokens are trained."""
    random = numpy.random.default_rng(seed)
    rows = [
        {
            "input_ids": random.integers(5, 261, length).astype("int32"),
            "trained": [index >= prompt for index in range(length)],
            "length": length,
            "row": row,
        }
        for row, length in enumerate(lengths)
    ]
    return written(folder, rows)


def written(folder: Path, rows: list[dict[str, Any]]) -> Examples:
    """Rows as the file that training reads."""
    from datasets import Features, List, Value

    kinds = Features(
        input_ids=List(Value("int32")), trained=List(Value("bool")), length=Value("int32"), row=Value("int32")
    )
    made = Dataset.from_list(rows, features=kinds)
    file = folder / f"rows-{len(list(folder.glob('rows-*')))}"
    made.save_to_disk(str(file))
    lengths = [row["length"] for row in rows]
    trained = sum(sum(row["trained"]) for row in rows)
    return Examples(next(file.glob("*.arrow")), len(rows), sum(lengths), trained, max(lengths))


def prepared(learn: Examples, held_out: Examples | None = None, fingerprint: str = "one") -> Prepared:
    """What preparing rows ends with."""
    return Prepared(
        learn=learn,
        held_out=held_out,
        rows=learn.count,
        dropped=(),
        cut=0,
        lost=0,
        endless=0,
        percentiles=((100, learn.longest),),
        packing=0.0,
        fingerprint=fingerprint,
    )


def run_of(folder: Path, *, prompts: tuple[str, ...] = (), **settings: Any) -> TrainingRun:
    """A run on the model of a folder, quick and in fp32 unless the settings say otherwise."""
    usual = {"compute": "fp32", "rank": 4, "alpha": 8, "learning_rate": 1e-2, "batch_tokens": 128, "epochs": 1.0}
    return TrainingRun(
        LoadPlan(ModelRef("folder", str(folder)), Precision.FP32),
        (DataSource("rows.jsonl"),),
        settings=TrainingSettings(**{**usual, **settings}),
        prompts=prompts,
    )


def train(
    pico: Path, data: Prepared, run: TrainingRun, folder: Path, *, wish: Callable[[], Any] = lambda: None
) -> Iterator[Any]:
    """The events of a run on a freshly loaded model, without those that only say that it goes on."""
    loaded = load_pico(pico)
    work = training.train(loaded.model, loaded.tokenizer, data, run, folder, wish=wish)
    try:
        yield from (event for event in work if not isinstance(event, Progress))
    finally:
        work.close()


def of_kind(events: list[Any], kind: type) -> list[Any]:
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]


def loss_of(model: Any, rows: Examples) -> float:
    """The mean loss of a model over the trained tokens of rows, one by one and as the model computes it."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows.open():
            ids = torch.tensor([row["input_ids"]])
            labels = ids.masked_fill(~torch.tensor([row["trained"]]), -100)
            scored = int((labels[:, 1:] != -100).sum())
            total += model(input_ids=ids, labels=labels).loss.item() * scored
            count += scored
    return total / count


def pattern(length: int, start: int) -> list[int]:
    """Bytes that count up: what comes next can be learnt."""
    return [5 + (start + index) % 40 for index in range(length)]


def lesson(folder: Path) -> Prepared:
    """Rows that have something to teach, and others of the same kind to measure with."""
    made = []
    for starts in (range(0, 40, 2), range(1, 40, 8)):
        rows = [
            {"input_ids": pattern(24, s), "trained": [i > 2 for i in range(24)], "length": 24, "row": s} for s in starts
        ]
        made.append(written(folder, rows))
    return prepared(*made)


def result(events: list[Any]) -> training.Learnt:
    """What a run ends with."""
    assert isinstance(events[-1], Finished)
    learnt: training.Learnt = events[-1].result
    return learnt
