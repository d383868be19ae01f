"""Rows of like length are learnt together, each once an epoch, and the same seed gives the same batches."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
import training_steps as steps

from studio.training.batches import IGNORED, Batches, Collator

RANDOM = numpy.random.default_rng(0)
MIXED = numpy.minimum(RANDOM.lognormal(5.2, 0.7, 999), 761).astype(int)
"""Lengths like those of Alpaca: median 180, a long tail."""


def rows_of(batches: list[Any]) -> list[int]:
    return [row for batch in batches for sequence in batch for row in sequence]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_has_every_row_once_within_the_budget(packs, epoch):
    batches = Batches(MIXED, 2048, seed=3, packs=packs)
    made = batches.of(epoch)
    assert sorted(rows_of(made)) == list(range(len(MIXED)))
    assert all(batches.padded(batch) <= 2048 for batch in made)
    assert len(made) == len(batches)


@pytest.mark.parametrize("packs", [False, True])
def test_every_epoch_has_other_neighbours_and_as_many_batches(packs):
    batches = Batches(MIXED, 2048, seed=3, packs=packs)
    one, other = ({frozenset(rows_of([batch])) for batch in batches.of(epoch)} for epoch in (0, 1))
    assert len(one) == len(other) == len(batches)
    assert len(one & other) < len(one) / 10


def test_the_same_seed_and_epoch_give_the_same_batches_and_another_seed_does_not():
    assert Batches(MIXED, 2048, seed=3).of(2) == Batches(MIXED, 2048, seed=3).of(2)
    assert Batches(MIXED, 2048, seed=3).of(2) != Batches(MIXED, 2048, seed=4).of(2)


def test_hardly_anything_is_padding():
    batches = Batches(MIXED, 2048, seed=0)
    padded = sum(batches.padded(batch) for batch in batches.of(0))
    assert MIXED.sum() / padded > 0.93  # shuffled, eight at a time, it is less than a half
    packed = Batches(numpy.minimum(MIXED, 512), 2048, seed=0, packs=True)
    assert numpy.minimum(MIXED, 512).sum() / sum(packed.padded(batch) for batch in packed.of(0)) > 0.93


def test_a_row_that_is_longer_than_the_budget_stands_alone():
    batches = Batches(numpy.array([5, 300, 7, 6]), 64, seed=0)
    assert [batch for batch in batches.of(0) if (1,) in batch] == [[(1,)]]
    assert sorted(rows_of(batches.of(0))) == [0, 1, 2, 3]


def test_the_order_of_the_batches_is_not_that_of_the_lengths():
    batches = Batches(MIXED, 2048, seed=0)
    lengths = [MIXED[batch[0][0]] for batch in batches.of(0)]
    assert abs(numpy.corrcoef(lengths, range(len(lengths)))[0, 1]) < 0.3
    in_order = [MIXED[batch[0][0]] for batch in batches.in_order()]
    assert numpy.corrcoef(in_order, range(len(in_order)))[0, 1] > 0.8


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = [
        {"input_ids": [11, 12, 13, 14], "trained": [True, False, True, True], "length": 4, "row": 0},
        {"input_ids": [21, 22], "trained": [True, True], "length": 2, "row": 1},
        {"input_ids": [31, 32, 33], "trained": [False, True, True], "length": 3, "row": 2},
    ]
    return steps.written(tmp_path_factory.mktemp("rows"), made).open()


def test_rows_are_padded_on_the_right_and_only_what_is_trained_has_a_label(rows):
    batch = Collator(rows, pad=0, mask=True, packs=False)([(0,), (1,)])
    assert batch["input_ids"].tolist() == [[11, 12, 13, 14], [21, 22, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 13, 14], [-100, 22, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["tokens"] == 6
    assert {tensor.dtype for name, tensor in batch.items() if name != "tokens"} == {torch.int64}


def test_a_mask_is_there_only_where_it_is_asked_for(rows):
    assert Collator(rows, pad=0, mask=False, packs=False)([(0,)]).keys() == {"input_ids", "labels", "tokens"}


def test_no_sequences_are_one_token_that_is_not_trained(rows):
    for mask, packs in ((True, False), (False, True), (False, False)):
        batch = Collator(rows, pad=7, mask=mask, packs=packs)([])
        assert batch.pop("tokens") == 0
        assert {tuple(tensor.shape) for tensor in batch.values()} == {(1, 1)}
        assert (batch["input_ids"].item(), batch["labels"].item()) == (7, IGNORED)


def test_packed_rows_begin_to_count_anew_and_none_is_learnt_from_the_row_before_it(rows):
    batch = Collator(rows, pad=0, mask=True, packs=True)([(1, 2), (0,)])
    assert batch["input_ids"].tolist() == [[21, 22, 31, 32, 33], [11, 12, 13, 14, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]]
    assert batch["labels"].tolist() == [[-100, 22, -100, 32, 33], [-100, -100, 13, 14, -100]]
    assert "attention_mask" not in batch


def test_each_epoch_of_a_run_reads_its_own_batches(pico, tmp_path):
    lengths = numpy.random.default_rng(1).integers(8, 60, 40).tolist()
    data = steps.prepared(steps.examples(tmp_path, lengths))
    events = list(steps.train(pico, data, steps.run_of(pico, epochs=2.0), tmp_path / "run"))
    read = [event.tokens for event in steps.of_kind(events, steps.training.Stepped)]
    batches = Batches(numpy.array(lengths), 128, seed=0)
    wanted = [sum(lengths[row] for row in rows_of([batch])) for epoch in (0, 1) for batch in batches.of(epoch)]
    assert read == wanted
    assert sum(read) == 2 * sum(lengths) == events[-1].result.tokens
