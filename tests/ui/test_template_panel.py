"""The chat template panel as functions: what each state of model, conversation and copy shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pico import CHAT_TEMPLATE, save_pico

from studio.tokenizer import Trial, template
from studio.ui import template_view, turns
from studio.ui.template_panel import EXAMPLE, PLAIN, TOOLS, back_to_original, example_call, show, try_copy
from studio.ui.template_view import Tried, difference


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pico(tmp_path_factory.mktemp("template") / "model"))


def made(folder: Path, template: Any, **generation: Any) -> str:
    """A model whose template is another, and its generation config too."""
    save_pico(folder, chat_template=template)
    config = folder / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | generation))
    return str(folder)


def asked(model: str, *said: turns.Turn, **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {f"role_{number}": "user" for number in range(turns.ROWS)}
    values |= {f"text_{number}": "" for number in range(turns.ROWS)}
    for number, (role, text) in enumerate(said or EXAMPLE):
        values |= {f"role_{number}": role, f"text_{number}": text}
    count = len(said or EXAMPLE)
    return values | {"model": model, "which": None, "edited": "", "tools": "", "prompt": False, "count": count} | more


def shown(model: str, *said: turns.Turn, **more: Any) -> dict[str, Any]:
    """What the page holds when the handler is through."""
    held: dict[str, Any] = {}
    for update in show(**{"of": ("", ""), "trained": "All replies"} | asked(model, *said, **more)):
        held |= update
    return held


def last(updates: Any) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for update in updates:
        held |= update
    return held


def test_the_example_is_shown_with_what_is_trained_and_all_that_was_checked(model: str) -> None:
    page = shown(model)
    assert page["note"] == ""
    assert "by {% generation %} in the template" in page["view"]
    assert "A reply ends with &lt;|end|&gt; (1)." in page["view"]
    assert "so a tuned model learns to stop" in page["view"]
    assert 'data-severity="warning"' not in page["view"]
    assert 'class="s m"' in page["view"]
    assert page["original"]["value"] == page["edited"] == CHAT_TEMPLATE
    assert "from chat_template.jinja" in page["origin"]


def test_a_copy_that_is_edited_survives_another_word_and_not_another_model(model: str, tmp_path: Path) -> None:
    page = shown(model, of=(model, "default"), edited="{{ 'mine' }}")
    assert "edited" not in page
    assert "mine" in page["trial"]
    other = made(tmp_path / "other", "{{ messages[0].content }}")
    assert shown(other, of=(model, "default"), edited="{{ 'mine' }}")["edited"] == "{{ messages[0].content }}"


def test_what_a_person_writes_is_escaped_everywhere(model: str) -> None:
    page = shown(model, ("user", "<img src=x>"), of=(model, "default"), edited="<script>{{ messages[0].content }}")
    assert "<img" not in page["view"] + page["trial"]
    assert "<script" not in page["trial"]
    assert "&lt;script&gt;" in page["trial"]


def test_a_model_that_would_not_stop_says_so_and_what_to_do(tmp_path: Path) -> None:
    outside = CHAT_TEMPLATE.replace("+ '<|end|>' }}{% endgeneration %}", "}}{% endgeneration %}{{ '<|end|>' }}")
    assert outside != CHAT_TEMPLATE
    page = shown(made(tmp_path / "noend", outside, eos_token_id=0))
    assert "not among what is trained" in page["view"]
    assert "The model would not stop" in page["view"]
    assert "Add 1 to eos_token_id in generation_config.json." in page["view"]


def test_a_mask_that_is_refused_leaves_the_tokens_bright_and_tells_the_reason(tmp_path: Path) -> None:
    thinking = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    thinking += "{% if add_generation_prompt %}<|assistant|>\n<think>{% endif %}"
    page = shown(made(tmp_path / "think", thinking))
    assert "cannot be proven" in page["view"]
    assert 'class="s m"' not in page["view"]
    assert "The model reads" in page["view"]  # in chat and in training


def test_a_model_without_a_template_gets_a_plain_one_to_try(tmp_path: Path) -> None:
    page = shown(made(tmp_path / "none", None))
    assert "has no chat template" in page["view"]
    assert page["edited"] == PLAIN
    assert not page["original"]["visible"]
    assert "assistant:" in page["view"]
    assert "by {% generation %} in the template" in page["trial"]


def test_a_broken_template_names_its_line_and_can_be_mended_in_the_copy(tmp_path: Path) -> None:
    model = made(tmp_path / "broken", "{% for m in messages %}\n{{ m.nothing.at_all }}\n{% endfor %}")
    page = shown(model)
    assert page["view"] == ""
    assert "line 2" in page["note"]
    mended = last(try_copy(**asked(model, edited="{{ messages[0].content }}")))
    assert "The original fails here" in mended["trial"]
    assert "friendly" in mended["trial"]


def test_a_copy_that_loops_is_stopped_and_says_so(model: str) -> None:
    forever = "{% for a in range(100000) %}{% for b in range(100000) %}{% set x = a %}{% endfor %}{% endfor %}"
    updates = list(try_copy(**asked(model, edited=forever)))
    assert "progress" in updates[0]["trial"]
    assert "did not come to an end" in last(updates)["trial"]


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates may take longer than anybody waits for a test, so that only Stop ends one that loops."""
    monkeypatch.setattr(template, "TEMPLATE_SECONDS", 3600.0)


@pytest.mark.usefixtures("_patient")
def test_what_is_slow_can_be_stopped_and_what_is_quick_offers_no_stop(model: str) -> None:
    forever = "{% for a in range(100000) %}{% for b in range(100000) %}{% set x = a %}{% endfor %}{% endfor %}"
    updates = try_copy(**asked(model, edited=forever))
    assert next(updates)["stop"]["visible"]
    updates.close()  # comes back
    assert not any("stop" in update for update in try_copy(**asked(model, edited="{{ 1 }}")))


@pytest.mark.usefixtures("_patient")
def test_a_model_whose_template_loops_is_let_go_of_too(tmp_path: Path) -> None:
    forever = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
    slow = made(tmp_path / "slow", forever)
    updates = show(**{"of": ("", ""), "trained": "All replies"} | asked(slow))
    assert any(update.get("stop", {}).get("visible") for update in iter(lambda: next(updates), None))
    updates.close()  # comes back


def test_a_copy_with_a_mistake_shows_the_line_with_its_text(model: str) -> None:
    said = last(try_copy(**asked(model, edited="{{ 1 }}\n{% if %}<b>")))["trial"]
    assert "Line 2: {% if %}&lt;b&gt;" in said


def test_back_to_the_original_takes_back_what_was_edited(model: str) -> None:
    page = last(back_to_original(**asked(model, edited="{{ 'x' }}")))
    assert page["edited"] == CHAT_TEMPLATE
    assert "The copy is the original" in page["trial"]


def test_of_several_templates_one_is_chosen_by_name(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = made(tmp_path / "two", CHAT_TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"default": CHAT_TEMPLATE, "tool_use": "{{ tools }}" + CHAT_TEMPLATE}
    tokenizer.save_pretrained(folder)
    page = shown(folder, tools=TOOLS)
    assert page["which"]["choices"] == ["default", "tool_use"]
    assert page["which"]["visible"]
    assert "leaves out get_weather" in page["view"]
    chosen = shown(folder, tools=TOOLS, which="tool_use", of=(folder, "default"))
    assert "leaves out" not in chosen["view"]
    assert chosen["edited"].startswith("{{ tools }}")


def test_tools_that_are_no_json_and_an_empty_conversation_say_what_to_do(model: str) -> None:
    assert "this is no JSON" in shown(model, tools="[{")["note"]
    assert "empty list" in shown(model, count=0)["note"]
    assert "No model is named." in shown("")["note"]


def test_the_example_with_a_call_brings_its_tool() -> None:
    update = example_call()
    assert update["tools"] == TOOLS
    assert update["count"] == 4
    assert "get_weather" in update["text_1"]


def test_a_difference_marks_lines_on_both_sides() -> None:
    left, right = difference("a\nb\nc\n", "a\nB\nc\nd\n")
    assert left == [("", "a\n"), ("del", "b\n"), ("", "c\n"), ("del", "")]
    assert right == [("", "a\n"), ("ins", "B\n"), ("", "c\n"), ("ins", "d\n")]
    drawn = template_view.tried(Tried(Trial("a\n<B>\n"), Trial("a\nb\n"), None))
    assert "<del>b⏎\n</del>" in drawn
    assert "<ins>&lt;B&gt;⏎\n</ins>" in drawn
