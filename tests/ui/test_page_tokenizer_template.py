"""The chat template in a real browser: a conversation that is written, what is trained, and a copy of the template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from page_steps import choose_model, open_part

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]


def read(page: Page) -> str:
    """The conversation as it is drawn."""
    return "".join(page.locator("#template-view .tokens i").all_text_contents()).replace("\u200b", "")


def trained(page: Page) -> str:
    return "".join(page.locator("#template-view .tokens i:not(.m)").all_text_contents()).replace("\u200b", "")


def wait_for_text(page: Page, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('#template-view .tokens')?.textContent.replaceAll('\u200b', '').includes(text)",
        arg=text,
    )


@pytest.fixture
def talk(page: Page) -> Page:
    """The page with the panel open, and its example read."""
    open_part(page, "Chat template")
    page.locator("#template-view .tokens i").first.wait_for()
    return page


def test_a_newcomer_sees_a_conversation_and_what_is_trained_at_one_click(talk: Page) -> None:
    assert trained(talk) == "I·answer·questions·and·tell·stories.<|end|>Red,·green·and·blue.<|end|>"
    assert "trained" in talk.inner_text("#template-view .facts")
    assert talk.locator("#template-view .findings li").count() == 4
    assert not talk.locator("#tokenizer-text").is_visible()
    open_part(talk, "Pieces")
    talk.locator("#tokenizer-text").wait_for()


def test_the_text_follows_what_is_typed_added_and_taken_out(talk: Page) -> None:
    talk.click("#add-turn")
    talk.locator("#turn-6 textarea").fill("And <b>more</b>?")
    wait_for_text(talk, "And·<b>more</b>?")
    talk.locator("#turn-1 .drop-turn").click()
    talk.wait_for_function("!document.querySelector('#template-view .tokens').textContent.includes('friendly')")
    assert read(talk).startswith("<|user|>⏎\nHi!")
    assert talk.locator("#turn-6").count() == 0 or not talk.locator("#turn-6").is_visible()


def test_what_is_trained_and_the_generation_prompt_can_be_switched(talk: Page) -> None:
    talk.get_by_label("Last reply").check()
    talk.wait_for_function("!document.querySelector('#template-view .facts').textContent.includes('16 trained')")
    assert trained(talk) == "Red,·green·and·blue.<|end|>"
    talk.locator("#generation-prompt input").check()
    talk.wait_for_function("document.querySelectorAll('#template-view .tokens i').length > 57")
    assert read(talk).endswith("<|assistant|>⏎\n")
    assert trained(talk) == "Red,·green·and·blue.<|end|>"


def test_a_copy_is_tried_beside_the_original_and_taken_back(talk: Page) -> None:
    talk.click("#template-advanced .label-wrap")
    talk.locator("#template-edited .cm-content").click()
    talk.keyboard.press("Control+Home")
    talk.keyboard.type("{{ 'New!' }}")
    talk.locator("#template-trial ins", has_text="New!").wait_for()
    assert talk.locator("#template-trial del").count() == 1
    talk.keyboard.type("{% if %}")
    talk.locator("#template-trial .problem", has_text="Line 1: {{ 'New!' }}{% if %}").wait_for()
    talk.click("#template-back")
    talk.locator("#template-trial", has_text="The copy is the original").wait_for()
    assert "New!" not in talk.inner_text("#template-edited .cm-content")
    assert "New!" not in read(talk)


def test_a_template_that_loops_can_be_stopped_and_another_tried(talk: Page) -> None:
    talk.click("#template-advanced .label-wrap")
    talk.locator("#template-edited .cm-content").click()
    talk.keyboard.press("Control+Home")
    # Written at once: each key by itself would be tried. The editor closes the braces by itself, too.
    talk.keyboard.insert_text("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}")
    talk.locator("#template-stop").click()
    talk.locator("#template-note", has_text="Stopped.").wait_for()
    talk.locator("#template-stop").wait_for(state="hidden")
    talk.click("#template-back")
    talk.locator("#template-trial", has_text="The copy is the original").wait_for()


def test_a_tool_call_that_the_template_refuses_says_so(talk: Page) -> None:
    talk.click("#template-advanced .label-wrap")
    talk.click("#call-example")
    talk.locator("#template-note .problem", has_text="not 'tool'").wait_for()
    assert talk.locator("#template-view .tokens").count() == 0
    talk.click("#first-example")
    talk.locator("#template-view .tokens i").first.wait_for()
    assert talk.locator("#template-note .problem").count() == 0


def test_a_model_without_a_template_gets_one_to_try(talk: Page, without_template: Path) -> None:
    choose_model(talk, str(without_template))
    talk.locator("#template-view .caution", has_text="no chat template").wait_for()
    talk.locator("#template-view", has_text="assistant:").wait_for()
    talk.click("#template-advanced .label-wrap")
    talk.locator("#template-trial", has_text="assistant:").wait_for()
    choose_model(talk, "starter")
    talk.locator("#template-view .tokens i").first.wait_for()


def test_nothing_is_wider_than_a_phone(open_page: Any) -> None:
    page = open_page(width=390, height=844, dark=True)
    page.get_by_role("tab", name="Tokenizer").click()
    page.locator("#tokenizer-parts .overflow-menu > button").click()
    page.locator("#tokenizer-parts .overflow-dropdown button", has_text="Chat template").click()
    page.locator("#template-view .tokens i").first.wait_for()
    page.click("#template-advanced .label-wrap")
    page.locator("#template-edited .cm-content").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator("#generation-prompt").bounding_box()
    assert box["x"] + box["width"] <= 390
