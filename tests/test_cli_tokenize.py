"""`python -m studio tokenize`, and the same over HTTP and as a tool."""

from __future__ import annotations

import io
import json
import sys

import pytest

from studio.cli import main
from studio.tokenizer import load_tokenizer
from studio.ui import api


def told(capsys, *arguments):
    code = main(["tokenize", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_json_holds_the_whole_of_it(capsys, pico):
    code, out, _ = told(capsys, str(pico), "--text", "Hé <|end|>", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["ids"] == load_tokenizer(pico)("Hé <|end|>").input_ids
    assert [piece["kind"] for piece in found["pieces"]] == ["text", "byte", "byte", "text", "special"]
    assert found["pieces"][0] | {"token": "H", "start": 0, "end": 1, "utf8": [72]} == found["pieces"][0]
    assert found["counts"] | {"characters": 10, "bytes": 11, "tokens": 5} == found["counts"]
    assert found["covered"] is True
    assert found["decoded"] == "Hé <|end|>"
    assert [step["step"]["name"] for step in found["stages"]["pre_tokenizers"]] == ["ByteLevel"]
    assert found["stages"]["encoded"]["rows"][0]["ids"] == found["ids"]
    assert found["chat"]["text"] == "<|user|>\nHé <|end|><|end|>\n<|assistant|>\n"
    assert found["chat"]["end_of_turn"] | {"token": "<|end|>", "stops": True} == found["chat"]["end_of_turn"]


def test_a_person_reads_a_token_a_line(capsys, pico):
    code, out, err = told(capsys, str(pico), "--text", "Hé", "--stages")
    assert code == 0
    assert f"{pico}: 3 tokens, 2 characters, 3 bytes" in out
    assert "cut by ByteLevel: 'HÃ©'" in out
    assert "byte" in out
    assert "As the first message of a chat it is" in out
    assert "token" not in err


def test_a_text_comes_from_stdin(capsys, pico, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("abc"))
    assert json.loads(told(capsys, str(pico), "--text", "-", "--json")[1])["text"] == "abc"


def test_what_a_terminal_would_obey_is_written_out(capsys, pico):
    assert "\x1b" not in told(capsys, str(pico), "--text", "\x1b[31mred")[1]


def test_a_model_without_a_template_says_why_there_is_no_chat(capsys, tmp_path):
    from pico import save_pico

    folder = save_pico(tmp_path / "base", chat_template=None)
    found = json.loads(told(capsys, str(folder), "--text", "a", "--json")[1])
    assert found["chat"] is None
    assert "no chat template" in found["no_chat"]


@pytest.mark.parametrize(
    ("model", "text", "words"),
    [("starter", "a\ud83d", "half a character"), ("./nowhere", "a", "nowhere"), ("no name", "a", "not the name")],
)
def test_what_is_wrong_ends_with_1_and_two_lines(capsys, model, text, words):
    code, out, err = told(capsys, model, "--text", text)
    assert code == 1
    assert out == ""
    assert words in err


def test_the_api_says_the_same_and_sets_a_limit(capsys, pico):
    import gradio as gr

    found = api.tokenize(str(pico), "Hé")
    assert json.loads(json.dumps(found)) == json.loads(told(capsys, str(pico), "--text", "Hé", "--json")[1])
    assert api.tokenize("starter", "a", special_tokens=False)["ids"]
    with pytest.raises(gr.Error, match="Send at most 100,000"):
        api.tokenize("starter", "a" * 100_001)
