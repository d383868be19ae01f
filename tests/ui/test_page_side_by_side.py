"""Base and adapters side by side in a real browser: asked, stopped, voted on with the names hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from page_steps import load, set_advanced, taken_in, weak_texts
from pico import save_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]

HANG = 240_000
"""Milliseconds after which a test gives up."""


def open_sides(page: Page) -> None:
    page.locator("#generation-parts").get_by_role("tab", name="Side by side", exact=True).click()
    page.locator("#sides-begin").wait_for()


def choose(page: Page, number: int, adapter: Path) -> None:
    """Write where an adapter is into a row."""
    page.fill(f"#side-{number} input[role=listbox], #side-{number} .wrap-inner input", str(adapter))
    page.keyboard.press("Enter")


def titles(page: Page) -> list[str]:
    return page.locator("#sides-found .side h4").all_inner_texts()


@pytest.fixture(scope="module")
def two(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of a model that never ends by itself."""
    folder = tmp_path_factory.mktemp("sides")
    return save_adapter(folder / "first", talker), save_adapter(folder / "second", talker, rank=2)


def test_adapters_are_asked_beside_their_base_and_voted_on_blind(
    page: Page, talker: Path, two: tuple[Path, Path]
) -> None:
    load(page, talker)
    set_advanced(page, seed=5, max_new_tokens=24)
    open_sides(page)
    choose(page, 1, two[0])
    page.click("#sides-add")
    choose(page, 2, two[1])
    page.locator("#side-2 input[type=number]").fill("0")
    taken_in(page)
    page.fill("#sides-prompt textarea", "Hi")
    taken_in(page)
    page.click("#sides-begin")
    page.locator("#sides-choice").wait_for(timeout=HANG)
    assert titles(page) == ["The base", "first", "second at 0"]
    base, other, nothing = page.locator("#sides-found .side .reply").all_inner_texts()
    assert base == nothing != other
    page.check("#sides-blind input")
    page.click("#sides-begin")
    page.locator("#sides-choice", has_text="The names come").wait_for(timeout=HANG)
    assert titles(page) == ["A", "B", "C"]
    at = page.locator("#sides-found .side .reply").all_inner_texts().index(other)
    page.locator("#sides-choice .wrap label").nth(at).click()
    page.locator("#sides-found .side[data-best=true] h4", has_text=f"{'ABC'[at]}: first").wait_for()
    page.locator("#sides-tally td").first.wait_for()
    assert page.locator("#sides-tally tr").nth(1).inner_text().split() == ["first", "1", "1", "100%"]
    stop_and_clear(page)
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("#theme-switch")
    page.locator(".dark").first.wait_for()
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert weak_texts(page) == []


def stop_and_clear(page: Page) -> None:
    """A round that is stopped: what was written and the votes stay, until they are cleared."""
    set_advanced(page, max_new_tokens=4000)
    page.click("#sides-begin")
    # Not just any reply: those of the round before are there until this one begins.
    page.locator("#sides-found .legend", has_text="Writing").first.wait_for(timeout=HANG)
    page.click("#sides-stop")
    page.locator("#sides-note", has_text="Stopped").wait_for(timeout=HANG)
    assert page.locator("#sides-found .reply").count()
    assert page.locator("#sides-tally tr").nth(1).inner_text().split()[0] == "first"
    page.click("#sides-clear")
    page.locator("#sides-tally td").first.wait_for(state="hidden")
