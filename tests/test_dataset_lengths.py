"""A dataset in tokens: counted as the model reads it, summed up rightly, cut and packed; stopped when nobody waits."""

from __future__ import annotations

import json
import pickle
import random
import time
from array import array
from dataclasses import asdict, replace

import numpy
import pytest
from dataset_steps import result, rows_of
from pico import CHAT_TEMPLATE, byte_tokenizer

from studio import dataset
from studio.dataset import FAILED, Bin, ColumnMapping, Format
from studio.errors import InputError
from studio.events import Phase, Progress

TEXT = ColumnMapping.of(Format.TEXT, text="text")
CHAT = ColumnMapping.of(Format.MESSAGES, messages="messages")
PAIR = ColumnMapping.of(Format.PROMPT_COMPLETION, prompt="prompt", completion="completion")


def conversation(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="module")
def tokenizer():
    made = byte_tokenizer()
    made.chat_template = CHAT_TEMPLATE
    return made


@pytest.fixture
def lengths(tmp_path, tokenizer):
    """Texts of 1 to 200 bytes."""
    return result(dataset.measure(rows_of(tmp_path, [{"text": "x" * n} for n in range(1, 201)]), tokenizer, TEXT))


# Counting


def test_a_conversation_has_the_tokens_that_transformers_gives_it(tmp_path, tokenizer):
    rows = [conversation("Hé 😀" * n, "Ja." * n) for n in range(1, 30)]
    measured = result(dataset.measure(rows_of(tmp_path, rows), tokenizer, CHAT))
    theirs = [len(tokenizer.apply_chat_template(row["messages"])["input_ids"]) for row in rows]
    assert list(measured.lengths) == theirs
    assert (measured.rows, measured.tokens, measured.failed) == (29, sum(theirs), 0)


def test_a_prompt_and_its_completion_are_turns_where_there_is_a_template_and_one_text_where_not(tmp_path, tokenizer):
    rows = rows_of(tmp_path, [{"prompt": "1 + 1 =", "completion": " 2"}])
    chat = conversation("1 + 1 =", " 2")["messages"]
    with_template = result(dataset.measure(rows, tokenizer, PAIR))
    assert with_template.tokens == len(tokenizer.apply_chat_template(chat)["input_ids"])
    assert result(dataset.measure(rows, byte_tokenizer(), PAIR)).tokens == len("1 + 1 = 2")


def test_a_tokenizers_own_special_tokens_count_where_no_template_brings_them(tmp_path):
    from tokenizers.processors import TemplateProcessing

    made = byte_tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    rows = rows_of(tmp_path, [{"text": "four", **conversation("a", "b")}])
    assert result(dataset.measure(rows, made, TEXT)).tokens == 5
    made.chat_template = CHAT_TEMPLATE
    assert result(dataset.measure(rows, made, TEXT)).tokens == 5
    expected = made.apply_chat_template(conversation("a", "b")["messages"], tokenize=False)
    assert result(dataset.measure(rows, made, CHAT)).tokens == len(made(expected, add_special_tokens=False).input_ids)


def test_a_tokenizer_file_that_cuts_and_pads_does_not_cut_what_is_counted(tmp_path):
    made = byte_tokenizer()
    made.backend_tokenizer.enable_truncation(4)
    made.backend_tokenizer.enable_padding(length=4)
    rows = rows_of(tmp_path, [{"text": "x"}, {"text": "x" * 9}])
    assert list(result(dataset.measure(rows, made, TEXT)).lengths) == [1, 9]
    assert made.backend_tokenizer.truncation["max_length"] == 4, "it is not ours to change"


def test_a_tokenizer_without_a_rust_part_counts_too(tmp_path):
    from transformers import ByT5Tokenizer

    slow = ByT5Tokenizer()
    rows = rows_of(tmp_path, [{"text": "abc"}, {"text": "é"}])
    assert list(result(dataset.measure(rows, slow, TEXT)).lengths) == [4, 3]  # with </s>


def test_rows_that_cannot_be_read_are_listed_and_the_others_counted(tmp_path, tokenizer):
    rows = rows_of(tmp_path, [conversation("a", "b"), {"messages": None}, conversation("a", None)] * 20)
    measured = result(dataset.measure(rows, tokenizer, CHAT))
    assert (measured.rows, measured.failed, len(measured.failures)) == (60, 40, 10)
    assert list(measured.lengths[:4]) == [measured.lengths[0], FAILED, FAILED, measured.lengths[0]]
    assert measured.failures[0].row == 1
    assert measured.failures[0].reason == "rows.jsonl, row 2, column 'messages' is null or empty."
    assert measured.failures[1].reason == "rows.jsonl, row 3, column 'messages', turn 2: content is null."


def test_a_template_that_refuses_a_row_is_a_reason(tmp_path, tokenizer):
    strict = byte_tokenizer()
    strict.chat_template = "{% if messages|length > 2 %}{{ raise_exception('Too long.') }}{% endif %}" + CHAT_TEMPLATE
    long = conversation("a", "b")["messages"] * 2
    measured = result(dataset.measure(rows_of(tmp_path, [conversation("a", "b"), {"messages": long}]), strict, CHAT))
    assert measured.failed == 1
    assert "Too long." in measured.failures[0].reason


def test_a_dataset_without_a_row_that_can_be_read_is_an_error_with_the_first_reason(tmp_path, tokenizer):
    rows = rows_of(tmp_path, [{"messages": None}, {"messages": "x"}])
    with pytest.raises(InputError, match=r"No row of rows\.jsonl can be read: .*row 1, column 'messages' is null"):
        result(dataset.measure(rows, tokenizer, CHAT))
    with pytest.raises(InputError, match="no column 'text'"):
        result(dataset.measure(rows, tokenizer, TEXT))


# Summing up


def test_the_figures_are_those_of_the_rows(lengths):
    assert lengths.percentiles == ((50, 100), (90, 180), (95, 190), (99, 198), (100, 200))
    assert lengths.tokens == sum(range(1, 201))
    assert [(long.row, long.tokens) for long in lengths.longest[:2]] == [(199, 200), (198, 199)]
    assert lengths.longest[0].place == "rows.jsonl, row 200"
    assert len(lengths.longest) == 10
    assert lengths.histogram[:2] == (Bin(0, 10, 9), Bin(10, 20, 10))
    assert sum(part.rows for part in lengths.histogram) == 200


def test_a_few_very_long_rows_do_not_flatten_the_histogram(tmp_path, tokenizer):
    rows = rows_of(tmp_path, [{"text": "x" * (n % 50 + 1)} for n in range(500)] + [{"text": "x" * 9000}])
    bins = result(dataset.measure(rows, tokenizer, TEXT)).histogram
    assert bins[-1].end is None
    assert bins[-1].rows == 1
    assert 10 <= len(bins) <= 25
    assert bins[-1].start <= 60


def test_the_result_is_a_value(lengths):
    assert pickle.loads(pickle.dumps(lengths)) == lengths
    held = json.loads(json.dumps(asdict(lengths), default=list))
    assert held["lengths"] == list(range(1, 201))
    assert len(pickle.dumps(lengths.lengths)) < 4 * 200 + 200


# Special tokens in texts


def test_a_text_that_spells_a_special_token_is_found_with_its_column(tmp_path, tokenizer):
    rows = [
        conversation("What is <|end|> for?", "It ends a turn."),
        conversation("a", "b"),
        conversation("a", "<|user|>"),
    ]
    measured = result(dataset.measure(rows_of(tmp_path, rows), tokenizer, CHAT))
    assert measured.colliding == 2, "the template's own tokens are no collision"
    first, second = measured.collisions
    assert (first.row, first.column, first.token) == (0, "messages", "<|end|>")
    assert "is <|end|> for" in first.around
    assert (second.row, second.place, second.token) == (2, "rows.jsonl, row 3", "<|user|>")


def test_a_spelling_that_is_read_as_text_is_no_collision(tmp_path):
    from transformers import AddedToken

    made = byte_tokenizer()
    made.add_special_tokens({"additional_special_tokens": [AddedToken("END", single_word=True, special=True)]})
    rows = rows_of(tmp_path, [{"text": "The ENDING"}, {"text": "The END of it"}])
    assert [found.row for found in result(dataset.measure(rows, made, TEXT)).collisions] == [1]


def test_the_column_of_a_collision_is_that_of_the_text(tmp_path, tokenizer):
    rows = rows_of(tmp_path, [{"prompt": "a", "completion": "b<|end|>", "other": "<|pad|>"}])
    (found,) = result(dataset.measure(rows, tokenizer, PAIR)).collisions
    assert (found.column, found.token) == ("completion", "<|end|>")


# Progress and Stop


def test_progress_counts_the_rows(tmp_path, tokenizer):
    rows = rows_of(tmp_path, [{"text": "x"}] * 3000)
    *events, _ = dataset.measure(rows, tokenizer, TEXT)
    assert events[0] == Progress(Phase.COUNT, 0, 3000)
    assert events[-1] == Progress(Phase.COUNT, 3000, 3000)


@pytest.mark.parametrize("sizes", [[500] * 20_000, [30_000_000] * 2], ids=["many rows", "rows of 30 MB"])
def test_counting_that_is_closed_stops_at_once(tmp_path, tokenizer, sizes):
    rows = rows_of(tmp_path, ({"text": "x " * (size // 2)} for size in sizes))
    events = dataset.measure(rows, tokenizer, TEXT)
    next(events)
    next(events)
    begin = time.monotonic()
    events.close()
    assert time.monotonic() - begin < 3  # it takes some 0.1; all of it would take 20


# Cutting and packing


def best_fit(sizes, limit):
    """The same packing, row by row."""
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else limit) - size)
    return len(rooms)


def test_a_cut_off_says_what_is_lost(lengths):
    cut = dataset.at_cut_off(lengths, 150)
    assert (cut.truncated, cut.truncated_share) == (50, 0.25)
    assert cut.lost_tokens == sum(range(1, 51))
    assert cut.lost_share == cut.lost_tokens / lengths.tokens
    whole = dataset.at_cut_off(lengths, 200)
    assert (whole.truncated, whole.lost_tokens) == (0, 0)


def test_packing_is_best_fit_with_the_longest_first(lengths):
    chance = random.Random(0)
    for _ in range(300):
        limit = chance.randint(1, 60)
        sizes = [chance.randint(0, 80) for _ in range(chance.randint(1, 70))]
        cut = [min(size, limit) for size in sizes if size]
        found = dataset.at_cut_off(replace(lengths, lengths=array("i", [FAILED, *sizes])), limit)
        assert found.bins == best_fit(cut, limit), (limit, sizes)


def test_packing_is_compared_with_both_ways_of_padding(lengths):
    held = replace(lengths, lengths=array("i", [2, 8, 4, 6, FAILED, 5]))
    cut = dataset.at_cut_off(held, 10, batch=2)
    assert cut.bins == 3  # 8 + 2, 6 + 4, 5
    assert cut.saved_against_limit == pytest.approx(1 - 3 / 5)
    assert cut.saved_against_batch == pytest.approx(1 - 30 / (2 * 8 + 2 * 6 + 5))
    with pytest.raises(InputError, match="limit is 0"):
        dataset.at_cut_off(held, 0)


def test_a_million_rows_are_cut_and_packed_while_a_slider_moves(lengths):
    sizes = numpy.random.default_rng(0).lognormal(6, 1, 1_000_000).astype(numpy.int32)
    held = replace(lengths, lengths=array("i", sizes.tobytes()))
    begin = time.monotonic()
    dataset.at_cut_off(held, 4096)
    assert time.monotonic() - begin < 3  # it takes some 0.05; row by row it would take an hour
