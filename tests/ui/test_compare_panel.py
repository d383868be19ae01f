"""The panel that holds tokenizers against each other, handler by handler: on samples, on a text, on rows."""

from __future__ import annotations

import json
import re

import pytest
from pico import save_pico

from studio import jobs
from studio.jobs import tokenizing
from studio.ui import compare_panel, model_strip
from studio.ui.compare_panel import ROWS, SAMPLES, TYPED
from studio.ui.dataset_chooser import FILE, HUB, STARTER_SET

NAMED = {"where": STARTER_SET, "bundled": "orders", "file": None, "pasted": "", "name": ""}
DATA = NAMED | {"looked": None, "split": None}


@pytest.fixture(autouse=True)
def workspace(monkeypatch, tmp_path):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return str(save_pico(tmp_path_factory.mktemp("models") / "other"))


def compare(on_what, others=(), text="Once upon a time", **data):
    shown = {}
    for update in compare_panel.compare(
        model="starter", others=list(others), on_what=on_what, text=text, **DATA | data
    ):
        shown |= update
    return shown


def written(folder, rows, name="mine.jsonl"):
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def cells(shown, first):
    """The row of a table that begins with this cell."""
    row = re.search(rf"<tr><td>{first}</td>(.*?)</tr>", shown["found"])
    return re.findall("<td>(.*?)</td>", row[1])


def test_a_shipped_set_is_compared_column_by_column(other):
    shown = compare(ROWS, [other])
    assert shown["note"] == ""
    assert "starter needs the fewest tokens for orders, 700 rows" in shown["found"]
    assert len(cells(shown, "prompt")) == len(cells(shown, "completion")) == 8


def test_what_is_counted_is_what_the_rows_hold(tmp_path, other):
    rows = [{"text": "one two", "number": 1}, {"text": None, "number": 2}, {"text": "three é", "number": 3}]
    shown = compare(ROWS, [other], where=FILE, file=written(tmp_path, rows))
    by_hand = compare(TYPED, [other], text="one two")
    tokens, tokens_of_other, *_ = cells(shown, "text")
    assert int(tokens) > int(cells(by_hand, "Your text")[0])
    assert int(tokens_of_other) == len("one two") + len("three é".encode())  # it has a token a byte
    assert cells(shown, "text")[-1].endswith(" · 2")  # the two bytes of é
    assert "number" not in re.findall("<tr><td>(.*?)</td>", shown["found"])


def test_turns_of_a_conversation_are_texts(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    shown = compare(ROWS, where=FILE, file=written(tmp_path, [{"messages": turns}]))
    typed = compare(TYPED, text="Hi"), compare(TYPED, text="Hello there")
    assert int(cells(shown, "messages")[0]) == sum(int(cells(one, "Your text")[0]) for one in typed)
    assert "mine.jsonl, 1 row" in shown["found"]


def test_of_many_rows_the_first_are_compared_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizing, "EXCERPT_BYTES", 1000)
    shown = compare(ROWS, where=FILE, file=written(tmp_path, [{"text": "x" * 100}] * 50))
    assert "the first 10 of 50 rows of mine.jsonl" in shown["found"]
    assert "the first 10 of 50 rows of mine.jsonl" in shown["note"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"where": FILE}, "No file is chosen"),
        ({"where": HUB}, "No dataset is named"),
        ({"where": HUB, "name": "alice/rows"}, "cannot be reached"),
    ],
)
def test_rows_that_cannot_be_had_are_said(data, said):
    assert said in compare(ROWS, **data)["note"]


def test_rows_without_a_text_are_said(tmp_path):
    assert "no text to compare on" in compare(ROWS, where=FILE, file=written(tmp_path, [{"number": 1}]))["note"]


def test_a_column_is_no_html(tmp_path):
    shown = compare(ROWS, where=FILE, file=written(tmp_path, [{"<img src=x>": "a text"}]))
    assert "<img" not in shown["found"]
    assert "&lt;img" in shown["found"]


def test_rows_of_the_hub_are_compared(hub_server):
    hub_server.add("alice/rows", {"train.jsonl": '{"text": "one"}\n' * 3}, kind="datasets")
    assert "alice/rows, 3 rows" in compare(ROWS, where=HUB, name="alice/rows")["found"]


def test_an_unknown_character_is_counted_as_unknown(other):
    assert cells(compare(SAMPLES, [other]), "Emoji")[-2] == "0 · 0"


def test_a_tokenizer_that_was_trained_is_offered_by_its_name(workspace, other, monkeypatch):
    for name in ("pirate", "half.part"):
        folder = workspace / "tokenizers" / name
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text("{}")
    (update,) = compare_panel.names_offered()
    offered = update["others"]["choices"]
    assert ("pirate (tokenizer)", str(workspace / "tokenizers" / "pirate")) in offered
    assert offered == model_strip.model_choices()
    assert not any("half" in str(choice) for choice in offered)
    monkeypatch.setenv("SPACE_ID", "alice/studio")
    assert model_strip.model_choices() == ["starter"]


def test_the_excerpt_stops_where_it_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizing, "EXCERPT_TEXT", 10)
    from dataset_steps import rows_of

    events = jobs.excerpt(rows_of(tmp_path, [{"text": "x" * 100}] * 50))
    assert next(events).done == 20
    events.close()
