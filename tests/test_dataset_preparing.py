"""Rows into examples on the disk: masks, weights, what is held out, what is dropped and why."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from chat_templates import IM, SHAPES, byte_level, shaped
from dataset_steps import read, result, rows_of
from tokenizers_made import sentencepiece_bpe

from studio import dataset
from studio.dataset import ColumnMapping, Format, Preparation, mixing
from studio.errors import InputError, Unsupported
from studio.events import Phase, Progress
from studio.generation import Prompt
from studio.generation.streaming import _prompt_ids
from studio.tokenizer import Message, load_tokenizer, mask_conversation, masked_completion, masked_text

PAIR = ColumnMapping.of(Format.PROMPT_COMPLETION, prompt="prompt", completion="completion")
TEXT = ColumnMapping.of(Format.TEXT, text="text")
TURNS = ColumnMapping.of(Format.MESSAGES, messages="messages")
ALL = Preparation(held_out=0.0)
PROVEN = [name for name, shape in SHAPES.items() if isinstance(shape.taught, list)]


@pytest.fixture
def chat():
    return shaped("chatml")


def pairs(folder, count, *, word="Say"):
    return rows_of(folder, [{"prompt": f"{word} {i}", "completion": f"It is {i}."} for i in range(count)])


def talks(folder, *talks_):
    return rows_of(folder, [{"messages": [{"role": role, "content": said} for role, said in talk]} for talk in talks_])


def prepared(sources, tokenizer, preparation=ALL, *, folder, held_out=None):
    sources = sources if isinstance(sources, list) else [sources]
    return result(dataset.prepare(sources, tokenizer, preparation, held_out=held_out, folder=folder / "examples"))


def texts(tokenizer, examples):
    return [tokenizer.decode(row["input_ids"]) for row in examples.open()] if examples else []


# The masks are those of the one function


@pytest.mark.parametrize("name", PROVEN)
def test_examples_begin_as_chat_asks_and_are_masked_as_the_tokenizer_tab_shows(name, tmp_path):
    tokenizer = shaped(name)
    rows = talks(tmp_path, [("user", "Hi"), ("assistant", "Hey")])
    (row,) = prepared((rows, TURNS, 1.0), tokenizer, folder=tmp_path).learn.open()
    asked = (Message("user", "Hi"),)
    masked = mask_conversation(tokenizer, (*asked, Message("assistant", "Hey")))
    assert (tuple(row["input_ids"]), tuple(row["trained"])) == (masked.ids, masked.trained)
    prompt = _prompt_ids(tokenizer, Prompt(asked))
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["trained"].index(True) == len(prompt)


def test_a_plain_pair_goes_through_the_template_and_without_one_is_one_text(chat, tmp_path):
    rows = rows_of(tmp_path, [{"prompt": "2+2=", "completion": "4"}])
    (row,) = prepared((rows, PAIR, 1.0), chat, folder=tmp_path).learn.open()
    turns = (Message("user", "2+2="), Message("assistant", "4"))
    assert tuple(row["input_ids"]) == mask_conversation(chat, turns).ids
    bare = byte_level(None, IM)
    (row,) = prepared((rows, PAIR, 1.0), bare, folder=tmp_path).learn.open()
    masked = masked_completion(bare, "2+2=", "4")
    assert (tuple(row["input_ids"]), tuple(row["trained"])) == (masked.ids, masked.trained)
    (row,) = prepared((rows, PAIR, 1.0), bare, replace(ALL, trained="all"), folder=tmp_path).learn.open()
    assert all(row["trained"])


def test_a_text_is_learnt_as_a_whole_and_ends(chat, tmp_path):
    rows = rows_of(tmp_path, [{"text": "abc"}])
    for tokenizer in (chat, sentencepiece_bpe()):
        found = prepared((rows, TEXT, 1.0), tokenizer, folder=tmp_path)
        (row,) = found.learn.open()
        assert tuple(row["input_ids"]) == masked_text(tokenizer, "abc").ids
        assert all(row["trained"])
        assert found.endless == 0


def test_turns_that_are_given_are_not_learnt(chat, tmp_path):
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = rows_of(tmp_path, [{"prompt": said, "completion": [{"role": "assistant", "content": "d"}]}])
    (row,) = prepared((rows, PAIR, 1.0), chat, folder=tmp_path).learn.open()
    taught = [id_ for id_, trained in zip(row["input_ids"], row["trained"], strict=True) if trained]
    assert chat.decode(taught) == "d<|im_end|>"


def test_columns_and_counts_say_what_is_in_the_file(chat, tmp_path):
    rows = rows_of(tmp_path, [{"prompt": "Say", "completion": "word " * (i % 7)} for i in range(1, 31) if i % 7])
    found = prepared((rows, PAIR, 1.0), chat, replace(ALL, limit=100), folder=tmp_path)
    data = found.learn.open()
    assert data.column_names == ["input_ids", "trained", "length", "row"]
    lengths = [len(row["input_ids"]) for row in data]
    assert data["length"][:] == lengths == [len(row["trained"]) for row in data]
    assert data["row"][:] == list(range(26))
    assert (found.rows, found.learn.count, found.learn.tokens) == (26, 26, sum(lengths))
    assert found.learn.trained == sum(sum(row["trained"]) for row in data)
    assert (found.learn.longest, dict(found.percentiles)[100]) == (max(lengths), max(lengths))
    padded = sum(max(lengths[at : at + 8]) * len(lengths[at : at + 8]) for at in range(0, len(lengths), 8))
    assert 0 < found.packing <= 1 - sum(lengths) / padded


# Weights and limits


@pytest.mark.parametrize(("weight", "least", "most"), [(2.0, 400, 400), (0.5, 70, 130), (2.5, 470, 530)])
def test_a_weight_is_how_often_a_row_occurs(chat, tmp_path, weight, least, most):
    found = prepared((pairs(tmp_path, 200), PAIR, weight), chat, folder=tmp_path)
    often = Counter(found.learn.open()["row"][:])
    assert least <= found.learn.count <= most
    assert set(often.values()) <= {int(weight), int(weight) + 1} if weight >= 1 else {1}
    again = prepared((pairs(tmp_path, 200), PAIR, weight), chat, folder=tmp_path / "again")
    assert Counter(again.learn.open()["row"][:]) == often


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(chat, tmp_path, weight):
    with pytest.raises(InputError, match="The weight of rows"):
        prepared((pairs(tmp_path, 2), PAIR, weight), chat, folder=tmp_path)


def test_a_limit_takes_as_many_rows_of_one_source_as_of_another(chat, tmp_path):
    few, many = pairs(tmp_path / "few", 3, word="few"), pairs(tmp_path / "many", 50, word="many")
    found = prepared([(many, PAIR, 1.0), (few, PAIR, 1.0)], chat, replace(ALL, most_rows=10), folder=tmp_path)
    said = texts(chat, found.learn)
    assert (found.rows, sum("many" in text for text in said), sum("few" in text for text in said)) == (10, 7, 3)
    assert found.learn.open()["row"][:] == [*range(7), 50, 51, 52]
    assert mixing.fair_shares([5, 5], 0) == (5, 5)
    assert mixing.fair_shares([9, 9, 9], 2) in {(1, 1, 0), (1, 0, 1), (0, 1, 1)}


# Held out


def test_a_row_that_is_held_out_stays_so_when_others_come(chat, tmp_path):
    half = replace(ALL, held_out=0.5)
    few = prepared((pairs(tmp_path / "few", 60), PAIR, 1.0), chat, half, folder=tmp_path)
    sources = [(pairs(tmp_path / "other", 60, word="Sing"), PAIR, 3.0), (pairs(tmp_path / "few", 60), PAIR, 1.0)]
    more = prepared(sources, chat, half, folder=tmp_path)
    held = [text for text in texts(chat, more.held_out) if "Say" in text]
    assert held == texts(chat, few.held_out)
    assert 15 < len(held) < 45
    others = prepared((pairs(tmp_path / "few", 60), PAIR, 1.0), chat, replace(half, seed=1), folder=tmp_path)
    assert texts(chat, others.held_out) != held


def test_what_occurs_twice_is_on_one_side_however_it_is_written(chat, tmp_path):
    rows = pairs(tmp_path / "pairs", 40)
    same = talks(tmp_path / "talks", *([("user", f" Say {i}"), ("assistant", f"It is {i}.")] for i in range(40)))
    sources = [(rows, PAIR, 1.0), (same, TURNS, 1.0), (pairs(tmp_path / "again", 40), PAIR, 2.0)]
    found = prepared(sources, chat, replace(ALL, held_out=0.5), folder=tmp_path)
    learnt, held = (
        {text.replace(" Say", "Say") for text in texts(chat, side)} for side in (found.learn, found.held_out)
    )
    assert learnt
    assert held
    assert not learnt & held


def test_a_source_that_is_held_out_is_not_learnt(chat, tmp_path):
    held = (pairs(tmp_path / "held", 5), PAIR)
    found = prepared((pairs(tmp_path, 8), PAIR, 1.0), chat, replace(ALL, held_out=0.9), held_out=held, folder=tmp_path)
    assert (found.learn.count, found.held_out.count, found.rows) == (3, 5, 13)
    (dropped,) = found.dropped
    assert (dropped.reason, dropped.rows, dropped.places[0]) == ("the same row is held out", 5, "rows.jsonl, row 1")


def test_one_row_is_learnt_even_where_the_seed_would_hold_it_out(chat, tmp_path):
    rows = pairs(tmp_path, 1)
    sides = [
        prepared((rows, PAIR, 1.0), chat, Preparation(held_out=0.9, seed=seed), folder=tmp_path) for seed in range(9)
    ]
    assert [(found.learn.count, found.held_out) for found in sides] == [(1, None)] * 9


# Too long


def test_a_long_row_is_cut_and_what_is_lost_is_counted(chat, tmp_path):
    rows = rows_of(tmp_path, [{"prompt": "a", "completion": "b" * 100}, {"prompt": "a", "completion": "b"}])
    whole = prepared((rows, PAIR, 1.0), chat, folder=tmp_path)
    cut = prepared((rows, PAIR, 1.0), chat, replace(ALL, limit=60), folder=tmp_path)
    assert (cut.cut, cut.endless, cut.learn.longest) == (1, 1, 60)
    assert cut.lost == whole.learn.longest - 60
    assert whole.cut == whole.lost == whole.endless == 0


def test_a_cut_behind_the_end_of_the_turn_loses_nothing_that_is_learnt(chat, tmp_path):
    rows = pairs(tmp_path, 1)
    whole = prepared((rows, PAIR, 1.0), chat, folder=tmp_path).learn.longest
    found = prepared((rows, PAIR, 1.0), chat, replace(ALL, limit=whole - 1), folder=tmp_path)
    assert (found.cut, found.endless) == (1, 0)


def test_a_long_row_can_be_dropped(chat, tmp_path):
    rows = rows_of(tmp_path, [{"prompt": "a", "completion": "b" * 100}, {"prompt": "a", "completion": "b"}])
    found = prepared((rows, PAIR, 1.0), chat, replace(ALL, limit=60, too_long="drop"), folder=tmp_path)
    assert (found.learn.count, found.dropped[0].reason, found.cut) == (1, "longer than the limit", 0)


def test_a_template_without_an_end_is_counted(tmp_path):
    found = prepared((pairs(tmp_path, 4), PAIR, 1.0), shaped("generation-without-end"), folder=tmp_path)
    assert found.endless == 4


# Dropped


BAD = {
    "no reply": [("user", "Hi")],
    "nothing to learn in it": [("user", "Hi"), ("assistant", " ")],
    "roles out of order": [("user", "Hi"), ("user", "Hi"), ("assistant", "Hey")],
    "a cell that is null or empty": [("user", None), ("assistant", "Hey")],
    "not what the columns are said to hold": [("nobody", "Hi")],
    "nothing to learn before the limit": [("user", "Hi" * 100), ("assistant", "Hey")],
}


def test_what_cannot_be_learnt_is_counted_by_reason_with_its_places(chat, tmp_path):
    good = [("user", "Hi"), ("assistant", "Hey")]
    rows = talks(tmp_path, *(talk for bad in BAD.values() for talk in (good, bad)), BAD["no reply"])
    found = prepared((rows, TURNS, 1.0), chat, replace(ALL, limit=60), folder=tmp_path)
    assert {lot.reason: lot.places[0] for lot in found.dropped} == {
        reason: f"rows.jsonl, row {2 * number}" for number, reason in enumerate(BAD, start=1)
    }
    assert (found.dropped[0].reason, found.dropped[0].rows) == ("no reply", 2)
    assert found.dropped[0].places == ("rows.jsonl, row 2", "rows.jsonl, row 13")
    assert all(lot.places[0] in lot.example for lot in found.dropped)
    assert (found.learn.count, found.rows) == (6, 13)


def test_an_unproven_mask_and_a_refusal_of_the_template_are_reasons(tmp_path):
    good, more = [("user", "a"), ("assistant", "b")], [("user", "c"), ("assistant", "d")]
    rows = talks(tmp_path, good, good + more)
    found = prepared((rows, TURNS, 1.0), shaped("qwen3"), folder=tmp_path)
    assert [lot.reason for lot in found.dropped] == ["what is the assistant's cannot be proven"]
    assert prepared((rows, TURNS, 1.0), shaped("qwen3"), replace(ALL, trained="last"), folder=tmp_path).dropped == ()
    rows = talks(tmp_path, good, [("system", "s"), *good])
    found = prepared((rows, TURNS, 1.0), shaped("gemma"), folder=tmp_path)
    assert [lot.reason for lot in found.dropped] == ["refused by the chat template or the tokenizer"]


@pytest.mark.parametrize("reason", BAD)
def test_where_all_rows_are_dropped_the_main_reason_is_raised(chat, tmp_path, reason):
    rows = talks(tmp_path, BAD[reason], BAD[reason])
    with pytest.raises(InputError, match=f"2 of 2 are dropped because of “{reason}”. rows.jsonl, row 1") as caught:
        prepared((rows, TURNS, 1.0), chat, replace(ALL, limit=60), folder=tmp_path)
    assert caught.value.hint
    assert list((tmp_path / "examples").iterdir()) == []


def test_empty_cells_of_a_table_are_dropped(chat, tmp_path):
    rows = read(tmp_path, "rows.csv", "prompt,completion\na,b\nc,\n")
    found = prepared((rows, PAIR, 1.0), chat, folder=tmp_path)
    assert [(lot.reason, lot.places) for lot in found.dropped] == [
        ("a cell that is null or empty", ("rows.csv, row 2",))
    ]


def test_a_column_that_is_not_there_is_refused_with_those_that_are(chat, tmp_path):
    with pytest.raises(InputError, match="no column 'text'") as caught:
        prepared((pairs(tmp_path, 2), TEXT, 1.0), chat, folder=tmp_path)
    assert "prompt, completion" in caught.value.hint


def test_preferences_are_refused_as_a_whole(chat, tmp_path):
    rows = rows_of(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(Unsupported, match=r"rows\.jsonl holds pairs of answers, 'chosen' and 'rejected'"):
        prepared((rows, dataset.recognise(rows).mapping, 1.0), chat, folder=tmp_path)


def test_conversations_are_refused_as_a_whole_without_a_template(tmp_path):
    rows = talks(tmp_path, [("user", "a"), ("assistant", "b")])
    with pytest.raises(Unsupported, match="no chat template"):
        prepared((rows, TURNS, 1.0), byte_level(None, IM), folder=tmp_path)


# On the disk


def test_what_was_made_is_found_again_and_anything_else_is_made_anew(chat, tmp_path):
    source = (pairs(tmp_path, 50), PAIR, 1.0)
    first = prepared(source, chat, Preparation(held_out=0.3), folder=tmp_path)
    written = first.learn.file.stat().st_mtime_ns
    again = prepared(source, chat, Preparation(held_out=0.3), folder=tmp_path)
    assert (again, again.learn.file.stat().st_mtime_ns) == (first, written)
    marks = {first.fingerprint}
    others = [
        ((*source[:2], 2.0), chat, Preparation(held_out=0.3)),
        (source, chat, Preparation(held_out=0.2)),
        (source, shaped("zephyr"), Preparation(held_out=0.3)),
        (source, byte_level(SHAPES["chatml"].template, IM, merges=(("I", "t"),)), Preparation(held_out=0.3)),
        ((pairs(tmp_path / "other", 49), PAIR, 1.0), chat, Preparation(held_out=0.3)),
        ((source[0], ColumnMapping.of(Format.TEXT, text="prompt"), 1.0), chat, Preparation(held_out=0.3)),
    ]
    marks |= {prepared(one, tokenizer, how, folder=tmp_path).fingerprint for one, tokenizer, how in others}
    assert len(marks) == 7
    first.held_out.file.unlink()
    assert prepared(source, chat, Preparation(held_out=0.3), folder=tmp_path) == first
    assert first.held_out.file.is_file()


def test_the_same_rows_elsewhere_have_the_same_fingerprint(chat, tmp_path):
    one, other = (prepared((pairs(tmp_path / at, 5), PAIR, 1.0), chat, folder=tmp_path / at) for at in "ab")
    assert one.fingerprint == other.fingerprint
    assert one.learn.file.read_bytes() == other.learn.file.read_bytes()


def test_a_tokenizer_that_is_opened_anew_is_the_same_and_how_it_pads_makes_no_other(pico, tmp_path):
    one, other = load_tokenizer(pico), load_tokenizer(pico)
    other.backend_tokenizer.enable_truncation(7)
    other.backend_tokenizer.enable_padding(length=9)
    source = (pairs(tmp_path, 3), PAIR, 1.0)
    found = prepared(source, one, folder=tmp_path / "one"), prepared(source, other, folder=tmp_path / "other")
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].learn.tokens == found[1].learn.tokens


def test_stopping_is_heard_at_once_and_leaves_nothing(chat, tmp_path):
    work = dataset.prepare([(pairs(tmp_path, 20_000), PAIR, 1.0)], chat, ALL, folder=tmp_path / "examples")
    assert next(work) == Progress(Phase.PREPARE, 0, 20_000)
    while next(work).done < 50:
        continue
    before = time.monotonic()
    work.close()
    assert time.monotonic() - before < 3  # 0.3 where nobody else uses the machine
    assert list((tmp_path / "examples").iterdir()) == []


def test_a_row_of_10_mb_is_cut_and_can_be_stopped(chat, tmp_path):
    rows = rows_of(tmp_path, [{"text": "word " * 2_000_000}])
    work = dataset.prepare([(rows, TEXT, 1.0)], chat, replace(ALL, limit=100), folder=tmp_path / "examples")
    for _ in range(4):
        next(work)
    before = time.monotonic()
    work.close()
    assert time.monotonic() - before < 3
    short = rows_of(tmp_path / "short", [{"text": "word " * 60_000}])
    found = prepared((short, TEXT, 1.0), chat, replace(ALL, limit=100), folder=tmp_path)
    assert (found.learn.longest, found.cut, found.lost) == (100, 1, 300_001 - 100)


GROWTH = """
import json, resource, sys
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
from chat_templates import shaped
from dataset_steps import result, rows_of
from studio import dataset
from studio.dataset import ColumnMapping, Format, Preparation
folder, mapping = Path(sys.argv[2]), ColumnMapping.of(Format.TEXT, text="text")
def peak(count, name):
    rows = rows_of(folder / name, ({"text": f"{i} " + "word " * 20_000} for i in range(count)))
    how = Preparation(held_out=0.0, limit=1_000_000)
    made = result(dataset.prepare([(rows, mapping, 1.0)], shaped("chatml"), how, folder=folder / name))
    assert made.learn.count == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, made.learn.file.stat().st_size
few, _ = peak(2, "few")
many, size = peak(24, "many")
print(json.dumps([many - few, size]))
"""


def test_ten_times_the_rows_take_no_more_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, json.dumps(sys.path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    growth, size = json.loads(done.stdout)
    assert size > 9_000_000
    assert growth < 2 * size  # four times as much where all of them are held as numbers of Python
