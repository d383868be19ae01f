"""The panel that trains a tokenizer, handler by handler."""

from __future__ import annotations

import dataclasses

import pytest
from dataset_steps import rows_of

from studio.tokenizer import Recipe
from studio.ui import learning_panel
from studio.ui.dataset_chooser import FILE, STARTER_SET
from studio.ui.learning_panel import ALL_COLUMNS, FILES, ROWS

RECIPE = {f"recipe_{field.name}": field.default for field in dataclasses.fields(Recipe)}
DATA = {
    "where": STARTER_SET,
    "bundled": "orders",
    "file": None,
    "pasted": "",
    "name": "",
    "looked": None,
    "split": None,
}
ASKED = {"column": ALL_COLUMNS, "files": None, "learned_name": "mine", "model": "starter", "text": "Hello there"}


@pytest.fixture(autouse=True)
def workspace(monkeypatch, tmp_path):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


def train(learn_from=ROWS, **values):
    shown = {}
    for update in learning_panel.train_tokenizer(learn_from=learn_from, **{**RECIPE, **DATA, **ASKED, **values}):
        shown |= update
    return shown


def test_the_starter_set_teaches_a_tokenizer_that_can_be_used(workspace):
    shown = train(recipe_vocabulary_size=400)
    assert shown["note"] == ""
    assert "Learned 400 tokens" in shown["found"]
    assert "fewer tokens than starter" in shown["found"]
    assert 'class="tokens"' in shown["found"]
    used = learning_panel.used(made=shown["made"])
    folder = str(workspace / "tokenizers" / "mine")
    assert used["model"]["value"] == folder
    assert ("mine (tokenizer)", folder) in used["model"]["choices"]


def test_a_vocabulary_that_the_text_does_not_fill_says_why():
    found = train()["found"]
    assert "of 8,192 tokens" in found
    assert "there was not enough text for more" in found


def test_text_files_are_learned_from(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox and the lazy dog\n" * 100)
    assert "Learned" in train(FILES, files=[str(file)], recipe_vocabulary_size=300)["found"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"learn_from": FILES}, "No file is chosen"),
        ({"where": FILE}, "No file is chosen"),
        ({"column": "nowhere"}, "has no column &#x27;nowhere&#x27;"),
        ({"learned_name": " "}, "needs a name"),
        ({"learned_name": "../up"}, "not a name for a tokenizer"),
        ({"recipe_vocabulary_size": 100}, "A vocabulary of 100 is too small"),
        ({"recipe_kind": "Unigram", "recipe_vocabulary_size": 20}, "different characters"),
        ({"recipe_pad_token": "<|end|>"}, "two special tokens at once"),
        ({"recipe_minimum_frequency": "often"}, "not a whole number"),
        ({"model": "no model"}, "not the name of a model"),
    ],
)
def test_what_cannot_be_trained_is_said_and_leaves_nothing(asked, said, workspace):
    shown = train(**asked)
    assert said in shown["note"]
    assert "found" not in shown
    assert list((workspace / "tokenizers").glob("*")) == []


def test_a_file_without_text_is_said(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    assert "no text to learn from" in train(FILES, files=[str(tmp_path / "empty.txt")])["note"]
    assert "binary.txt is not text" in train(FILES, files=[str(tmp_path / "binary.txt")])["note"]


def test_a_name_that_is_taken_is_refused():
    train(recipe_vocabulary_size=300)
    assert "exists already" in train(recipe_vocabulary_size=300)["note"]


def test_a_visitor_is_told_that_training_is_not_for_visitors(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "alice/studio")
    assert "Visitors cannot train" in train()["note"]


def test_the_columns_of_what_was_measured_are_offered(tmp_path):
    @dataclasses.dataclass
    class Measured:
        rows: object

    (shown,) = learning_panel.show(measured=Measured(rows_of(tmp_path, [{"a": "x", "b": "y"}])))
    assert shown["column"]["choices"] == [ALL_COLUMNS, "a", "b"]


def test_the_source_shows_what_it_needs():
    shown = learning_panel.source_chosen(learn_from=FILES)
    assert (shown["files"]["visible"], shown["column"]["visible"]) == (True, False)
