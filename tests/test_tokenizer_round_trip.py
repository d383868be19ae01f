"""Ids into text, ids that somebody types, and what a text loses on its way there and back."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers_made import EVERY, byte_level, python_only, sentencepiece_bpe, unigram, wordpiece
from transformers import PreTrainedTokenizerFast

from studio.errors import InputError
from studio.tokenizer import decoded, parse_ids, round_trip

# Ids that somebody types


@pytest.mark.parametrize(
    ("typed", "ids"),
    [
        ("1, 2 3 [4]", (1, 2, 3, 4)),
        ("[[1,2],\n [3]]", (1, 2, 3)),
        ("(7;8)", (7, 8)),
        ("-1", (-1,)),
        ("", ()),
        (" [ ] ", ()),
        ("007", (7,)),
    ],
)
def test_ids_are_read_from_what_people_paste(typed, ids):
    assert parse_ids(typed) == ids


@pytest.mark.parametrize("word", ["two", "1.5", "0x10", "١٢", "1e3", "--1", "²"])
def test_a_word_that_is_no_id_is_named(word):
    with pytest.raises(InputError) as caught:
        parse_ids(f"1, {word}, 3")
    assert caught.value.message == f"{word!r} is not the id of a token."


def test_a_word_of_many_digits_is_named_by_its_beginning():
    with pytest.raises(InputError) as caught:
        parse_ids("9" * 5000)
    assert caught.value.message == f"'{'9' * 30}…' is not the id of a token."


# Ids into text


@pytest.mark.parametrize("name", EVERY)
def test_ids_become_the_text_that_transformers_makes_of_them(name):
    tokenizer = EVERY[name]()
    ids = tokenizer("The text and the café").input_ids
    assert decoded(tokenizer, ids) == tokenizer.decode(ids)
    assert decoded(tokenizer, ids, special_tokens=False) == tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded(tokenizer, []) == ""


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("wrong", [-1, 100_000, 2**31, 2**70])
def test_an_id_out_of_range_is_named_with_the_size_of_the_vocabulary(name, wrong):
    tokenizer = EVERY[name]()
    with pytest.raises(InputError) as caught:
        decoded(tokenizer, [5, wrong, 6])
    assert f"id {wrong}: the vocabulary has {len(tokenizer):,} tokens" in caught.value.message
    with pytest.raises(InputError):
        decoded(tokenizer, [len(tokenizer)])
    decoded(tokenizer, [len(tokenizer) - 1])


# There and back


@given(text=st.text(max_size=80))
@example(text="")
@example(text="\x00\u200d\u0301")
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_byte_level_tokenizer_loses_nothing(text):
    trip = round_trip(byte_level(), text)
    assert trip.difference is None
    assert trip.text == text


@pytest.mark.parametrize("name", EVERY)
@given(text=st.text(max_size=40))
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_first_difference_is_the_first_one(name, text):
    tokenizer = EVERY[name]()
    trip = round_trip(tokenizer, text)
    assert trip.text == tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids)
    assert (trip.difference is None) == (trip.text == text)
    if trip.difference:
        at = trip.difference.at
        assert text[:at] == trip.text[:at]
        assert text[at : at + 1] != trip.text[at : at + 1]
        assert trip.difference.words.endswith(".")


@pytest.mark.parametrize(
    ("made", "text", "loss", "at", "by_normalizer"),
    [
        (wordpiece, "the Text", "case", 4, True),
        (wordpiece, "the café", "accent", 7, True),
        (wordpiece, "the cafe\u0301", "accent", 8, True),
        (wordpiece, "a\x00b", "removed", 1, True),
        (wordpiece, "the  text", "space", 4, False),
        (wordpiece, "the\u3000text", "space", 3, True),
        (wordpiece, "don't", "space", 3, False),
        (wordpiece, "the 😀", "unknown", 4, False),
        (wordpiece, "the text ", "space", 8, False),
        (unigram, "the \ufb01x", "form", 4, True),
        (unigram, "cafe\u0301", "form", 3, True),
        (unigram, "the 😀", "unknown", 4, False),
        (sentencepiece_bpe, " the", "space", 0, False),
        (python_only, "a</s> b", "space", 5, False),
    ],
)
def test_the_kind_of_loss_is_told(made, text, loss, at, by_normalizer):
    difference = round_trip(made(), text).difference
    assert (difference.loss, difference.at, difference.by_normalizer) == (loss, at, by_normalizer)


def test_the_loss_is_told_in_words():
    assert round_trip(wordpiece(), "the Text").difference.words == (
        "The normalizer does not keep upper and lower case: 'T' became 't' at character 5."
    )


def test_what_a_tokenizer_adds_is_told():
    from tokenizers import normalizers

    adding = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    adding.normalizer = normalizers.Prepend("x")
    difference = round_trip(PreTrainedTokenizerFast(tokenizer_object=adding), "the text").difference
    assert (difference.loss, difference.by_normalizer, difference.at) == ("added", True, 0)
