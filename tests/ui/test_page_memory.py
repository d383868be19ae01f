"""The Memory tab in a real browser: live, with verdicts, with what makes it fit, a dry run and a link."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from memory_shapes import TINY
from page_steps import open_tab, unreadable

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]


@pytest.fixture
def memory(page: Page) -> Page:
    """The page with the tab open, and the question that it begins with answered."""
    page.get_by_role("tab", name="Memory").click()
    page.locator("#memory-answer .memory-answer").wait_for(timeout=240_000)
    return page


def type_model(page: Page, text: str) -> None:
    """Type a size in place of the strip's model, and wait until it is answered."""
    page.fill("#memory-typed textarea, #memory-typed input", text)
    page.keyboard.press("Enter")
    page.locator("#memory-answer .headline", has_text=text).wait_for()


def choose(page: Page, field: str, value: str) -> None:
    """Choose in a drop-down by what it shows."""
    page.fill(f"#memory-{field} input", value)
    page.keyboard.press("Enter")


def test_a_newcomer_sees_what_the_starter_takes_at_one_click(memory: Page) -> None:
    assert "to train starter" in memory.inner_text("#memory-answer .headline")
    assert memory.locator("#memory-answer .stack .cells i").count() >= 4
    assert memory.locator("#memory-devices tbody tr").count() == 19
    assert "This machine" in memory.locator("#memory-devices tbody tr").first.inner_text()
    memory.locator("#memory-curves canvas, #memory-curves svg").first.wait_for()


def test_the_answer_follows_a_knob(memory: Page) -> None:
    before = memory.inner_text("#memory-answer .headline strong")
    memory.get_by_label("Generate", exact=True).check()
    memory.locator("#memory-answer .headline", has_text="to generate").wait_for()
    assert memory.inner_text("#memory-answer .headline strong") != before


def test_what_makes_it_fit_is_applied_by_one_click(memory: Page) -> None:
    type_model(memory, "8B")
    choose(memory, "device", "T4")
    memory.locator("#memory-fitting .headline", has_text="it fits T4").wait_for()
    memory.click("#apply-changes")
    memory.locator("#memory-fitting .headline", has_text="It fits T4 as it is").wait_for()
    assert memory.input_value("#precision input") == "nf4"


def test_a_context_that_is_none_is_said_in_words(memory: Page) -> None:
    choose(memory, "context", "-3")
    memory.locator("#memory-note .problem", has_text="Context is -3").wait_for()
    choose(memory, "context", "512")
    memory.locator("#memory-answer .memory-answer").wait_for()


def test_the_step_is_carried_out_and_stands_beside_the_formula(memory: Page) -> None:
    memory.click("#rehearse")
    memory.locator("#memory-answer", has_text="The dry run says").wait_for(timeout=240_000)
    memory.locator("#stop-rehearsal").wait_for(state="hidden")


def test_where_the_engines_are_apart_the_dry_run_is_shown(memory: Page, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY["gemma3"]))
    memory.fill("#precision input", "bf16")  # in fp32, which some machines take by themselves, they agree
    memory.keyboard.press("Enter")
    type_model(memory, str(tmp_path))
    memory.locator("#memory-answer .headline", has_text="in bf16").wait_for()
    memory.click("#rehearse")
    memory.locator("#memory-answer .caution", has_text="the dry run is the one to trust").wait_for(timeout=240_000)
    assert "told by the real step" in memory.inner_text("#memory-answer .headline")


def test_a_dry_run_can_be_stopped_and_started_again(memory: Page) -> None:
    type_model(memory, "8B")
    memory.click("#rehearse")
    memory.click("#stop-rehearsal")
    memory.locator("#memory-note .note", has_text="Stopped.").wait_for()
    memory.click("#rehearse")
    memory.locator("#stop-rehearsal").wait_for()
    memory.click("#stop-rehearsal")
    memory.locator("#memory-note .note", has_text="Stopped.").wait_for()


def test_a_link_opens_the_tab_with_the_whole_question(open_page: Any) -> None:
    for _ in range(3):  # an answer to half a question that came last showed in every third load
        page = open_page(query="?memory=model%3D8B%26context%3D4096%26device%3Dt4")
        page.locator("#memory-answer .headline", has_text="8B").wait_for(timeout=240_000)
        page.locator("#memory-fitting .headline", has_text="T4").wait_for()
        assert page.input_value("#memory-context input") == "4096"


def test_everything_can_be_read_on_a_phone(open_page: Any) -> None:
    page = open_page(width=390, height=844)
    open_tab(page, "Memory")
    page.locator("#memory-answer .memory-answer").wait_for(timeout=240_000)
    assert unreadable(page) == []


def test_what_was_weighed_is_set_up_under_fine_tune_at_one_click(page: Page) -> None:
    open_tab(page, "Memory")
    page.locator("#memory-answer .memory-answer").wait_for(timeout=240_000)
    page.fill("#memory-rank input", "8")
    page.keyboard.press("Tab")
    page.wait_for_timeout(1500)
    page.click("#memory-send")
    page.locator("#train-rank").wait_for()
    page.locator("#training-meaning", has_text="Every setting is under Advanced").wait_for(timeout=240_000)
    assert page.input_value("#train-rank input") == "8"
    assert page.input_value("#train-alpha input") == "16"
