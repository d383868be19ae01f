"""Texts into tokens: columns, pieces, counts, and whether the pieces give the text again."""

from __future__ import annotations

import pickle
import threading

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers_made import EVERY, RUST, byte_level, characters, python_only, sentencepiece_bpe, unigram, wordpiece
from transformers import PreTrainedTokenizerFast

from studio.errors import InputError
from studio.tokenizer import pieces, tokenize
from studio.tokenizer.backend import own_backend

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
TRICKY = {
    "nothing": "",
    "spaces": "   ",
    "a family": f"a {FAMILY} b",
    "a flag": "\U0001f1e9\U0001f1ea!",
    "marks": "Cafe\u0301 Z\u0351\u036b\u0343al\u0321go",
    "right to left": "\u0645\u0631\u062d\u0628\u0627 \u200f\u05e9\u05dc\u05d5\u05dd",
    "zero width": "to\u200bke\u200cn\ufeff",
    "nul": "a\x00b\x00",
    "ligature": "\ufb01x \u210c\u3000",
    "names of tokens": "<|end|> [UNK]</s> <unk><tool>[MASK]",
    "lines": "a\r\n\tb\n\n",
    "no character": "\U0010ffff\ufffd",
}


def wrapped(backend, **options):
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def all_pieces(tokens):
    return tokens.window(0, len(tokens.ids))


def uncovered(tokenizer, text):
    """By the offsets of the bare library: which characters belong to no token."""
    left = set(range(len(text)))
    for start, end in tokenizer.backend_tokenizer.encode(text).offsets:
        left -= set(range(start, end))
    return sorted(left)


def joined(tokens):
    """The text, put together from the pieces by their offsets."""
    text, at = "", 0
    for piece in all_pieces(tokens):
        if piece.end is not None and piece.end > at:
            text += tokens.text[max(piece.start, at) : piece.end]
            at = piece.end
    return text


# The text and its pieces


def check_coverage(name, text):
    tokenizer = RUST[name]()
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        with pytest.raises(InputError, match="half a character"):
            tokenize(tokenizer, text)
        return
    tokens = tokenize(tokenizer, text)
    left = uncovered(tokenizer, text)
    assert tokens.covers.exact == (not left)
    assert tokens.covers.missing == len(left)
    assert (tokens.covers.gap is None) == (not left)
    assert not left or tokens.covers.gap[0] == left[0]
    assert joined(tokens) == "".join(c for at, c in enumerate(text) if at not in left)
    assert bool(tokens.covers.why) == bool(left)
    if name in ("byte_level", "sentencepiece_bpe", "characters"):
        assert tokens.covers.exact


@pytest.mark.parametrize("name", RUST)
@given(text=st.text(st.characters(), max_size=60))
@example(text="half \ud83d of it")
@example(text="word" * 25_000)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_pieces_joined_by_their_offsets_give_the_text_or_say_what_is_missing(name, text):
    check_coverage(name, text)


@pytest.mark.parametrize("text", TRICKY.values(), ids=TRICKY.keys())
@pytest.mark.parametrize("name", RUST)
def test_tricky_texts_are_covered_too(name, text):
    check_coverage(name, text)


@pytest.mark.parametrize("text", TRICKY.values(), ids=TRICKY.keys())
@pytest.mark.parametrize("name", RUST)
def test_pieces_are_those_of_the_library(name, text):
    tokenizer = RUST[name]()
    encoding = tokenizer.backend_tokenizer.encode(text)
    found = all_pieces(tokenize(tokenizer, text))
    assert [piece.id for piece in found] == encoding.ids
    assert [piece.token for piece in found] == tokenizer.convert_ids_to_tokens(encoding.ids)
    assert [piece.word for piece in found] == encoding.word_ids
    placed = [(p.start, p.end) if p.start is not None else (0, 0) for p in found]
    assert placed == encoding.offsets
    assert [piece.index for piece in found] == list(range(len(encoding.ids)))


@pytest.mark.parametrize("text", TRICKY.values(), ids=TRICKY.keys())
def test_the_bytes_of_a_byte_level_tokenizer_are_those_of_the_text(text):
    assert b"".join(bytes(p.utf8) for p in all_pieces(tokenize(byte_level(), text))) == text.encode()


def test_the_bytes_of_a_sentencepiece_tokenizer_have_a_space_for_each_mark():
    tokens = tokenize(sentencepiece_bpe(), f"the world {FAMILY}", special_tokens=False)
    assert b"".join(bytes(p.utf8) for p in all_pieces(tokens)) == f" the world {FAMILY}".encode()


def test_a_window_is_a_part_of_all_pieces_whatever_is_asked_for():
    tokens = tokenize(byte_level(), "The tokenizer reads 😀 the text.")
    every = all_pieces(tokens)
    assert tokens.window(3, 4) == every[3:7]
    assert tokens.window(len(every) - 2, 50) == every[-2:]
    assert tokens.window(-5, 2) == every[:2]
    assert tokens.window(10**9, 5) == tokens.window(0, 0) == tokens.window(0, -1) == ()


def test_the_result_travels_between_processes():
    tokens = tokenize(wordpiece(), "The café")
    there = pickle.loads(pickle.dumps(tokens))
    assert there == tokens
    assert all_pieces(there) == all_pieces(tokens)


# Kinds


def kinds(tokenizer, text, **options):
    return [(p.text, p.kind) for p in all_pieces(tokenize(tokenizer, text, **options))]


def test_parts_of_a_character_are_bytes_and_share_it():
    found = all_pieces(tokenize(byte_level(), "a😀Ω"))
    assert [p.kind for p in found] == ["text"] + ["byte"] * 6
    assert [p.shared for p in found] == [False, False, True, True, True, False, True]
    assert [p.text for p in found] == ["a", *["😀"] * 4, "Ω", "Ω"]
    assert all_pieces(tokenize(byte_level(), "für Größe"))[-1].kind == "text", "a token of whole characters"


def test_byte_fallback_is_told_from_text():
    assert kinds(sentencepiece_bpe(), "a<", special_tokens=False) == [("a", "text"), ("<", "byte")]


def test_unknown_is_what_the_vocabulary_lacks_and_not_what_is_called_so():
    assert kinds(wordpiece(), "the 😀 [UNK]") == [
        ("", "special"), ("the", "text"), ("😀", "unknown"), ("[UNK]", "special"), ("", "special"),
    ]  # fmt: skip
    tokens = tokenize(wordpiece(), "the 😀 [UNK]")
    assert tokens.counts.unknown == 1
    assert tokens.window(2, 1)[0].utf8 == ()


def test_added_tokens_are_told_from_special_ones():
    assert kinds(characters(), "<tool>a<unk>") == [("<tool>", "added"), ("a", "text"), ("<unk>", "special")]


# Counts


def test_counts_are_of_the_text_and_words_stand_between_spaces():
    counts = tokenize(unigram(), "The café, 😀!").counts
    assert (counts.characters, counts.bytes, counts.words) == (12, 16, 3)
    assert counts.tokens == len(unigram()("The café, 😀!").input_ids)
    assert (counts.around, counts.unknown, counts.byte_tokens) == (1, 1, 0)
    assert counts.tokens_per_word == (counts.tokens - 1) / 3
    assert tokenize(unigram(), "  ").counts.tokens_per_word is None


@given(text=st.text(st.sampled_from("ab\u00e9\u4e2d\U0001f600 \t\n\r\x0b\x1c\x85\xa0\u2003\u2028\u200b\u3000\u3001")))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_words_are_what_splitting_at_spaces_gives(text):
    assert tokenize(characters(), text).counts.words == len(text.split())


def test_every_space_of_unicode_ends_a_word():
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    assert tokenize(characters(), "a".join(spaces)).counts.words == len("a".join(spaces).split()) == len(spaces) - 1


def test_byte_tokens_are_counted():
    assert tokenize(byte_level(), "a😀 <").counts.byte_tokens == 4
    assert tokenize(sentencepiece_bpe(), "a😀 <").counts.byte_tokens == 5


@pytest.mark.parametrize("name", EVERY)
def test_special_tokens_around_a_text_can_be_left_out(name):
    tokenizer = EVERY[name]()
    bare = tokenize(tokenizer, "the text", special_tokens=False)
    assert list(bare.ids) == tokenizer("the text", add_special_tokens=False).input_ids
    assert bare.counts.around == 0
    assert list(tokenize(tokenizer, "the text").ids) == tokenizer("the text").input_ids


# Why a text is not covered


def why(tokenizer, text):
    return tokenize(tokenizer, text).covers


def test_a_normalizer_that_takes_away_is_named():
    assert why(wordpiece(), "a\x00b").why == (
        "'\\x00' is taken out, or merged into the character before, by the normalizer (BertNormalizer)."
    )
    assert why(unigram(), "Cafe\u0301").gap == (4, 5)
    assert "NFKC" in why(unigram(), "Cafe\u0301").why


def test_a_pre_tokenizer_that_drops_spaces_is_named():
    covers = why(wordpiece(), "the text " * 30)
    assert covers.why == "Spaces are dropped by the pre-tokenizer (BertPreTokenizer)."
    assert (covers.missing, covers.gap) == (60, (3, 4))


def test_a_post_processor_that_trims_is_named():
    trimming = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    trimming.post_processor = processors.ByteLevel(trim_offsets=True)
    covers = why(wrapped(trimming), "the text")
    assert covers.why.startswith("Spaces belong to a token, but the post-processor (ByteLevel)")
    assert covers.gap == (3, 4)


def test_a_model_without_an_unknown_token_that_drops_characters_is_named():
    dropping = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    dropping.pre_tokenizer = pre_tokenizers.Whitespace()
    covers = why(wrapped(dropping), "abΩa")
    assert covers.why.startswith("The vocabulary lacks a character of 'abΩa' and has no token for what is unknown")
    assert covers.missing == 1


def test_a_tokenizer_in_python_says_that_it_has_no_offsets():
    tokens = tokenize(python_only(), "Hé")
    assert (tokens.covers.exact, tokens.covers.offsets) == (False, False)
    assert "written in Python" in tokens.covers.why
    assert [(p.token, p.text, p.start, p.kind) for p in all_pieces(tokens)] == [
        ("H", "", None, "text"), ("Ã", "", None, "text"), ("©", "", None, "text"), ("</s>", "", None, "special"),
    ]  # fmt: skip


# Texts that are none


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("text", "position"), [("\ud83d", 1), ("ab\udc00c", 3)])
def test_half_a_character_is_named_with_its_place(name, text, position):
    with pytest.raises(InputError) as caught:
        tokenize(EVERY[name](), text)
    assert caught.value.message.startswith(f"Character {position} of the text is half a character (U+D")


def test_too_much_text_is_refused_with_the_limit():
    with pytest.raises(InputError, match=r"The text has 50.0 MB; at most 10 MB"):
        tokenize(byte_level(), "x" * 50_000_000)


def test_the_limit_counts_bytes(monkeypatch):
    monkeypatch.setattr(pieces, "TEXT_BYTES", 8)
    tokenize(byte_level(), "12345678")
    with pytest.raises(InputError):
        tokenize(byte_level(), "12345é78")


def test_a_text_that_the_tokenizer_refuses_is_an_input_error():
    strict = Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)]))
    assert tokenize(wrapped(strict), "ab").counts.tokens == 2
    with pytest.raises(InputError, match=r"cannot encode this text: .*unk_id"):
        tokenize(wrapped(strict), "Ω")


# The tokenizer of everybody


@pytest.mark.parametrize("name", RUST)
def test_a_copy_of_the_rust_half_is_the_same_but_for_cutting_and_filling(name):
    tokenizer = wrapped(Tokenizer.from_str(RUST[name]().backend_tokenizer.to_str()))
    shared = tokenizer.backend_tokenizer
    before = shared.to_str()
    shared.enable_truncation(3)
    shared.enable_padding(length=7)
    assert own_backend(tokenizer).to_str() == before
    assert (shared.truncation["max_length"], shared.padding["length"]) == (3, 7)


def test_ids_with_holes_survive_the_copy():
    holed = Tokenizer.from_str(
        byte_level()
        .backend_tokenizer.to_str()
        .replace('"<|end|>":1', '"<|end|>":9001')
        .replace('"id":1,', '"id":9001,')
    )
    assert own_backend(wrapped(holed)).encode("<|end|>").ids == holed.encode("<|end|>").ids == [9001]


def test_truncation_that_another_thread_sets_cuts_nothing_here():
    tokenizer = wrapped(Tokenizer.from_str(byte_level().backend_tokenizer.to_str()))
    text, stop, cut = "the text of the model " * 20, threading.Event(), []

    def cutting():
        while not stop.is_set():
            cut.append(len(tokenizer(text, truncation=True, max_length=5).input_ids))

    thread = threading.Thread(target=cutting)
    thread.start()
    lengths = {tokenize(tokenizer, text).counts.tokens for _ in range(200)}
    stop.set()
    thread.join(60)
    assert lengths == {len(byte_level()(text).input_ids)}
    assert set(cut) == {5}
