"""A conversation as a job: its tokens, which are trained on, how turns end, and what the template leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_templates import CALL, TALK, TOOLS, shaped

from studio.errors import InputError, Unsupported
from studio.events import Finished
from studio.jobs import Asked, Opened, Shown, show_conversation
from studio.jobs.conversing import Refusal
from studio.tokenizer import EndOfTurn, Masked


def shown(name: str, folder: Path, *messages: Any, **asked: Any) -> Shown:
    opened = Opened(shaped(name), folder)
    *_, last = show_conversation(opened, Asked(messages or TALK, **asked))
    assert isinstance(last, Finished)
    return last.result


def test_trained_places_are_those_of_the_drawn_tokens(tmp_path: Path) -> None:
    found = shown("phi3", tmp_path)
    tokenizer = shaped("phi3")
    trained = found.trained
    assert trained is not None
    text = tokenizer.decode([id for place, id in enumerate(found.tokens.ids) if place in trained])
    assert text == "Hey<|end|>Yes.<|end|>"


def test_the_generation_prompt_adds_tokens_that_are_not_trained_on(tmp_path: Path) -> None:
    without, with_prompt = shown("phi3", tmp_path), shown("phi3", tmp_path, generation_prompt=True)
    assert len(with_prompt.tokens.ids) > len(without.tokens.ids)
    assert with_prompt.trained == without.trained


def test_what_the_generation_prompt_rewrites_is_not_drawn_as_trained(tmp_path: Path) -> None:
    assert shown("phi3", tmp_path, trained="all").trained
    assert shown("phi3", tmp_path, trained="all", generation_prompt=True).trained is None  # no end of text any more


def test_a_mask_that_cannot_be_proven_is_a_part_of_the_answer_with_its_reason(tmp_path: Path) -> None:
    found = shown("qwen3", tmp_path)
    assert isinstance(found.masked, Refusal)
    assert "turn 2 reads" in found.masked.message
    assert found.masked.hint
    assert found.trained is None
    assert isinstance(found.end, EndOfTurn)
    last = shown("qwen3", tmp_path, trained="last")
    assert isinstance(last.masked, Masked)
    assert last.trained


def test_a_model_that_would_not_stop_is_told_by_its_own_generation_config(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [4, 5]}')
    assert not [rule for rule in shown("phi3", tmp_path).advice if rule.id == "eos-not-trained"]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0}')
    found = shown("phi3", tmp_path)
    assert isinstance(found.end, EndOfTurn)
    assert not found.end.stops
    assert [rule.why for rule in found.advice if rule.id == "eos-not-trained"] == [found.end.consequence]


def test_tools_and_turns_that_the_template_drops_are_named(tmp_path: Path) -> None:
    ignored = shown("phi3", tmp_path, *TALK, tools=TOOLS)
    assert ignored.tools_left_out == ("weather",)
    assert ignored.turns_changed == ()
    silent = shown("phi3", tmp_path, *TALK, template="{% for m in messages[1:] %}{{ m.content }}{% endfor %}")
    assert silent.turns_changed == (1,)


def test_every_way_of_the_last_prompt_is_compared_but_for_another_template(tmp_path: Path) -> None:
    assert {way.way for way in shown("phi3", tmp_path).ways} >= {"chat", "training"}
    assert shown("phi3", tmp_path, template="{{ messages[0].content }}").ways == ()
    assert shown("phi3", tmp_path, CALL[1]).ways == ()


def test_a_template_that_fails_or_is_not_there_ends_the_job(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2"):
        shown("phi3", tmp_path, template="{{ 1 }}\n{{ nothing.at.all }}")
    bare = shaped("phi3")
    bare.chat_template = None
    with pytest.raises(Unsupported, match="no chat template"):
        list(show_conversation(Opened(bare, tmp_path), Asked(TALK)))
