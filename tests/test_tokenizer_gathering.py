"""Texts that a tokenizer is to learn from: nothing is lost on the way, and what is held out is not learned from."""

from __future__ import annotations

import json

import pytest

from studio.errors import InputError
from studio.settings import ASSETS
from studio.tokenizer import gathering, read_texts
from studio.tokenizer.gathering import PIECE, gather, pieces

STORIES = (ASSETS / "make_starter_model" / "stories.txt").read_text(encoding="utf-8")
ROWS = [f"row {number} of a table" for number in range(4000)]


def gathered(texts, file):
    """What was collected, and the pieces to learn from."""
    work = gather(texts, file)
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value, [json.loads(line) for line in file.read_text().splitlines()]


def test_files_are_read_as_they_are_and_what_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("é\r\nb".encode())
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    assert list(read_texts([tmp_path / "a.txt"])) == ["é\r\nb"]
    with pytest.raises(InputError, match=r"b\.txt is not text in UTF-8"):
        list(read_texts([tmp_path / "b.txt"]))
    with pytest.raises(InputError, match="No such file"):
        list(read_texts([tmp_path / "c.txt"]))
    with pytest.raises(InputError, match="Is a directory"):
        list(read_texts([tmp_path]))


def test_text_is_cut_in_front_of_spaces_and_nothing_of_it_is_lost():
    for text in (STORIES, "x" * 3500, " " * 2500, "a b" * 1000, "汉" * 1001, "a"):
        cut = list(pieces(text))
        assert "".join(cut) == text
        assert max(map(len, cut)) <= PIECE
        assert all(cut)
    assert all(piece[0] in " \n" for piece in list(pieces(STORIES))[1:])


def test_a_twentieth_is_held_out_and_is_not_learned_from(tmp_path):
    found, learned = gathered(ROWS + ROWS, tmp_path / "texts.jsonl")
    assert set(learned).isdisjoint(found.held_out)
    assert sorted(learned + found.held_out * 2) == sorted(ROWS * 2)
    assert 0.03 < len(found.held_out) / len(ROWS) < 0.07
    assert (found.texts, found.characters, found.bytes) == (8000, *[sum(map(len, learned))] * 2)


def test_no_more_is_held_out_than_is_needed(tmp_path, monkeypatch):
    assert gathering.HELD_OUT_LIMIT == 10**6
    monkeypatch.setattr(gathering, "HELD_OUT_LIMIT", 500)
    found, learned = gathered(ROWS + ROWS, tmp_path / "texts.jsonl")
    assert set(learned).isdisjoint(found.held_out)
    assert 450 < sum(map(len, found.held_out)) <= 500
