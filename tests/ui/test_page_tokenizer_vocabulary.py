"""The vocabulary in a real browser: a search while one types, its pages, and a pattern that is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from page_steps import choose_model, open_part

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]


@pytest.fixture
def words(page: Page) -> Page:
    """The page with the panel open, and its example found."""
    open_part(page, "Vocabulary")
    page.locator("#vocabulary-results table").wait_for()
    page.locator("#vocabulary-about .sheet").wait_for()
    return page


def look_for(page: Page, query: str) -> None:
    page.fill("#vocabulary-query input, #vocabulary-query textarea", query)


def test_a_newcomer_sees_tokens_and_what_they_are_made_of(words: Page) -> None:
    assert "training" in words.inner_text("#vocabulary-results")
    assert "By script" in words.inner_text("#vocabulary-about")
    assert "agree" in words.inner_text("#vocabulary-about .findings")


def test_the_search_follows_and_pages_turn(words: Page) -> None:
    look_for(words, "")
    words.locator("#vocabulary-results", has_text="2,048 tokens in all; 1 to 50").wait_for()
    words.get_by_role("button", name="Next ▶").click()
    words.locator("#vocabulary-results", has_text="51 to 100 are shown").wait_for()
    words.get_by_role("button", name="◀ Previous").click()
    words.locator("#vocabulary-results", has_text="; 1 to 50 are shown").wait_for()
    look_for(words, "assistant")
    words.locator("#vocabulary-results", has_text="<|assistant|>").wait_for()


def test_ids_and_patterns_are_modes_and_a_broken_one_is_told(words: Page) -> None:
    words.get_by_label("Id", exact=True).check()
    look_for(words, "4")
    words.locator("#vocabulary-results", has_text="One token matches.").wait_for()
    words.get_by_label("Regular expression").check()
    look_for(words, "(")
    words.locator("#vocabulary-note .problem", has_text="no regular expression").wait_for()
    look_for(words, "^ing$")
    words.locator("#vocabulary-results", has_text="One token matches.").wait_for()
    assert words.locator("#vocabulary-note .problem").count() == 0


def test_another_model_has_another_vocabulary(words: Page, without_template: Path) -> None:
    choose_model(words, str(without_template))
    words.locator("#vocabulary-about .facts", has_text="261 tokens").wait_for()
