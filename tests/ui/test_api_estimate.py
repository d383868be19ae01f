"""The endpoint that estimates: the same words as the command line, and errors as dialogs."""

from __future__ import annotations

import dataclasses
import json
import re

import gradio as gr
import pytest

from studio.memory import Question
from studio.ui import api


def test_an_estimate_is_the_whole_answer_and_travels_as_json() -> None:
    found = json.loads(json.dumps(api.estimate("starter", "generate", "t4", "context=1024&precision=nf4")))
    asked = Question(task="generate", device="t4", context=1024, precision="nf4")
    assert Question.from_query(found["query"]) == asked
    assert found["peak"] == sum(part["bytes"] for part in found["estimate"]["parts"]) > 0
    assert found["limits"]["fitting"]["verdict"] == "fits"


def test_the_query_of_a_link_may_have_its_question_mark_and_a_dry_run_may_be_asked_for() -> None:
    found = api.estimate("starter", more="?context=128", dry=True)
    assert found["estimate"]["engine"] == "dry run"
    assert found["question"]["context"] == 128


@pytest.mark.parametrize("more", ["context=0", "sing=1", "model=starter", "context=many", "precision=nf4&method=full"])
def test_what_is_no_question_is_a_dialog(more: str) -> None:
    with pytest.raises(gr.Error):
        api.estimate("starter", more=more)


def test_a_visitor_names_no_folder(monkeypatch: pytest.MonkeyPatch, pico: str) -> None:
    assert api.estimate(str(pico), "generate")["peak"] > 0
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    with pytest.raises(gr.Error, match="Choose a model of the Hub"):
        api.estimate(str(pico), "generate")


def test_whoever_reads_the_tool_finds_every_field_of_a_question() -> None:
    words = set(re.findall(r"\w+", api.estimate.__doc__ or ""))
    assert {field.name for field in dataclasses.fields(Question)} <= words
