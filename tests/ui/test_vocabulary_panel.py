"""The vocabulary panel as functions: a search, its pages, and what the vocabulary is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pico import save_pico

from studio.models import STARTER
from studio.ui.vocabulary_panel import PAGE, find, page_ahead, page_back, show


def last(updates: Any) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for update in updates:
        held |= update
    return held


def found(query: str, mode: str = "Text", model: str = str(STARTER)) -> dict[str, Any]:
    return last(find(model=model, query=query, mode=mode))


def test_a_search_tells_how_many_match_and_shows_what_reads_so_first() -> None:
    page = found("the")
    first = page["results"].split("<tbody>")[1].split("</tr>")[0]
    assert "the</td>" in first
    assert "tokens match" in page["results"]
    assert page["note"] == ""


def test_nothing_found_is_said() -> None:
    page = found("\u4e16\u754c\u4e16", "Regular expression")
    assert "No token matches." in page["results"]
    assert not page["pages"]["visible"]


def test_pages_go_on_where_the_last_one_ended_and_stop_at_both_ends() -> None:
    first = found("")
    assert "2,048 tokens in all; 1 to 50 are shown." in first["results"]
    assert not first["back"]["interactive"]
    second = last(page_ahead(model="starter", query="", mode="Text", first=0))
    assert "51 to 100 are shown." in second["results"]
    assert second["back"]["interactive"]
    again = last(page_back(model="starter", query="", mode="Text", first=second["first"]))
    assert again["results"] == first["results"]
    end = last(page_ahead(model="starter", query="", mode="Text", first=2000 - PAGE))
    assert "2,001 to 2,048 are shown." in end["results"]
    assert not end["ahead"]["interactive"]


def test_a_part_of_a_character_is_shown_by_its_bytes(tmp_path: Path) -> None:
    model = str(save_pico(tmp_path / "model"))
    from transformers import AutoTokenizer

    lead = AutoTokenizer.from_pretrained(model)("é", add_special_tokens=False)["input_ids"][0]
    page = found(str(lead), "Id", model)
    assert "<td>C3</td><td>part of a character</td>" in page["results"]


@pytest.mark.parametrize(
    ("query", "mode", "words"), [("(ab", "Regular expression", "no regular"), ("x", "Id", "no id")]
)
def test_a_search_that_is_none_says_why_and_clears_the_page(query: str, mode: str, words: str) -> None:
    page = found(query, mode)
    assert words in page["note"]
    assert page["results"] == ""
    assert not page["pages"]["visible"]


def test_the_starter_fits_its_model_and_shares_add_up() -> None:
    page = last(show(model="starter", query="ing", mode="Text"))
    assert "config.json and generation_config.json agree" in page["about"]
    assert "Latin" in page["about"]
    assert "&lt;|assistant|&gt;" in page["about"]
    assert "tokens match" in page["results"]


def test_what_does_not_fit_is_found_with_its_severity_and_what_to_do(tmp_path: Path) -> None:
    folder = save_pico(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 10, "eos_token_id": 3}))
    about = last(show(model=str(folder), query="", mode="Text"))["about"]
    assert 'data-severity="error"' in about
    assert "have an id too large" in about
    assert "The eos token is" in about
    assert about.index('data-severity="error"') < about.index('data-severity="warning"')


def test_a_bad_pattern_does_not_hide_what_the_vocabulary_is_made_of() -> None:
    page = last(show(model="starter", query="(", mode="Regular expression"))
    assert "no regular" in page["note"]
    assert "Latin" in page["about"]


def test_tokens_are_escaped(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = save_pico(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<img src=x onerror=alert(1)>"])
    tokenizer.save_pretrained(folder)
    page = last(show(model=str(folder), query="img", mode="Text"))
    assert "<img" not in page["results"] + page["about"]
    assert "&lt;img" in page["results"]
