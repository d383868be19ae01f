"""Searching a vocabulary as people write, its special tokens, and where tokenizer and model do not agree."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from chat_templates import byte_level
from pico import byte_tokenizer

from studio.errors import InputError
from studio.tokenizer import added_tokens, all_tokens, census, load_tokenizer, mismatches, search
from studio.tokenizer import vocabulary as vocabulary_module

WORDS = (("Ġ", "w"), ("Ġw", "o"), ("h", "e"), ("Ã", "©"))


@pytest.fixture
def words():
    """<s>, </s>, the bytes, and then " w", " wo", "he" and "é"."""
    return byte_level(None, ["<s>", "</s>"], merges=WORDS)


def texts(window):
    return [entry.text for entry in window.entries]


# Searching


def test_a_token_is_found_as_it_reads_and_in_its_raw_form(words):
    assert texts(search(words, " wo")) == [" wo"]
    assert texts(search(words, "Ġwo"))[0] == " wo"
    assert texts(search(words, "é"))[0] == "é"
    assert search(words, "é").entries[0].raw == "Ã©"


def test_what_a_query_is_made_of_is_found(words):
    assert texts(search(words, "he wo")) == ["he", " wo"]


def test_the_exact_token_comes_first_and_case_does_not_count(words):
    assert texts(search(words, "W"))[:2] == ["W", "w"]
    assert texts(search(words, "HE")) == ["H", "E", "he"]


def test_nothing_is_found_where_nothing_is():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert search(tokenizer, "dog", by="pattern").total == 0
    assert texts(search(tokenizer, "cat")) == ["cat"]


def test_a_window_knows_how_many_there_are(words):
    everything = search(words, "", start=2, count=3)
    assert (everything.total, len(everything.entries), everything.start) == (len(words), 3, 2)
    assert [entry.id for entry in everything.entries] == [2, 3, 4]
    assert search(words, "", start=10_000).entries == ()
    with pytest.raises(InputError, match="no window of 0"):
        search(words, "", count=0)
    with pytest.raises(InputError, match="from -1"):
        search(words, "", start=-1)


def test_ids_are_found_one_by_one_and_in_ranges(words):
    assert [entry.id for entry in search(words, "1, 5 7-9 8", by="id").entries] == [1, 5, 7, 8, 9]
    assert search(words, "0-99999999999999999", by="id").total == len(words)
    assert search(words, "99999", by="id").total == 0
    for query in ("x", "-5", "5-x", "²"):
        with pytest.raises(InputError, match="no id of a token"):
            search(words, query, by="id")


def test_patterns_search_what_a_token_reads_and_its_raw_form(words):
    assert texts(search(words, "^ w", by="pattern")) == [" w", " wo"]
    assert texts(search(words, "^Ġwo$", by="pattern")) == [" wo"]
    assert search(words, r"^\d$", by="pattern").total == 10
    assert search(words, r"^[a-f]+?(?:x|)$", by="pattern").total == 6


@pytest.mark.parametrize("pattern", ["(", "[a", "a{99999999999999999999}", "*", "(?P<a", "\\"])
def test_a_pattern_that_is_none_is_refused(words, pattern):
    with pytest.raises(InputError, match="no regular expression"):
        search(words, pattern, by="pattern")


@pytest.mark.parametrize("by", ["text", "id", "pattern"])
def test_a_long_search_is_refused(words, by):
    with pytest.raises(InputError, match="201 characters, more than 200"):
        search(words, "1" * 201, by=by)


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|aa)+$", r"(a*)*b", r"(?:a?){30}a{30}$", r"(aa?)*b"])
def test_one_match_that_would_take_years_ends_in_time(monkeypatch, pattern):
    monkeypatch.setattr(vocabulary_module, "SEARCH_SECONDS", 0.2)
    tokenizer = byte_level(None, ["<s>", "a" * 60 + "!", "</s>"])
    start = time.monotonic()
    with suppress(InputError):  # some of these regex sees through
        search(tokenizer, pattern, by="pattern")
    assert time.monotonic() - start < 10


def test_a_search_that_is_not_simple_is_stopped(monkeypatch):
    monkeypatch.setattr(vocabulary_module, "SEARCH_SECONDS", 0.2)
    tokenizer = byte_level(None, ["<s>", "a" * 60 + "!", "</s>"])
    with pytest.raises(InputError, match="still searching after"):
        search(tokenizer, r"(a|a|aa)+$", by="pattern")


def test_the_table_is_made_once_and_again_when_tokens_are_added(words):
    first = all_tokens(words)
    assert all_tokens(words) is first
    words.add_tokens(["<new>"])
    assert search(words, "<new>").total == 1
    assert all_tokens(words) is not first


# How tokens read


def test_tokens_read_as_decoding_reads_them(pico):
    tokenizer = load_tokenizer(pico)
    for entry in all_tokens(tokenizer).entries:
        if not entry.added and entry.text.isascii():
            assert tokenizer.decode([entry.id]) == entry.text


def test_a_sentencepiece_token_keeps_its_space():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(
        models.BPE({"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, "<0xC3>": 4}, [("▁", "a")], byte_fallback=True)
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert texts(search(tokenizer, "")) == ["<unk>", " ", "a", " a", "\ufffd"]


def test_a_tokenizer_without_a_rust_part_has_a_vocabulary_too():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert texts(search(tokenizer, "^a$", by="pattern")) == ["a"]


# Special tokens


def test_added_tokens_come_with_their_flags_and_uses():
    from transformers import AddedToken

    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<go>", lstrip=True, single_word=True, normalized=True)])
    found = {entry.text: entry for entry in added_tokens(tokenizer)}
    assert (found["<|end|>"].roles, found["<|end|>"].special) == (("eos",), True)
    assert found["<|user|>"].roles == ()
    go = found["<go>"]
    assert (go.special, go.lstrip, go.rstrip, go.single_word, go.normalized) == (False, True, False, True, True)


def ids(found):
    return [finding.id for finding in found]


def test_a_tokenizer_that_fits_its_model_has_no_mismatch(pico):
    import json

    config, generation = (json.loads((pico / name).read_text()) for name in ("config.json", "generation_config.json"))
    tokenizer = load_tokenizer(pico)
    assert mismatches(tokenizer, config, generation, embedding_size=config["vocab_size"]) == ()


def test_another_end_than_that_of_the_model_is_told():
    tokenizer = byte_tokenizer()
    (found,) = mismatches(tokenizer, {"eos_token_id": 3}, {"eos_token_id": [1, 3]})
    assert found.id == "eos-differs"
    assert found.message == "The eos token is <|end|> (1) to the tokenizer, and <|user|> (3) to config.json."


def test_ids_that_no_token_has_are_told():
    found = mismatches(byte_tokenizer(), {}, {"eos_token_id": [1, 777]})
    assert [finding.message for finding in found] == [
        "generation_config.json has 777 as eos_token_id, and the tokenizer has no such token."
    ]


def test_tokens_beyond_the_model_are_counted():
    tokenizer = byte_tokenizer()
    found = mismatches(tokenizer, {"text_config": {"vocab_size": 259}}, {}, embedding_size=260)
    assert ids(found) == ["beyond-vocabulary", "beyond-embedding"]
    assert "2 tokens, the first" in found[0].message
    assert "1 tokens" in found[1].message
    assert mismatches(tokenizer, {"vocab_size": 320}, {}) == ()


def test_padding_with_the_end_is_the_trap_it_is():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert ids(mismatches(tokenizer, {}, {})) == ["pad-is-eos"]
    tokenizer.pad_token = None
    assert ids(mismatches(tokenizer, {}, {})) == ["pad-missing"]


# Statistics


def test_tokens_are_counted_by_length_and_script():
    special = ["<s>", "</s>"]
    tokenizer = byte_level(None, special, merges=WORDS)
    tokenizer.add_tokens(["привет", "你好", "مرحبا", "한국", "12345", "…!", "  \n", "€€"])
    found = census(tokenizer)
    shares = {share.name: share.tokens for share in found.scripts}
    assert (found.tokens, found.special, found.added) == (2 + 256 + 4 + 8, 2, 10)
    assert sum(shares.values()) == found.tokens
    assert shares["Latin"] == 52 + 4  # with " w", " wo", "he" and "é"
    assert shares["digits"] == 10 + 1
    assert shares["whitespace"] == 10 + 1  # ten of the ASCII signs
    assert shares["parts of characters"] == 128
    for name in ("Cyrillic", "Chinese characters", "Arabic", "Korean"):
        assert shares[name] == 1
    assert shares["special"] == 2
    assert sum(share.share for share in found.scripts) == pytest.approx(1)
    assert dict(found.lengths)[6] == 1
    assert found.longest[0].text == "привет"
    assert sum(count for _, count in found.lengths) == found.tokens - 2 - 128
