"""Fine-tuning in a real browser: from an opened tab to a model that has learnt something, without a keyboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from page_steps import open_tab, unreadable

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]

HANG = 240_000
"""Milliseconds after which a test gives up on a worker; a loaded machine takes a minute to import PyTorch."""


def open_training(page: Page, *, ready: bool = True) -> None:
    """Open Fine-tune, and wait until its rows were looked at and weighed."""
    open_tab(page, "Fine-tune")
    if ready:
        page.locator("#training-every .sheet").wait_for(timeout=HANG)
        page.locator("#training-takes .headline").wait_for(timeout=HANG)
        page.locator("#training-stop").wait_for(state="hidden")


def part(page: Page, name: str) -> None:
    page.locator("#training-parts").get_by_role("tab", name=name, exact=True).click()


def set_steps(page: Page, steps: int) -> None:
    """Make the run as long as this; that makes the settings one's own."""
    page.click("#training-advanced > button")
    page.fill("#train-most-steps input", str(steps))
    page.keyboard.press("Tab")
    page.locator("#training-meaning", has_text="Every setting is under Advanced").wait_for()
    page.wait_for_timeout(300)


def wait_for_state(page: Page, state: str) -> str:
    over = page.locator(f"#run-head .run[data-state={state}]")
    over.wait_for(timeout=HANG)
    return over.inner_text()


def test_one_click_teaches_the_starter_and_the_page_finds_the_run_again(open_page: Any, studio: Any) -> None:
    page = open_page()
    open_training(page)
    assert "762 examples to learn from" in page.inner_text("#training-every")
    set_steps(page, 3)
    page.click("#training-start")
    page.locator("#run-head .run").wait_for()
    other = open_page()  # as on a phone, or after a reload
    open_training(other, ready=False)
    part(other, "Run")
    assert "finished after 3 steps" in wait_for_state(other, "finished")
    assert "finished after 3 steps" in wait_for_state(page, "finished")
    page.locator("#run-loss canvas, #run-loss svg").first.wait_for()
    page.locator("#result .headline").wait_for()
    assert "before" in page.inner_text("#run-said")
    page.click("#run-log-fold > button")
    page.locator("#run-log", has_text="step 3 of 3").wait_for()
    page.click("#result-code > button")
    page.locator("#result-line textarea, #result-line input").first.wait_for()
    part(page, "History")
    page.locator("#history-table", has_text="finished").wait_for()
    part(page, "Run")
    page.click("#result-send")
    page.wait_for_function("document.querySelector('#result-after textarea').value.length > 1", timeout=HANG)
    page.click("#result-pack")
    page.locator("#result-download", has_text=".zip").wait_for()
    with page.expect_download() as download:
        page.click("#result-download")
    assert download.value.suggested_filename.endswith(".zip")
    page.click("#result-talk")
    page.locator("#model-note", has_text="answers with what").wait_for()
    page.locator("#message").wait_for()


def test_a_run_is_stopped_on_second_thought_and_resumed(page: Page) -> None:
    open_training(page)
    set_steps(page, 5000)
    page.click("#training-start")
    wait_for_state(page, "running")
    page.click("#run-stop")
    page.click("#run-go-on")
    page.locator("#run-ways").wait_for(state="hidden")
    page.locator("#run-head", has_text=re.compile(r"step ([2-9]|\d\d+) of")).wait_for(timeout=HANG)
    page.click("#run-stop")
    page.click("#run-keep")
    assert "stopped at step" in wait_for_state(page, "stopped")
    page.click("#run-resume")
    wait_for_state(page, "running")
    page.click("#run-stop")
    page.click("#run-now")
    wait_for_state(page, "stopped")


def test_rows_of_ones_own_are_shown_as_they_are_learnt(page: Page) -> None:
    open_training(page)
    page.click("#training-row-ahead")
    page.locator("#training-row-title", has_text="Row 2 of 762").wait_for()
    page.get_by_text("Pasted rows").click()
    rows = '{"prompt": "Who is <img src=x onerror=alert(1)>?", "completion": "Nobody."}\n' * 12
    page.fill("#training-pasted textarea", rows)
    page.keyboard.press("Tab")
    page.locator("#training-row-title", has_text="Row 1 of 12").wait_for(timeout=HANG)
    assert page.locator("#training-row img").count() == 0
    assert page.locator("#training-row .tokens i.m, #training-row .tokens i[class$=' m']").count() > 3


def test_what_cannot_be_begun_is_said_beside_start(page: Page) -> None:
    open_training(page)
    page.get_by_text("A file of yours").click()
    page.locator("#training-file").wait_for()
    page.click("#training-start")
    page.locator("#training-note .problem", has_text="No file is chosen").wait_for()
    assert page.locator("#training-start").is_visible()


def test_everything_can_be_read_on_a_phone(open_page: Any) -> None:
    page = open_page(width=390, height=844)
    open_training(page)
    page.click("#training-advanced > button")
    page.locator("#train-rank").wait_for()
    assert unreadable(page) == []
    for name in ("Run", "History"):
        part(page, name)
        page.wait_for_timeout(1500)
        assert unreadable(page) == []
