"""Tokenizers beside each other: every number is counted here by hand, on tokenizers small enough for that."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import asdict

import pytest
from pico import CHAT_TEMPLATE, byte_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast
from transformers.models.bert import BertTokenizerLegacy

from studio.errors import Damaged, InputError
from studio.events import Finished, Phase
from studio.settings import ASSETS
from studio.tokenizer import Sample, bundled, compare, comparing, load_tokenizer, pace, rust_against_python
from studio.tokenizer.surface import less_than_a_character, surfaces

TEXT = Sample("mixed", ("Hé 😀", "", "no  words"))


def beside(tokenizers, samples=(TEXT,)):
    events = list(compare(tokenizers, samples))
    assert isinstance(events[-1], Finished)
    return events[-1].result


def byte_level(*tokens):
    vocabulary = {token: number for number, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *tokens])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def sentencepiece(*tokens):
    """As Llama 2: characters with ▁ for a space, and 256 bytes for the rest."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: number for number, token in enumerate(["<unk>", *bytes_, *tokens])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def wordpiece(*tokens):
    backend = Tokenizer(models.WordPiece({token: n for n, token in enumerate(["[UNK]", *tokens])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def bert_in_python(folder, *tokens):
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tokens]) + "\n")
    return BertTokenizerLegacy(str(folder / "vocab.txt"))


# Counting


def test_a_sample_is_measured_in_words_characters_and_bytes():
    (row,) = beside({"a": byte_tokenizer()}).rows
    assert (row.sample, row.words, row.characters, row.bytes) == ("mixed", 4, 13, 17)


def test_bytes_of_a_character_are_told_from_characters():
    (counts,) = beside({"a": byte_tokenizer()}).rows[0].counts
    assert (counts.tokens, counts.unknown, counts.byte_tokens) == (17, 0, 2 + 4)
    assert (counts.tokens_per_word, counts.bytes_per_token) == (17 / 4, 1.0)
    assert counts.characters_per_token == 13 / 17


def test_a_byte_fallback_is_counted_also_where_the_byte_is_a_character():
    known = sentencepiece("H", "▁", "n", "o", "w", "r", "d", "s")
    (counts,) = beside({"a": known}, [Sample("x", ("Hé 😀x",))]).rows[0].counts
    assert (counts.tokens, counts.byte_tokens, counts.unknown) == (1 + 2 + 1 + 4 + 1, 2 + 4 + 1, 0)


def test_a_word_that_is_not_known_is_one_unknown_token(tmp_path):
    words = ("hello", "wor", "##ld")
    sample = [Sample("x", ("hello world ελ 😀 hello",))]
    for tokenizer in (wordpiece(*words), bert_in_python(tmp_path, *words)):
        (counts,) = beside({"a": tokenizer}, sample).rows[0].counts
        assert (counts.tokens, counts.unknown, counts.byte_tokens) == (6, 2, 0)


def test_special_tokens_that_a_tokenizer_adds_by_itself_are_not_counted():
    (counts,) = beside({"a": ByT5Tokenizer()}, [Sample("x", ("abc",))]).rows[0].counts
    assert counts.tokens == 3


def test_a_ratio_that_would_divide_by_zero_is_none():
    rows = beside({"a": byte_tokenizer()}, [Sample("blank", (" ",)), Sample("empty", ("",))]).rows
    assert rows[0].counts[0].tokens_per_word is None
    assert rows[0].counts[0].bytes_per_token == 1.0
    assert (rows[1].counts[0].bytes_per_token, rows[1].counts[0].characters_per_token) == (None, None)


# Vocabularies


def test_tokens_are_compared_by_the_text_they_stand_for(tmp_path):
    of = {
        "gpt": byte_level("Ġhello", "wor", "ld", "Ã©"),
        "llama": sentencepiece("▁hello", "wor", "é", "▁"),
        "bert": wordpiece("hello", "##wor", "##ld"),
        "python": bert_in_python(tmp_path, "hello", "##wor"),
    }
    overlaps = {(each.first, each.second): each for each in beside(of).overlaps}
    assert len(overlaps) == 6
    # 256 bytes, and " hello", "wor" and "é"; ▁ is one of the bytes.
    assert overlaps["gpt", "llama"].shared == 259
    assert overlaps["gpt", "llama"].of_first == 259 / 260
    assert overlaps["gpt", "llama"].of_second == 259 / 259
    assert overlaps["gpt", "bert"].shared == 3
    assert overlaps["bert", "python"].shared == 2
    assert overlaps["bert", "python"].of_first == 2 / 3


def test_the_surfaces_of_a_text_are_the_text():
    text = "Größe 😀 नमस्ते\n 12"
    for tokenizer in (load_tokenizer(ASSETS / "starter_model"), byte_tokenizer(), ByT5Tokenizer(), sentencepiece("▁")):
        of = surfaces(tokenizer)
        assert b"".join(of[number] for number in tokenizer.encode(text, add_special_tokens=False)) == text.encode()
        assert not of.keys() & tokenizer.added_tokens_decoder.keys()


def test_every_byte_of_a_byte_tokenizer_above_ascii_is_less_than_a_character():
    parts = less_than_a_character(byte_tokenizer())
    assert len(parts) == 128
    assert less_than_a_character(wordpiece("##ld", "é")) == frozenset()


def test_pieces_that_end_words_have_their_space_behind():
    backend = Tokenizer(models.BPE({"lo": 0, "w</w>": 1}, [], end_of_word_suffix="</w>"))
    backend.decoder = decoders.BPEDecoder()
    assert surfaces(PreTrainedTokenizerFast(tokenizer_object=backend)) == {0: b"lo", 1: b"w "}


def test_facts_in_which_tokenizers_differ_are_named():
    plain = byte_tokenizer()
    chatty = byte_tokenizer()
    chatty.chat_template = CHAT_TEMPLATE
    assert beside({"a": plain, "b": byte_tokenizer()}).differences == ()
    found = {each.fact: each.values for each in beside({"a": plain, "b": chatty, "c": ByT5Tokenizer()}).differences}
    assert found == {
        "end": ("<|end|>", "<|end|>", "</s>"),
        "pad": ("<|pad|>", "<|pad|>", "<pad>"),
        "unknown": (None, None, "<unk>"),
        "template": (False, True, False),
    }


# The whole


def test_tokenizers_in_rust_and_in_python_stand_beside_each_other_on_all_samples(tmp_path):
    python = bert_in_python(tmp_path, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"))
    of = {"starter": load_tokenizer(ASSETS / "starter_model"), "byt5": ByT5Tokenizer(), "bert": python}
    done = beside(of, bundled())
    assert [(each.name, each.rust, each.vocabulary) for each in done.tokenizers] == [
        ("starter", True, 2048), ("byt5", False, 384), ("bert", False, len(python))
    ]  # fmt: skip
    assert [each.more for each in done.tokenizers] == [3, 125, 3]
    assert all(each.seconds_per_megabyte > 0 for each in done.tokenizers)
    assert [row.sample for row in done.rows] == [sample.name for sample in bundled()]
    for row in done.rows:
        assert row.counts[1].tokens == row.bytes
        assert row.counts[0].tokens <= row.bytes
    english, russian = (next(row for row in done.rows if row.sample == name) for name in ("English", "Russian"))
    assert english.counts[2].unknown == 3 + 4  # commas and full stops, which it does not know
    assert russian.counts[2].unknown == russian.counts[2].tokens > russian.words
    assert json.loads(json.dumps(asdict(done)))["rows"][0]["sample"] == "English"


def test_progress_goes_from_nothing_to_all_and_can_be_closed_on_the_way(monkeypatch):
    monkeypatch.setattr(comparing, "_BEAT_SECONDS", 0.0)
    of = {"a": byte_tokenizer(), "b": ByT5Tokenizer()}
    events = list(compare(of, bundled()))[:-1]
    total = len(of) * (1 + comparing.REPEATS) * sum(len(t.encode()) for sample in bundled() for t in sample.texts)
    done = [event.done for event in events]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)
    assert {(event.phase, event.total) for event in events} == {(Phase.COMPARE, total)}
    work = compare(of, bundled())
    next(work)
    work.close()
    assert list(work) == []


def test_the_speed_is_measured_on_a_part_of_a_long_text_and_all_of_it_is_counted(monkeypatch):
    monkeypatch.setattr(comparing, "TIMED_CHARACTERS", 1000)
    done = beside({"a": byte_tokenizer()}, [Sample("long", ("é" * 700, "b" * 700, "c" * 700))])
    assert done.timed_bytes == 1400 + 300
    assert done.rows[0].counts[0].tokens == 1400 + 700 + 700


@pytest.mark.parametrize(
    ("tokenizers", "samples", "words"),
    [
        ({}, [TEXT], "0 tokenizers"),
        (dict.fromkeys("abcde"), [TEXT], "5 tokenizers"),
        ({"a": None}, [], "no text"),
        ({"a": None}, [Sample("x", ("", ""))], "no text"),
        ({"a": None}, [Sample("x", ("fine", "\ud83d"))], "x holds bytes that are not text"),
    ],
)
def test_what_cannot_be_compared_is_refused(tokenizers, samples, words):
    with pytest.raises(InputError, match=words) as caught:
        beside(tokenizers, samples)
    assert caught.value.hint


def test_the_bundled_samples_are_what_they_say():
    of = {sample.name: sample.texts for sample in bundled()}
    scripts = {
        "English": "LATIN", "Russian": "CYRILLIC", "Greek": "GREEK", "Arabic": "ARABIC", "Hebrew": "HEBREW",
        "Hindi": "DEVANAGARI", "Chinese": "CJK", "Japanese": "HIRAGANA", "Korean": "HANGUL", "Thai": "THAI",
    }  # fmt: skip
    for name, script in scripts.items():
        letters = [c for text in of[name] for c in text if unicodedata.category(c)[0] in "LM"]
        share = sum(unicodedata.name(c).startswith(script) for c in letters) / len(letters)
        assert share > (0.4 if name == "Japanese" else 0.95), name
    languages = list(of)[:16]
    assert all(len(of[name]) == 4 for name in languages)
    assert {"Python", "JSON", "LaTeX", "Numbers", "Emoji"} == set(of) - set(languages)
    json.loads(of["JSON"][0])
    for code in of["Python"]:
        compile(code, "sample", "exec")


# Rust against Python


def test_the_pace_of_both_is_measured_on_the_same_ids():
    for measured in rust_against_python(repeats=1):
        assert measured.tokens > 1000
        assert measured.ratio == measured.rust_tokens_per_second / measured.python_tokens_per_second > 0


def test_a_pair_that_does_not_give_the_same_ids_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(pace, "_both", lambda *_: (wordpiece("hello"), bert_in_python(tmp_path, "hello")))
    with pytest.raises(Damaged, match="different ids"):
        rust_against_python(repeats=1)
