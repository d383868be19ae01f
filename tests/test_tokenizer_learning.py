"""Tokenizers are trained for real: each kind, each input that cannot work, and each way in which it can end early."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from studio.errors import Damaged, DoesNotFit, InputError, Unsupported
from studio.events import Finished, Phase, Progress
from studio.settings import ASSETS
from studio.tokenizer import Kind, Message, Recipe, Split, fitting, gathering, learn, load_tokenizer, render
from studio.tokenizer.gathering import gather

STORIES = (ASSETS / "make_starter_model" / "stories.txt").read_text(encoding="utf-8")
HARD = ["", " ", "  a  b\n\n\tc ", "Größe 😀 \u200d x", "नमस्ते", "<0x41>", "\x00\x01", "12345 67", STORIES]


def end_of(events):
    events = list(events)
    assert isinstance(events[-1], Finished)
    return events[-1].result


def children():
    return psutil.Process().children(recursive=True)


@pytest.fixture(scope="module")
def hard_words():
    """Two megabytes of words that never repeat, with which Unigram is busy for long."""
    chance = random.Random(0)
    return [" ".join(f"{chance.getrandbits(160):x}" for _ in range(1000)) for _ in range(50)]


def reach(work, phase):
    """Go on until a phase has come."""
    while (event := next(work)).phase is not phase:
        pass
    return event


# Whole, with the process


@pytest.mark.parametrize("kind", list(Kind))
def test_a_trained_tokenizer_loads_and_reads_as_it_should(kind, tmp_path):
    recipe = Recipe(kind=kind, vocabulary_size=700, begin_token="<s>")
    events = list(learn(iter([STORIES]), recipe, tmp_path / "deep" / "mine"))
    done = events[-1].result
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"mine"}
    tokenizer = load_tokenizer(tmp_path / "deep" / "mine")
    assert tokenizer.is_fast
    assert len(tokenizer) == done.vocabulary
    assert done.asked == 700
    assert done.vocabulary == 700 or (kind == Kind.UNIGRAM and "instead of 700" in done.warnings[0])
    assert tokenizer.convert_ids_to_tokens(range(3)) == ["<|pad|>", "<|end|>", "<s>"]
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (2, 0, 1)
    assert tokenizer("a").input_ids[0] == 2
    if recipe.holds_bytes:
        assert [
            text for text in HARD if tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) != text
        ] == []
        assert done.came_back == done.held_out > 0
        assert tokenizer.unk_token is None
    else:
        assert tokenizer.convert_tokens_to_ids("<|unknown|>") == 3
        assert 3 in tokenizer("😀").input_ids
    assert len(tokenizer(STORIES).input_ids) < len(STORIES) / 2
    assert list(dict.fromkeys(event.phase for event in events[:-1]))[-2:] == [Phase.COUNT_WORDS, Phase.LEARN]
    counted = [event for event in events if isinstance(event, Progress) and event.phase is Phase.COUNT_WORDS]
    assert all(event.done <= event.total == done.bytes for event in counted)
    assert done.characters + sum(map(len, held_out(tmp_path))) == len(STORIES)
    assert done.weight == sum(file.stat().st_size for file in (tmp_path / "deep" / "mine").iterdir())
    assert json.loads(json.dumps(asdict(done)))["folder"] == done.folder


def held_out(tmp_path):
    return end(gather([STORIES], tmp_path / "again.jsonl")).held_out


def end(work):
    """What a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def test_a_trained_tokenizer_talks_with_the_small_template(tmp_path):
    tokenizer = fit(Recipe(vocabulary_size=400), [STORIES], tmp_path)
    chat = (Message("user", "Hé"), Message("assistant", "Yes."), Message("user", "So?"))
    assert render(tokenizer, chat).endswith("<|assistant|>\nYes.<|end|>\n<|user|>\nSo?<|end|>\n<|assistant|>\n")
    encoded = tokenizer.apply_chat_template(
        [asdict(message) for message in chat[:2]], return_assistant_tokens_mask=True, return_dict=True
    )
    ids = [number for number, mine in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mine]
    assert tokenizer.decode(ids) == "Yes.<|end|>"
    assert tokenizer.encode("<|assistant|>") == [4]


def test_a_trained_tokenizer_is_held_against_another_on_what_neither_learned(tmp_path):
    done = end_of(learn([STORIES], Recipe(vocabulary_size=500), tmp_path / "mine", against=ASSETS / "starter_model"))
    (row,) = done.comparison.rows
    assert [each.name for each in done.comparison.tokenizers] == ["learned", "current"]
    assert row.characters == sum(map(len, held_out(tmp_path)))
    assert row.counts[0].tokens > row.counts[1].tokens  # 500 tokens against 2,048 that know these stories
    json.dumps(asdict(done))


def test_what_the_result_warns_of(tmp_path):
    texts = ["A tiny text. <|end|> Nothing repeats; <|end|> so there is little to learn."]
    warnings = end_of(learn(texts, Recipe(vocabulary_size=4000), tmp_path / "mine")).warnings
    assert len(warnings) == 2
    assert warnings[0].startswith("<|end|> occurs in the text, 2×.")
    assert "instead of 4,000: there was not enough text" in warnings[1]
    assert "that occurs 2 times" in warnings[1]


# Ending early


@pytest.mark.parametrize("phase", [Phase.GATHER, Phase.COUNT_WORDS, Phase.LEARN])
def test_a_training_that_is_closed_leaves_no_process_and_no_file(phase, tmp_path, hard_words, monkeypatch):
    monkeypatch.setattr(gathering, "_BEAT_SECONDS", 0.0)
    work = learn(hard_words, Recipe(kind=Kind.UNIGRAM), tmp_path / "mine")
    reach(work, phase)
    assert (len(children()), len(list(tmp_path.iterdir()))) == (0 if phase is Phase.GATHER else 1, 1)
    begin = time.monotonic()
    work.close()
    assert time.monotonic() - begin < 5
    assert children() == []
    assert list(tmp_path.iterdir()) == []


def test_a_training_whose_process_is_killed_says_so_and_leaves_nothing(tmp_path, hard_words):
    work = learn(hard_words, Recipe(kind=Kind.UNIGRAM), tmp_path / "mine")
    reach(work, Phase.LEARN)
    children()[0].kill()
    with pytest.raises(DoesNotFit, match="was killed"):
        list(work)
    assert list(tmp_path.iterdir()) == []


def test_a_training_does_not_outlive_a_studio_that_is_killed_and_what_it_left_is_in_nobodys_way(tmp_path, hard_words):
    (tmp_path / "words.txt").write_text("\n".join(hard_words))
    script = (
        "from pathlib import Path; from studio.tokenizer import *\n"
        f"work = learn(read_texts([Path({str(tmp_path / 'words.txt')!r})]), Recipe(kind='Unigram'),"
        f" Path({str(tmp_path / 'mine')!r}))\n"
        "for event in work:\n    print(event.phase, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as studio:
        while studio.stdout.readline().strip() != "learn":
            assert studio.poll() is None
        (child,) = psutil.Process(studio.pid).children()
        studio.send_signal(signal.SIGKILL)
    child.wait(10)
    assert {path.name for path in tmp_path.iterdir()} == {"words.txt", "mine.part"}
    end_of(learn([STORIES], Recipe(vocabulary_size=400), tmp_path / "mine"))
    assert {path.name for path in tmp_path.iterdir()} == {"words.txt", "mine"}


def test_a_process_that_breaks_off_is_told_in_our_words(tmp_path, monkeypatch):
    from studio import child

    monkeypatch.setattr(child, "PACKAGE_ROOT", tmp_path)  # where there is no studio
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unsupported, match="broke off: its process ended with 1"):
        list(learn([STORIES], Recipe(), tmp_path / "mine"))
    assert list(tmp_path.iterdir()) == []


@contextmanager
def files_of_at_most(size):
    """As on a full disk: no file of this process and of those it starts grows beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("texts", "where"), [([STORIES * 20], "texts.jsonl"), ([STORIES], "tokenizer")])
def test_a_full_disk_is_said_to_be_one(tmp_path, texts, where):
    with files_of_at_most(40_000), pytest.raises(DoesNotFit, match=rf"{where} cannot be written: File too large"):
        list(learn(texts, Recipe(vocabulary_size=2000), tmp_path / "mine"))
    assert list(tmp_path.iterdir()) == []


# Texts that cannot be learned from


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "no text to learn from"),
        (["", " \n", "\t"], "no text to learn from"),
        (["a", "aaa" * 1000], "one character only, 'a'"),
        (["fine", 7], "Text 2 is no text but int"),
        (["fine", None], "Text 2 is no text but NoneType"),
        (["\ud83d"], "Text 1 holds bytes that are not text"),
    ],
)
def test_texts_that_are_none_are_refused(texts, words, tmp_path):
    with pytest.raises(InputError, match=words):
        list(learn(texts, Recipe(), tmp_path / "mine"))
    assert list(tmp_path.iterdir()) == []


def test_more_text_than_a_training_takes_is_refused_with_the_limit(tmp_path, monkeypatch):
    assert gathering.TEXT_LIMIT == 10**9
    monkeypatch.setattr(gathering, "TEXT_LIMIT", 10**6)
    endless = iter(lambda: STORIES, None)
    with pytest.raises(InputError, match=r"more text than 0\.001 GB"):
        list(learn(endless, Recipe(), tmp_path / "mine"))
    assert list(tmp_path.iterdir()) == []


def test_texts_that_fail_to_be_read_are_not_mistaken_for_a_full_disk(tmp_path):
    def texts():
        yield STORIES
        raise OSError(5, "Input/output error")

    with pytest.raises(InputError, match="Text 2 cannot be read: Input/output error"):
        list(learn(texts(), Recipe(), tmp_path / "mine"))


def test_a_folder_that_is_there_or_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for there in ("file", "empty", ".."):
        with pytest.raises(InputError, match="exists already"):
            list(learn([STORIES], Recipe(), tmp_path / there))
    for never in (tmp_path / "file" / "mine", Path("/proc/nobody/mine"), tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="cannot be written"):
            list(learn([STORIES], Recipe(), never))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "empty"}


def test_another_tokenizer_that_cannot_be_read_is_told_before_anything_is_learned(broken, tmp_path):
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(Damaged, match="tokenizer cannot be read"):
        list(learn([STORIES], Recipe(), tmp_path / "mine", against=broken))
    assert not (tmp_path / "mine.part").exists()


# In the process, for what needs none of its own


def fit(recipe, texts, tmp_path):
    end(gather(texts, tmp_path / "texts.jsonl"))
    fitting.fit(recipe, tmp_path / "texts.jsonl", [], tmp_path / "mine")
    return load_tokenizer(tmp_path / "mine")


@pytest.mark.parametrize("kind", [Kind.BYTE_FALLBACK, Kind.WORDPIECE, Kind.UNIGRAM])
def test_a_vocabulary_without_room_for_the_characters_says_how_many_there_are(kind, tmp_path):
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 500)))
    with pytest.raises(
        InputError, match=r"500 different characters.* has (506|761) tokens; 300 were asked for"
    ) as caught:
        fit(Recipe(kind=kind, vocabulary_size=300), [text], tmp_path)
    assert "Choose at least" in caught.value.hint
    assert not (tmp_path / "mine").exists()


def test_the_smallest_vocabulary_that_is_named_is_one_that_works(tmp_path):
    text = "".join(map(chr, range(0x430, 0x450)))  # one word of 32 letters, which WordPiece needs within a word too
    with pytest.raises(InputError, match="32 different characters") as caught:
        fit(Recipe(kind=Kind.WORDPIECE, vocabulary_size=40), [text, text], tmp_path)
    least = int("".join(filter(str.isdigit, caught.value.hint.split(",")[0])))
    (tmp_path / "texts.jsonl").unlink()
    assert len(fit(Recipe(kind=Kind.WORDPIECE, vocabulary_size=least), [text, text], tmp_path)) == least


def test_a_text_about_byte_tokens_does_not_take_their_place(tmp_path):
    recipe = Recipe(kind=Kind.BYTE_FALLBACK, vocabulary_size=500)
    tokenizer = fit(recipe, ["<0x41>\n<0x41>\n<0x41>more\n and <0x4>\n" * 50], tmp_path)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert tokenizer.convert_tokens_to_ids("<0x41>") == 5 + 0x41
    assert [token for token in tokenizer.get_vocab() if "<0x41>" in token] == ["<0x41>"]
    for text in HARD:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_stand_apart_or_together_and_signs_stay_with_their_letters(tmp_path):
    texts = ["In 2026 नमस्ते दुनिया " * 50]
    apart = fit(Recipe(vocabulary_size=400), texts, tmp_path).tokenize("2026 नमस्ते")
    (tmp_path / "texts.jsonl").unlink()
    grouped = fit(Recipe(vocabulary_size=400, split=Split.DIGITS_GROUPED), texts, tmp_path).tokenize(" 2026")
    assert apart[:4] == ["2", "0", "2", "6"]
    assert len(apart) == 5
    assert grouped == ["Ġ2026"]


def test_no_token_is_longer_than_was_asked_for(tmp_path):
    for kind in (Kind.BYTE_LEVEL, Kind.BYTE_FALLBACK, Kind.UNIGRAM):
        folder = tmp_path / kind.replace(" ", "")
        folder.mkdir()
        tokenizer = fit(Recipe(kind=kind, vocabulary_size=1000, longest_token=4), [STORIES], folder)
        longest = max(len(token) for token in tokenizer.get_vocab() if "<" not in token)
        assert longest == 4


@pytest.mark.parametrize("template", ["{% for %}", "{{ 9 ** 9 ** 9 }}", "{{ nobody.knows }}"])
def test_a_template_of_ones_own_that_fails_is_told_before_the_training(template, tmp_path):
    with pytest.raises(InputError, match="chat template"):
        fit(Recipe(template="own", own_template=template), [STORIES], tmp_path)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("choice", "text"), [("none", ""), ("own", "{{ messages[0].content }}")])
def test_the_chat_template_is_the_one_that_was_chosen(choice, text, tmp_path):
    tokenizer = fit(Recipe(vocabulary_size=400, template=choice, own_template=text), [STORIES], tmp_path)
    assert (tokenizer.chat_template or "") == text


# Contradictions


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vocabulary_size": 260}, "260 is too small: 5 special tokens and 256 bytes"),
        (
            {"vocabulary_size": 16, "kind": "WordPiece", "more_tokens": "a b c d e f g h i j k l m n"},
            "17 special tokens",
        ),
        ({"kind": "WordPiece", "unknown_token": ""}, "WordPiece needs an unknown token"),
        ({"kind": "Unigram", "unknown_token": ""}, "Unigram needs an unknown token"),
        ({"kind": "Unigram", "minimum_frequency": 2}, "no minimum frequency"),
        ({"kind": "WordPiece", "longest_token": 8}, "no longest token"),
        ({"kind": "WordPiece", "split": "Metaspace"}, "knows no spaces"),
        ({"split": "Metaspace"}, "own sign for a space"),
        ({"pad_token": "<|end|>"}, "two special tokens at once"),
        ({"more_tokens": "<a> <a>"}, "two special tokens at once"),
        ({"end_token": "the end"}, "cannot be a special token"),
        ({"end_token": "\ud83d"}, "cannot be a special token"),
        ({"kind": "BPE with byte fallback", "more_tokens": "<0x41>"}, "stands for a byte"),
        ({"end_token": ""}, "ends turns with the end token"),
        ({"template": "own"}, "no chat template of your own"),
        ({"own_template": "{{ x }}"}, "small is chosen"),
        ({"kind": "BPE"}, "Kind is 'BPE'"),
        ({"vocabulary_size": 10}, "Vocabulary size is 10"),
        ({"longest_token": 1}, "Longest token is 1"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(fields, words):
    with pytest.raises(InputError, match=words) as caught:
        Recipe(**fields)
    assert caught.value.hint


def test_a_recipe_with_the_least_size_is_one():
    for kind in Kind:
        least = Recipe(kind=kind).least_size
        if least >= 16:
            Recipe(kind=kind, vocabulary_size=least)
            with pytest.raises(InputError):
                Recipe(kind=kind, vocabulary_size=least - 1)
