"""The way of a text to the model, each stage as the tokenizer itself has it."""

from __future__ import annotations

import copy
import dataclasses
import json
from importlib.metadata import version

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from tokenizers_made import EVERY, RUST, byte_level, characters, python_only, sentencepiece_bpe, unigram, wordpiece
from transformers import PreTrainedTokenizerFast

from studio.errors import InputError
from studio.tokenizer import BatchSettings, stages
from studio.tokenizer.stages import STAGES_CHARACTERS


def texts_of(spans):
    return [span.text for span in spans]


def with_odd_tokens(tokenizer):
    """The same with added tokens that swallow spaces, are normalized, or stand alone."""
    odd = copy.deepcopy(tokenizer)
    odd.add_tokens(
        [
            AddedToken("Xab", normalized=True),
            AddedToken("ha", normalized=True, lstrip=True),
            AddedToken("<q>", normalized=False, lstrip=True, rstrip=True),
            AddedToken("st", normalized=True, single_word=True),
        ]
    )
    return odd


ODD = {name: with_odd_tokens(made()) for name, made in RUST.items()}
FRAGMENTS = st.sampled_from(["Xab", " ha", "xab", "<q> ", " st ", "<|end|>", "[MASK]", "</s>", "<unk>", "😀", "é", " "])


@pytest.mark.parametrize("name", RUST)
@given(text=st.lists(st.one_of(st.text(max_size=6), FRAGMENTS), max_size=8).map("".join))
@example(text="a<q> b ha st Xab")
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_stages_one_by_one_give_what_the_tokenizer_gives_in_one_go(name, text):
    seen = stages(ODD[name], text)
    assert seen.notes == ()
    ids = [id for word in seen.words for id in word.ids]
    assert ids == ODD[name](text, add_special_tokens=False).input_ids
    assert list(seen.encoded.rows[0].ids) == ODD[name](text).input_ids
    assert "".join(texts_of(seen.splits)) == text
    assert all(text[span.start : span.end] == span.text for span in seen.splits)


@pytest.mark.parametrize("name", EVERY)
def test_all_of_it_becomes_json(name):
    written = json.dumps(dataclasses.asdict(stages(EVERY[name](), "The café, 😀")))
    assert json.loads(written)["text"] == "The café, 😀"


def test_the_tokenizer_says_who_it_is():
    identity = stages(wordpiece(), "a").identity
    assert (identity.written_in, identity.library) == ("Rust", f"tokenizers {version('tokenizers')}")
    assert (identity.vocabulary, identity.added, identity.special) == (len(wordpiece()), 5, 5)
    assert identity.longest is None
    assert (stages(characters(), "a").identity.added, stages(characters(), "a").identity.special) == (2, 1)


def test_added_tokens_are_taken_out_before_anything_else():
    splits = stages(wordpiece(), "The [MASK] 😀").splits
    assert [(span.text, span.start, span.end, span.id) for span in splits] == [
        ("The ", 0, 4, None), ("[MASK]", 4, 10, 4), (" 😀", 10, 12, None),
    ]  # fmt: skip


def test_each_normalizer_shows_its_own_effect():
    shown = stages(unigram(), "\ufb01x  the").normalizers
    assert [(one.step.name, one.before, one.after) for one in shown] == [
        ("NFKC", "\ufb01x  the", "fix  the"),
        ("Replace", "fix  the", "fix the"),
    ]


def test_an_added_token_is_not_normalized():
    assert stages(wordpiece(), "THE [MASK]").normalizers[0].after == "the [MASK]"


def test_parts_have_the_offsets_of_the_original_text():
    shown = stages(wordpiece(), "Ünder, [MASK]").pre_tokenizers
    assert [one.step.name for one in shown] == ["BertPreTokenizer"]
    assert [(part.text, part.start, part.end) for part in shown[0].parts] == [
        ("under", 0, 5), (",", 5, 6), ("[MASK]", 7, 13),
    ]  # fmt: skip


def test_each_pre_tokenizer_of_a_sequence_shows_what_it_cut(pytestconfig):
    from studio.tokenizer import load_tokenizer

    starter = load_tokenizer(pytestconfig.rootpath / "assets" / "starter_model")
    shown = stages(starter, "It was 2026").pre_tokenizers
    assert [one.step.name for one in shown] == ["Digits", "Split", "ByteLevel"]
    assert texts_of(shown[0].parts) == ["It was ", "2", "0", "2", "6"]
    assert texts_of(shown[2].parts) == ["It", "Ġwas", "Ġ", "2", "0", "2", "6"]


def test_only_the_first_part_of_a_text_begins_it():
    words = stages(sentencepiece_bpe(), "the</s>the").words
    assert [word.part.text for word in words] == ["▁the", "</s>", "the"]


def test_the_model_names_its_options():
    model = stages(sentencepiece_bpe(), "a").model
    assert model.name == "BPE"
    assert {"byte_fallback": "true", "unk_token": '"<unk>"', "dropout": "null"}.items() <= dict(model.options).items()
    model = stages(unigram(), "a").model
    assert (model.name, dict(model.options)["unk_token"]) == ("Unigram", '"<unk>"')


def test_the_post_processor_says_what_it_added_and_where():
    seen = stages(wordpiece(), "the text [SEP]")
    assert [step.name for step in seen.post_processors] == ["TemplateProcessing"]
    assert [(one.index, one.token) for one in seen.additions] == [(0, "[CLS]"), (4, "[SEP]")]


def test_truncation_and_padding_of_the_files_are_told_and_do_not_cut_the_stages():
    backend = Tokenizer.from_str(wordpiece().backend_tokenizer.to_str())
    backend.enable_truncation(3)
    backend.enable_padding(pad_token="[PAD]")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    seen = stages(tokenizer, "the text and the text")
    assert dict(seen.truncation)["max_length"] == "3"
    assert dict(seen.padding)["pad_token"] == '"[PAD]"'
    assert len(seen.words) == 5


def test_the_last_stage_follows_the_settings():
    cut = BatchSettings(padding="max length", truncation="longest first", max_length=4, overflow=True, stride=1)
    rows = stages(wordpiece(), "the text and the text", cut).encoded.rows
    assert [len(row.ids) for row in rows] == [4, 4, 4, 4]
    assert [row.part for row in rows] == [0, 1, 2, 3]


def test_a_long_option_is_cut():
    options = dict(stages(wordpiece(), "a").post_processors[0].options)
    assert len(options["pair"]) == 200
    assert options["pair"].endswith("…")


def test_a_long_text_goes_through_in_part():
    seen = stages(byte_level(), "text " * 2_000)
    assert (len(seen.text), seen.left_out) == (STAGES_CHARACTERS, 10_000 - STAGES_CHARACTERS)


def test_dropout_is_told():
    chance = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.5))
    seen = stages(PreTrainedTokenizerFast(tokenizer_object=chance), "abab")
    assert "dropout" in seen.notes[0]


def test_a_tokenizer_in_python_says_what_cannot_be_shown():
    seen = stages(python_only(), "Hé")
    assert (seen.identity.written_in, seen.identity.name) == ("Python", "ByT5Tokenizer")
    assert seen.identity.library == f"transformers {version('transformers')}"
    assert "written in Python" in seen.notes[0]
    assert (seen.splits, seen.model, seen.words) == ((), None, ())
    assert list(seen.encoded.rows[0].ids) == python_only()("Hé").input_ids


def test_half_a_character_is_refused():
    with pytest.raises(InputError, match="half a character"):
        stages(byte_level(), "a\ud83d")
