"""Texts as the grid that a model gets, and a tokenizer that is afterwards as it was."""

from __future__ import annotations

import copy
import dataclasses
import json
import threading

import pytest
from tokenizers_made import EVERY, byte_level, characters, python_only, sentencepiece_bpe, unigram, wordpiece

from studio.errors import InputError
from studio.tokenizer import BatchSettings, grid

TEXTS = ["The tokenizer reads the text", "the model", ""]
SECONDS = ["the lowest price", "a newer and wider one", "the"]


def tokens_of(found):
    return [row.tokens for row in found.rows]


def theirs(tokenizer, *texts, **options):
    """By transformers, on a tokenizer of its own."""
    return copy.deepcopy(tokenizer)(*texts, return_special_tokens_mask=True, **options)


# The grid

SAME = {
    "filled to the longest": ({}, {"padding": True}),
    "neither": ({"padding": "off"}, {}),
    "filled on the left": ({"padding_side": "left"}, {"padding": True, "padding_side": "left"}),
    "filled to a multiple": ({"pad_to_multiple_of": 8}, {"padding": True, "pad_to_multiple_of": 8}),
    "filled to the maximum": (
        {"padding": "max length", "max_length": 40}, {"padding": "max_length", "max_length": 40}
    ),
    "cut": (
        {"truncation": "longest first", "max_length": 6},
        {"padding": True, "truncation": "longest_first", "max_length": 6},
    ),
    "without special tokens": ({"special_tokens": False}, {"padding": True, "add_special_tokens": False}),
}  # fmt: skip


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("ours", "options"), SAME.values(), ids=SAME.keys())
@pytest.mark.parametrize("made", [byte_level, unigram, wordpiece, python_only])
def test_rows_are_those_of_transformers(made, ours, options, pairs):
    texts = (TEXTS, SECONDS) if pairs else (TEXTS,)
    found = grid(made(), TEXTS, BatchSettings(**ours), seconds=SECONDS if pairs else None)
    expected = theirs(made(), *texts, **options)
    assert [list(row.ids) for row in found.rows] == expected["input_ids"]
    assert [list(row.attention) for row in found.rows] == expected["attention_mask"]
    assert [list(row.special) for row in found.rows] == expected["special_tokens_mask"]
    assert [list(row.types) for row in found.rows] == expected.get("token_type_ids", [[]] * 3)
    assert found.cells == sum(map(len, expected["input_ids"]))
    assert found.padded == found.cells - sum(map(sum, expected["attention_mask"]))


def test_what_is_cut_off_is_further_rows_that_repeat_the_stride():
    settings = BatchSettings(padding="off", truncation="longest first", max_length=5, overflow=True, stride=1)
    found = grid(wordpiece(), ["the text and the model reads", "the"], settings)
    assert [(row.text, row.part) for row in found.rows] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert tokens_of(found)[:2] == [("[CLS]", "the", "text", "and", "[SEP]"), ("[CLS]", "and", "the", "model", "[SEP]")]
    assert found.cut == 0


def test_without_further_rows_what_is_cut_off_is_counted():
    settings = BatchSettings(padding="off", truncation="longest first", max_length=5)
    found = grid(wordpiece(), ["the text and the model reads", "the"], settings)
    assert tokens_of(found) == [("[CLS]", "the", "text", "and", "[SEP]"), ("[CLS]", "the", "[SEP]")]
    assert found.cut == 3


@pytest.mark.parametrize(("side", "kept"), [("right", ("the", "text")), ("left", ("model", "reads"))])
def test_either_end_can_be_cut(side, kept):
    settings = BatchSettings(truncation="longest first", max_length=4, truncation_side=side)
    assert tokens_of(grid(wordpiece(), ["the text and the model reads"], settings))[0][1:3] == kept


@pytest.mark.parametrize(
    ("which", "kept"),
    [
        ("only first", ("[CLS]", "the", "[SEP]", "and", "the", "[SEP]")),
        ("only second", ("[CLS]", "the", "text", "[SEP]", "and", "[SEP]")),
    ],
)
def test_either_of_a_pair_can_be_cut(which, kept):
    settings = BatchSettings(truncation=which, max_length=6)
    found = grid(wordpiece(), ["the text"], settings, seconds=["and the"])
    assert tokens_of(found) == [kept]
    assert found.cut == 1


def test_a_pair_tells_its_texts_apart():
    row = grid(wordpiece(), ["the text"], BatchSettings(), seconds=["and"]).rows[0]
    assert row.types == (0, 0, 0, 0, 1, 1)
    assert row.sequences == (None, 0, 0, None, 1, None)
    assert row.offsets == ((0, 0), (0, 3), (4, 8), (0, 0), (0, 3), (0, 0))


def test_a_grid_becomes_json():
    assert json.loads(json.dumps(dataclasses.asdict(grid(wordpiece(), TEXTS, BatchSettings()))))["cut"] == 0


# Settings that contradict themselves, or the texts


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"truncation": "longest first"}, "Max length is not set"),
        ({"padding": "max length"}, "Max length is not set"),
        ({"overflow": True}, "Nothing is cut off"),
        ({"stride": 2}, "Stride is 2 without further rows"),
        ({"stride": -1}, "Stride is -1"),
        ({"padding": "some"}, "Padding is 'some'"),
        ({"max_length": 0}, "Max length is 0"),
        ({"truncation": "longest first", "max_length": 9, "pad_to_multiple_of": 8}, "no multiple of 8"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        BatchSettings(**wrong)


@pytest.mark.parametrize(
    ("made", "settings", "seconds", "message"),
    [
        (wordpiece, {"truncation": "longest first", "max_length": 2}, None, "2 special tokens, .* has room for 0"),
        (wordpiece, {"truncation": "only second", "max_length": 9}, None, "no second text"),
        (wordpiece, {"truncation": "only first", "max_length": 6}, SECONDS, "Text 1 does not fit: besides 3 special"),
        (
            wordpiece,
            {"truncation": "longest first", "max_length": 9, "overflow": True, "stride": 2},
            SECONDS,
            "is not defined with longest first",
        ),
        (
            unigram,
            {"truncation": "longest first", "max_length": 5, "overflow": True, "stride": 4},
            None,
            "has room for 4, and 4 would be repeated",
        ),
        (python_only, {"truncation": "only second", "max_length": 9}, SECONDS, "Text 1 does not fit"),
    ],
)
def test_what_the_tokenizer_cannot_do_is_refused_before_it_fails(made, settings, seconds, message):
    with pytest.raises(InputError, match=message):
        grid(made(), TEXTS, BatchSettings(**settings), seconds=seconds)


def test_a_tokenizer_that_cannot_fill_up_says_what_to_do():
    with pytest.raises(InputError, match="no token to fill up with") as caught:
        grid(sentencepiece_bpe(), TEXTS, BatchSettings())
    assert "</s>" in caught.value.hint
    with pytest.raises(InputError, match="no token to fill up with"):
        grid(characters(), TEXTS, BatchSettings())
    assert grid(characters(), TEXTS, BatchSettings(padding="off")).padded == 0


@pytest.mark.parametrize(
    ("texts", "seconds", "message"),
    [
        ([], None, "no texts"),
        (["a", "b"], ["c"], "2 first and 1 second"),
        (["a"] * 1001, None, "1,001 texts"),
        (["a", "b\ud83d"], None, "half a character"),
    ],
)
def test_texts_that_are_none_are_refused(texts, seconds, message):
    with pytest.raises(InputError, match=message):
        grid(wordpiece(), texts, BatchSettings(), seconds=seconds)


def test_a_tokenizer_in_python_says_what_it_does_not_do():
    settings = BatchSettings(truncation="longest first", max_length=6, overflow=True)
    found = grid(python_only(), TEXTS, settings)
    assert [row.part for row in found.rows] == [0, 0, 0]
    assert found.cut == len(TEXTS[0]) + len(TEXTS[1]) - 10
    assert len(found.notes) == 2
    assert found.rows[0].offsets == ()


# The tokenizer of everybody

CUTTING = BatchSettings(padding="off", truncation="longest first", max_length=4, truncation_side="left")


@pytest.mark.parametrize("name", EVERY)
def test_the_tokenizer_is_left_as_it_was(name):
    tokenizer = EVERY[name]()
    backend = getattr(tokenizer, "backend_tokenizer", None)

    def state():
        rust = backend.to_str() if backend else ""
        return rust, tokenizer.padding_side, tokenizer.truncation_side, tokenizer(TEXTS).input_ids

    before = state()
    grid(tokenizer, TEXTS, CUTTING)
    assert state() == before


def test_two_threads_with_different_settings_do_not_disturb_each_other():
    tokenizer, wrong = wordpiece(), []
    kinds = [CUTTING, BatchSettings(padding="max length", max_length=30, padding_side="left"), BatchSettings()]
    expected = [grid(tokenizer, TEXTS, settings) for settings in kinds]

    def work(settings, should):
        wrong.extend("other rows" for _ in range(100) if grid(tokenizer, TEXTS, settings) != should)

    threads = [threading.Thread(target=work, args=both) for both in zip(kinds, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
