"""Training a tokenizer in a real browser: from rows or files to a tokenizer that every panel speaks of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from page_steps import open_part, unreadable

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]


def open_panel(page: Page) -> None:
    open_part(page, "Train")
    page.locator("#learn").wait_for()
    page.wait_for_timeout(300)


def fill(page: Page, field: str, value: str) -> None:
    page.locator(
        f"{field} input[type=number], {field} input:not([type]), {field} textarea, {field} input[type=text]"
    ).first.fill(value)
    page.keyboard.press("Tab")


def train(page: Page, name: str) -> str:
    """Press Train; return what came of it."""
    fill(page, "#learn-name", name)
    page.evaluate("document.querySelectorAll('#learn-note .prose, #learned .prose').forEach(e => e.innerHTML = '')")
    page.click("#learn")
    over = page.locator("#learned .sheet, #learn-note .problem").first
    over.wait_for(timeout=240_000)
    page.locator("#learn-stop").wait_for(state="hidden")
    page.wait_for_timeout(300)
    return over.inner_text()


def test_a_tokenizer_learns_from_the_starter_set_and_every_panel_speaks_of_it(page: Page) -> None:
    open_panel(page)
    fill(page, "#setting-vocabulary-size", "600")
    told = train(page, "pirate")
    assert "Learned 600 tokens" in told
    assert "Tokens a word" in told
    assert page.locator("#learned .tokens i").count() > 10
    page.click("#learn-use")
    page.locator("#learn-note", has_text="pirate is chosen").wait_for()
    assert page.input_value("#model input") == "pirate (tokenizer)"
    assert not page.locator(".options").first.is_visible()
    page.click("#load")
    page.locator("#model-note .problem", has_text="holds a tokenizer and no model").wait_for()
    page.get_by_role("tab", name="Pieces").click()
    page.locator("#pieces-view .tokens i").first.wait_for()
    page.get_by_role("tab", name="Your data").click()
    page.locator("#data-there .note").wait_for(timeout=240_000)
    page.click("#measure")
    page.locator("#data-summary", has_text="tokenizers/pirate").wait_for(timeout=240_000)


def test_text_files_are_learned_from_and_a_taken_name_is_refused(page: Page, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"part-{number}.txt").write_text("the quick brown fox and the lazy dog\n" * 100)
    open_panel(page)
    page.get_by_text("Text files", exact=True).click()
    page.set_input_files("#learn-files input[type=file]", sorted(tmp_path.glob("*.txt")))
    page.locator("#learn-files", has_text="part-1").wait_for()
    fill(page, "#setting-vocabulary-size", "300")
    assert "texts read" in train(page, "fox")
    assert "exists already" in train(page, "fox")


@pytest.mark.parametrize(
    ("content", "said"), [(b" \n", "no text to learn from"), (b"\xff\xfe\x00\x01", "is not text in UTF-8")]
)
def test_a_file_without_text_is_refused(page: Page, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    open_panel(page)
    page.get_by_text("Text files", exact=True).click()
    page.set_input_files("#learn-files input[type=file]", tmp_path / "bad.txt")
    page.locator("#learn-files", has_text="bad").wait_for()
    assert said in train(page, "bad")


def test_a_vocabulary_smaller_than_the_alphabet_is_refused_with_the_least(page: Page) -> None:
    open_panel(page)
    page.click("#setting-kind input")
    page.get_by_role("option", name="Unigram").click()
    fill(page, "#setting-vocabulary-size", "20")
    told = train(page, "tiny")
    assert "different characters" in told
    assert "Choose at least" in told


def test_training_can_be_stopped(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("".join(f"word{number} and another{number * 7} " for number in range(400_000)))
    open_panel(page)
    page.get_by_text("Text files", exact=True).click()
    page.set_input_files("#learn-files input[type=file]", file)
    page.locator("#learn-files", has_text="long").wait_for()
    fill(page, "#learn-name", "stopped")
    page.click("#learn")
    page.locator("#learn-note", has_text="Co").wait_for(timeout=240_000)
    page.click("#learn-stop")
    page.locator("#learn-note", has_text="Nothing was kept").wait_for(timeout=240_000)


def test_everything_can_be_read_on_a_phone(open_page: Any) -> None:
    page = open_page(width=390, height=844)
    open_panel(page)
    fill(page, "#setting-vocabulary-size", "400")
    train(page, "phone")
    page.click("#learn-advanced > button")
    assert unreadable(page) == []
