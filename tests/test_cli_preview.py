"""`python -m studio preview`, and the same over HTTP and as a tool."""

from __future__ import annotations

import json
import re

import gradio as gr
import pytest

from studio.cli import main
from studio.dataset import Preparation
from studio.ui import api

LONG = {"prompt": "a", "completion": "b" * 90}


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "Hi", "completion": "Hey"}) + "\n" + json.dumps(LONG) + "\n")
    return str(file)


def told(capsys, *arguments):
    code = main(["preview", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_json_holds_the_whole_of_it(capsys, pico, rows):
    code, out, err = told(capsys, rows, "--model", pico, "--held-out", 0, "--json")
    found = json.loads(out)
    shown = found["preview"]
    assert (code, found["rows"], found["row"], found["columns"]) == (0, 2, 1, ["prompt", "completion"])
    assert shown["text"] == "<|user|>\nHi<|end|>\n<|assistant|>\nHey<|end|>\n"
    assert "".join(shown["pieces"][at]["token"] for at in shown["trained"]) == "Hey<|end|>"
    assert (shown["side"], shown["ends"], shown["way"]) == ("learn", True, "chat template")
    assert "prepare" not in err


def test_a_person_sees_the_text_the_tokens_and_what_they_are_for(capsys, pico, rows):
    code, out, _ = told(capsys, rows, "--model", pico, "--held-out", 0)
    assert code == 0
    assert "rows.jsonl: 2 rows, prompt-completion (prompt=prompt, completion=completion)" in out
    assert "rows.jsonl, row 1" in out
    assert "by its chat template" in out
    assert re.search(r"'H' +\*$", out, re.MULTILINE)
    assert re.search(r"'i'$", out, re.MULTILINE)
    assert "4 of them trained on; for: learn" in out
    assert "the end of the turn is trained on" in out


def test_a_row_that_is_cut_shows_where(capsys, pico, rows):
    out = told(capsys, rows, "--model", pico, "--row", 2, "--limit", 60)[1]
    assert (
        out.count("cut off")
        == json.loads(told(capsys, rows, "--model", pico, "--row", 2, "--limit", 60, "--json")[1])["preview"]["tokens"]
        - 60
    )
    assert "the end of the turn is not trained on" in out
    assert "warning: The limit cuts" in out


def test_a_row_that_is_dropped_says_why(capsys, pico, rows):
    out = told(capsys, rows, "--model", pico, "--row", 2, "--limit", 60, "--too-long", "drop")[1]
    assert "dropped: longer than the limit" in out
    assert "rows.jsonl, row 2 has" in out


def test_columns_are_chosen_by_hand(capsys, pico, rows):
    arguments = [rows, "--model", pico, "--format", "text", "--columns", "text=prompt", "--json"]
    found = json.loads(told(capsys, *arguments)[1])
    assert (found["preview"]["text"], found["preview"]["way"]) == ("Hi", "plain text")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--row", 3], "no row 3"),
        (["--row", 0], "no row 0"),
        (["--columns", "text=prompt"], "without a format"),
        (["--format", "text"], "no column 'text'"),
        (["--format", "text", "--columns", "prompt"], "does not name a column"),
        (["--format", "text", "--columns", "reply=prompt"], "no part called 'reply'"),
        (["--limit", 1], "Limit is 1"),
    ],
)
def test_what_is_wrong_ends_with_1_and_two_lines(capsys, pico, rows, arguments, words):
    code, out, err = told(capsys, rows, "--model", pico, *arguments)
    assert (code, out) == (1, "")
    assert words in err


def test_what_a_terminal_would_obey_is_written_out(capsys, pico, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "\x1b[31mred"}))
    assert "\x1b" not in told(capsys, file, "--model", pico)[1]


def test_the_api_says_the_same(capsys, pico, rows):
    found = api.preview(rows, str(pico), 2, settings="limit=60&held_out=0")
    out = told(capsys, rows, "--model", pico, "--row", 2, "--limit", 60, "--held-out", 0, "--json")[1]
    assert json.loads(json.dumps(found)) == json.loads(out)
    assert api.preview(rows, str(pico), format="text", columns="text=prompt")["preview"]["text"] == "Hi"


@pytest.mark.parametrize(
    "more", [{"settings": "limit=a"}, {"settings": "size=1"}, {"settings": "limit=1"}, {"format": "odd"}, {"row": 9}]
)
def test_the_api_refuses_what_is_none(pico, rows, more):
    with pytest.raises(gr.Error):
        api.preview(rows, str(pico), **more)


def test_the_api_names_every_setting():
    assert set(Preparation.__dataclass_fields__) <= set(re.findall(r"\w+", api.preview.__doc__ or ""))


def test_a_visitor_names_no_file_of_the_machine(rows, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "alice/studio")
    with pytest.raises(gr.Error, match="Upload the file"):
        api.preview(rows, "starter")
