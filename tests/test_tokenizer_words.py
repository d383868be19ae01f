"""How a word became its tokens: the steps that are told end in what the tokenizer itself gives."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers_made import EVERY, RUST, SENTENCES, byte_level, characters, python_only, sentencepiece_bpe, unigram
from tokenizers_made import wordpiece as wordpiece_tokenizer
from transformers import PreTrainedTokenizerFast

from studio.errors import InputError, Unsupported
from studio.tokenizer import word_story
from studio.tokenizer.words import WORD_CHARACTERS

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split(" ") if word})
LETTERS = "abcdehlnorstuwxzABCäöß ▁éΩ中😀#019.,'\u0301\x00"
RANDOM = st.one_of(st.text(LETTERS, min_size=1, max_size=16), st.text(min_size=1, max_size=8), st.sampled_from(WORDS))
many = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def wrapped(model, pre_tokenizer=None):
    backend = Tokenizer(model)
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def told(story, part):
    """The tokens in which the steps of a part end."""
    if part.added or story.model == "WordLevel":
        return part.tokens
    if story.model == "BPE":
        return part.merges[-1].result if part.merges else part.begins_as
    if story.model == "Unigram":
        return part.segmentations[0].tokens
    found = tuple(match.token for match in part.matches)
    return found if found and None not in found else ("[UNK]",)


def check(tokenizer, word, **options):
    story = word_story(tokenizer, word, **options)
    assert [told(story, part) for part in story.parts] == [part.tokens for part in story.parts]
    ids = [id for part in story.parts for id in part.ids]
    assert ids == tokenizer(word, add_special_tokens=False).input_ids
    return story


@pytest.mark.parametrize("name", RUST)
@many
@given(word=RANDOM)
def test_the_steps_end_in_the_tokens_of_the_tokenizer(name, word):
    check(RUST[name](), word)


# Byte-pair encoding

VOCABULARY = [
    "a",
    "b",
    "c",
    "ab",
    "bc",
    "abc",
    "cab",
    "##a",
    "##b",
    "##c",
    "ab##",
    "<u>",
    "a$",
    "b$",
    "c$",
    "ab$",
    "abc$",
]
NUMBERED = {token: id for id, token in enumerate(VOCABULARY)}
VARIANTS = {
    "plain": models.BPE(NUMBERED, [("a", "b"), ("b", "c"), ("ab", "c"), ("c", "ab")]),
    "the other order": models.BPE(NUMBERED, [("b", "c"), ("a", "b"), ("a", "bc")]),
    "unknown": models.BPE(NUMBERED, [("a", "b")], unk_token="<u>"),
    "unknown, fused": models.BPE(NUMBERED, [("a", "b")], unk_token="<u>", fuse_unk=True),
    "whole words": models.BPE(NUMBERED, [("b", "c")], ignore_merges=True),
    "an end": models.BPE(NUMBERED, [("a", "b$"), ("a", "b"), ("ab", "c$")], end_of_word_suffix="$"),
    "a prefix": models.BPE(NUMBERED, [("a", "##b"), ("ab", "##c")], continuing_subword_prefix="##"),
    "no merges": models.BPE(NUMBERED, []),
}


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("word", ["".join(w) for n in (1, 2, 3, 4) for w in itertools.product("abcx", repeat=n)][::3])
def test_every_kind_of_bpe_is_told_as_it_is(model, word):
    story = word_story(wrapped(model), word)
    part = story.parts[0]
    assert told(story, part) == part.tokens


def test_merges_apply_in_the_order_of_their_ranks_and_each_shows_its_result():
    part = word_story(wrapped(VARIANTS["plain"]), "cabc").parts[0]
    assert part.begins_as == ("c", "a", "b", "c")
    assert [(m.rank, m.left, m.right, m.at, m.result) for m in part.merges] == [
        (0, "a", "b", 1, ("c", "ab", "c")),
        (2, "ab", "c", 1, ("c", "abc")),
    ]


def test_a_word_that_is_whole_in_the_vocabulary_may_need_no_merge():
    part = word_story(wrapped(VARIANTS["whole words"]), "abc").parts[0]
    assert (part.whole, part.merges, part.tokens) == (True, (), ("abc",))
    assert not word_story(wrapped(VARIANTS["plain"]), "abc").parts[0].whole


def test_bytes_are_what_a_bpe_begins_with_for_a_character_that_it_lacks():
    part = word_story(sentencepiece_bpe(), "😀").parts[0]
    assert part.begins_as == ("▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>")


def test_merges_as_old_files_write_them_are_read():
    backend = json.loads(wrapped(VARIANTS["plain"]).backend_tokenizer.to_str())
    backend["model"]["merges"] = [" ".join(pair) for pair in backend["model"]["merges"]]
    old = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)))
    assert check(old, "abc").parts[0].merges[-1].result == ("abc",)


def test_dropout_is_told():
    chance = wrapped(models.BPE(NUMBERED, [("a", "b")], dropout=0.5))
    assert "dropout" in word_story(chance, "ab").parts[0].notes[0]


# WordPiece


def test_a_wordpiece_takes_the_longest_beginning_each_time():
    vocabulary = {token: id for id, token in enumerate(["[UNK]", "un", "##aff", "##able", "##a", "unaf"])}
    part = word_story(wrapped(models.WordPiece(vocabulary, unk_token="[UNK]")), "unaffable").parts[0]
    assert [(m.rest, m.token, m.tried) for m in part.matches] == [("unaffable", "unaf", 5), ("fable", None, 5)]
    assert part.tokens == ("[UNK]",)
    part = word_story(wrapped(models.WordPiece(vocabulary, unk_token="[UNK]")), "unaffaffable").parts[0]
    assert part.tokens == ("[UNK]",)


def test_a_word_that_is_too_long_for_a_wordpiece_is_not_looked_at():
    part = word_story(wordpiece_tokenizer(), "a" * 101).parts[0]
    assert (part.tokens, part.matches) == (("[UNK]",), ())


# Unigram


def ways(known, word):
    """Every way to take a word apart, by trying all of them."""
    if not word:
        yield 0.0, ()
    for end in range(1, len(word) + 1):
        if word[:end] in known:
            for score, rest in ways(known, word[end:]):
                yield known[word[:end]] + score, (word[:end], *rest)


@many
@given(
    scores=st.lists(st.floats(-20, -0.5), min_size=7, max_size=7),
    word=st.text("abc", min_size=1, max_size=8),
)
def test_the_best_ways_of_a_unigram_are_the_best_of_all_ways(scores, word):
    known = dict(zip(["a", "b", "c", "ab", "bc", "abc", "ca"], scores, strict=True))
    tokenizer = wrapped(models.Unigram([("<unk>", 0.0), *known.items()], unk_id=0))
    part = check(tokenizer, word, alternatives=4).parts[0]
    best = sorted((score for score, _ in ways(known, word)), reverse=True)[:4]
    assert [way.score for way in part.segmentations] == pytest.approx(best)
    for way in part.segmentations:
        assert "".join(way.tokens) == word
        assert math.fsum(way.scores) == pytest.approx(way.score)
        # The library loses the last bit of a score when it reads a file.
        assert list(way.scores) == pytest.approx([known[token] for token in way.tokens])


def test_the_best_ways_are_all_different_and_best_first():
    found = word_story(unigram(), "tokenizers", alternatives=8).parts[0].segmentations
    assert len({way.tokens for way in found}) == len(found) > 3
    assert [way.score for way in found] == sorted((way.score for way in found), reverse=True)


def test_unknown_characters_in_a_row_are_one_token():
    part = check(unigram(), "a😀中b").parts[0]
    assert part.segmentations[0].tokens == ("▁a", "<unk>", "b")
    assert math.fsum(part.segmentations[0].scores) == pytest.approx(part.segmentations[0].score)


def test_without_a_token_for_what_is_unknown_the_refusal_is_told():
    with pytest.raises(InputError, match="unk_id"):
        word_story(wrapped(models.Unigram([("a", -1.0)])), "Ω")


def test_ways_over_characters_that_only_longer_tokens_have_are_told_too():
    tokenizer = wrapped(models.Unigram([("<unk>", 0.0), ("ab", -1.0), ("c", -2.0)], unk_id=0))
    part = check(tokenizer, "abc").parts[0]
    assert [way.tokens for way in part.segmentations] == [("ab", "c"), ("<unk>", "c")]


# Words


def test_an_added_token_is_taken_whole():
    part = word_story(byte_level(), "<|end|>").parts[0]
    assert (part.added, part.tokens, part.merges) == (True, ("<|end|>",), ())
    parts = check(wordpiece_tokenizer(), "the[MASK]text").parts
    assert [(part.text, part.added) for part in parts] == [("the", False), ("[MASK]", True), ("text", False)]


def test_a_space_in_front_belongs_to_the_word():
    assert word_story(byte_level(), " the").parts[0].text == "Ġthe"
    assert word_story(byte_level(), "the").parts[0].text == "the"


def test_a_word_of_spaces_that_are_dropped_has_no_parts():
    assert word_story(wordpiece_tokenizer(), "  ").parts == ()


def test_a_word_level_tokenizer_has_no_steps():
    story = check(characters(), "ab")
    assert (story.model, [part.tokens for part in story.parts]) == ("WordLevel", [("a",), ("b",)])


def test_a_tokenizer_in_python_cannot_be_looked_into():
    with pytest.raises(Unsupported, match="written in Python"):
        word_story(python_only(), "word")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("word", ["", "x" * (WORD_CHARACTERS + 1), "\ud83d"])
def test_what_is_no_word_is_refused(name, word):
    with pytest.raises(InputError):
        word_story(EVERY[name](), word)


@pytest.mark.parametrize("name", RUST)
def test_the_longest_word_is_told(name):
    check(RUST[name](), ("Word1é😀" * WORD_CHARACTERS)[:WORD_CHARACTERS])


@pytest.mark.parametrize("name", RUST)
def test_a_story_becomes_json(name):
    assert json.loads(json.dumps(dataclasses.asdict(word_story(RUST[name](), "café"))))["word"] == "café"


def test_the_vocabulary_is_read_once_and_let_go_with_the_tokenizer():
    import gc
    import weakref

    from studio.tokenizer import words

    tokenizer = wrapped(VARIANTS["plain"], pre_tokenizers.Whitespace())
    word_story(tokenizer, "abc")
    kept = words._MODELS[tokenizer]
    word_story(tokenizer, "cab")
    assert words._MODELS[tokenizer] is kept
    gone = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert gone() is None
