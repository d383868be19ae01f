"""One row as it will be learnt: text, pieces, where the limit cuts, or why it is dropped."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from chat_templates import IM, byte_level, shaped
from dataset_steps import result, rows_of
from tokenizers_made import EVERY, sentencepiece_bpe

from studio import advice, dataset
from studio.dataset import ColumnMapping, Format, Preparation, example
from studio.errors import InputError, Unsupported
from studio.tokenizer import Message, end_of_turn, mask_conversation, masked_text
from studio.ui import tokens_view

PAIR = ColumnMapping.of(Format.PROMPT_COMPLETION, prompt="prompt", completion="completion")
TEXT = ColumnMapping.of(Format.TEXT, text="text")
TURNS = ColumnMapping.of(Format.MESSAGES, messages="messages")
HOW = Preparation(held_out=0.0)


@pytest.fixture
def chat():
    return shaped("chatml")


def turns(*talk):
    return {"messages": [{"role": role, "content": said} for role, said in talk]}


def test_a_row_is_shown_as_it_is_masked(chat):
    shown = example(chat, turns(("user", "Hi"), ("assistant", "Hé")), TURNS, HOW)
    masked = mask_conversation(chat, (Message("user", "Hi"), Message("assistant", "Hé")))
    assert shown.text == masked.text
    assert tuple(piece.id for piece in shown.pieces) == masked.ids
    assert [piece.index for piece in shown.pieces] == list(range(shown.tokens))
    assert shown.trained == tuple(place for place, is_ in enumerate(masked.trained) if is_)
    assert (shown.way, shown.side, shown.ends, shown.reason) == ("chat template", "learn", True, "")
    assert shown.kept == shown.tokens == len(masked.ids)
    assert pickle.loads(pickle.dumps(shown)) == shown


def test_what_is_previewed_is_what_is_prepared(chat, tmp_path):
    rows = rows_of(tmp_path, [{"prompt": f"Say {i}", "completion": "It is." * i} for i in range(1, 40)])
    how = Preparation(held_out=0.4, limit=100)
    made = result(dataset.prepare([(rows, PAIR, 1.0)], chat, how, folder=tmp_path / "made"))
    for side, examples in (("learn", made.learn), ("held out", made.held_out)):
        for row in examples.open():
            shown = dataset.preview(rows, row["row"], chat, PAIR, how)
            assert shown.side == side
            assert [piece.id for piece in shown.pieces[: shown.kept]] == row["input_ids"]
            assert list(shown.trained) == [place for place, is_ in enumerate(row["trained"]) if is_]
    assert 0 < made.cut < 39


@pytest.mark.parametrize("name", EVERY)
def test_a_plain_text_has_the_tokens_around_it(name):
    tokenizer = EVERY[name]()
    shown = example(tokenizer, {"text": "The text of it"}, TEXT, HOW)
    masked = masked_text(tokenizer, "The text of it")
    assert tuple(piece.id for piece in shown.pieces) == masked.ids
    assert [piece.index for piece in shown.pieces] == list(range(len(masked.ids)))
    assert (shown.way, shown.tokens) == ("plain text", len(masked.ids))
    assert shown.ends is masked.ends_trained


def test_tokens_that_begin_and_end_a_text_stand_for_nothing_in_it():
    first, *_, last = example(sentencepiece_bpe(), {"text": "The text"}, TEXT, HOW).pieces
    assert [(piece.token, piece.text, piece.kind, piece.start) for piece in (first, last)] == [
        ("<s>", "", "special", None),
        ("</s>", "", "special", None),
    ]


def test_the_limit_shows_where_it_cuts_and_what_that_costs(chat):
    row = {"prompt": "a", "completion": "b" * 50}
    whole = example(chat, row, PAIR, HOW)
    cut = example(chat, row, PAIR, replace(HOW, limit=60))
    assert (cut.tokens, cut.kept, cut.ends) == (whole.tokens, 60, False)
    assert max(cut.trained) == 59
    assert len(cut.pieces) == whole.tokens
    assert [each.id for each in advice.on_row(cut, end_of_turn(chat, None))] == ["eos-not-trained"]
    assert advice.on_row(whole, end_of_turn(chat, None)) == []


def test_the_pieces_can_be_drawn(chat):
    shown = example(chat, turns(("user", "<b>"), ("assistant", "Hey")), TURNS, HOW)
    drawn = tokens_view.tokens(shown.pieces, total=shown.tokens, trained=shown.trained)
    assert "&lt;" in drawn
    assert "<b>" not in drawn


DROPPED = [
    (turns(("user", "Hi")), HOW, "no reply", "Hi"),
    (turns(("user", "Hi"), ("user", "Hi")), HOW, "roles out of order", ""),
    (turns(("user", None)), HOW, "a cell that is null or empty", ""),
    (turns(("user", "x" * 99), ("assistant", "b")), replace(HOW, limit=50), "nothing to learn before the limit", "x"),
    (turns(("user", "a"), ("assistant", "b")), replace(HOW, limit=8, too_long="drop"), "longer than the limit", "a"),
]


@pytest.mark.parametrize(("row", "how", "reason", "shown_text"), DROPPED)
def test_a_row_that_is_dropped_says_why_and_shows_what_it_can(chat, row, how, reason, shown_text):
    shown = example(chat, row, TURNS, how, place="rows.jsonl, row 7")
    assert (shown.side, shown.reason) == ("dropped", reason)
    assert "rows.jsonl, row 7" in shown.message
    assert shown.hint
    assert shown_text in shown.text
    (warned,) = advice.on_row(shown, None)
    assert (warned.id, warned.severity) == ("nothing-to-train", "warning")


def test_a_mask_that_cannot_be_proven_still_shows_the_text():
    talk = turns(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    shown = example(shaped("qwen3"), talk, TURNS, HOW)
    assert shown.reason == "what is the assistant's cannot be proven"
    assert shown.text
    assert shown.pieces
    assert shown.trained == ()


def test_a_template_without_an_end_is_warned_of():
    tokenizer = shaped("generation-without-end")
    shown = example(tokenizer, turns(("user", "a"), ("assistant", "b")), TURNS, HOW)
    assert shown.ends is False
    found = advice.on_row(shown, end_of_turn(tokenizer, None))
    assert [each.id for each in found] == ["nothing-to-train", "eos-not-trained"]
    assert found[0].severity == "note"


def test_a_long_text_has_pieces_for_its_beginning(chat):
    shown = example(chat, {"text": "word " * 100_000}, TEXT, replace(HOW, limit=30_000))
    assert (shown.tokens, shown.kept, len(shown.pieces)) == (500_001, 30_000, 20_000)
    assert shown.pieces[-1].index == 19_999


@pytest.mark.parametrize("index", [-1, 2])
def test_a_row_that_is_not_there_is_refused(chat, tmp_path, index):
    rows = rows_of(tmp_path, [{"prompt": "a", "completion": "b"}] * 2)
    with pytest.raises(InputError, match=f"no row {index + 1}") as caught:
        dataset.preview(rows, index, chat, PAIR, HOW)
    assert "from 1 to 2" in caught.value.hint


def test_what_is_refused_as_a_whole_is_refused_for_a_row(chat, tmp_path):
    rows = rows_of(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(Unsupported, match="pairs of answers"):
        dataset.preview(rows, 0, chat, dataset.recognise(rows).mapping, HOW)
    with pytest.raises(InputError, match="no column 'text'"):
        dataset.preview(rows, 0, chat, TEXT, HOW)


def test_advice_on_all_rows_names_what_is_left_out_and_what_has_no_end(tmp_path):
    tokenizer = byte_level(shaped("chatml").chat_template, IM)
    rows = rows_of(tmp_path, [{"prompt": "a", "completion": "b" * (100 if i == 1 else i)} for i in range(40)])
    made = result(dataset.prepare([(rows, PAIR, 1.0)], tokenizer, replace(HOW, limit=90), folder=tmp_path / "made"))
    dropped, endless = advice.on_examples(made)
    assert (dropped.id, dropped.severity) == ("nothing-to-train", "note")
    assert "1 of 40 rows are left out (nothing to learn in it), the first at rows.jsonl, row 1" in dropped.why
    assert (endless.id, endless.severity) == ("eos-not-trained", "note")
    assert "1 of 39 examples do not teach where to stop" in endless.why
    assert "1 were cut at the limit" in endless.why
