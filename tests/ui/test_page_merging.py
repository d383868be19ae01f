"""Merging in a real browser: from what a run has learnt to a proven model that answers, by the mouse alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_steps import choose_model, finish, forget_note, look_at, open_merging, open_tab, taken_in, unreadable
from pico import save_adapter, save_pico

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]

HANG = 240_000
"""Milliseconds after which a test gives up on a worker; a loaded machine takes a minute to import PyTorch."""


@pytest.fixture(scope="module")
def learnt(studio: Any) -> str:
    """A run of the studio that has made an adapter for the starter."""
    from gradio_client import Client

    client = Client(studio.url, verbose=False)
    id_ = client.predict("starter", "persona", "most_steps=2&batch_tokens=512", "", "Pirate", api_name="/train")
    while (state := client.predict(id_, api_name="/runs")[0]["state"]) != "finished":
        assert state in ("new", "queued", "preparing", "running"), state
        time.sleep(0.5)
    return str(id_)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and an adapter from elsewhere."""
    folder = tmp_path_factory.mktemp("pair")
    base = save_pico(folder / "base")
    return base, save_adapter(folder / "theirs", base)


def verdict(page: Page, name: str) -> str:
    over = page.locator("#merged-head .merge[data-verdict=proven]", has_text=name)
    over.wait_for(timeout=HANG)
    return over.inner_text()


@pytest.mark.usefixtures("learnt")
def test_what_the_starter_has_learnt_is_merged_proven_and_answers(open_page: Any) -> None:
    page = open_page()
    open_tab(page, "Merge")
    page.locator("#merge-about", has_text="It fits starter").wait_for(timeout=HANG)
    page.locator("#merge-takes", has_text="on the disk, in bf16").wait_for()
    name = page.input_value("#merge-name input, #merge-name textarea")
    assert name.endswith("-merged")
    page.click("#merge-start")
    page.locator("#merged-head .merge").wait_for(timeout=HANG)
    other = open_page()  # as on a phone, or after a reload
    open_merging(other, "Result")
    assert "checks passed" in verdict(other, name)
    assert "held-out rows" in verdict(page, name)
    assert page.locator("#merged-head .checks li").count() == 19
    page.click("#merged-talk")
    page.locator("#model-note", has_text=f"{name} answers now").wait_for()
    forget_note(page)
    page.fill("#message textarea", "What can you do?")
    page.keyboard.press("Enter")
    assert "tokens" in finish(page)
    page.locator("#session-bar", has_text=name).wait_for()
    open_merging(page, "All merges")
    page.locator("#merges-table td", has_text="proven").first.wait_for()


def test_an_adapter_from_elsewhere_is_merged_on_its_own_base(page: Page, pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    look_at(page, adapter)
    assert "All 4 updates meet" in page.inner_text("#merge-about")
    assert page.input_value("#merge-base input, #merge-base textarea") == str(base)
    page.click("#merge-about summary")
    page.locator("#merge-about td", has_text="q_proj, v_proj").first.wait_for()
    page.fill("#merge-name input, #merge-name textarea", "from-elsewhere")
    page.click("#merge-advanced > button")
    page.fill("#merge-prompts textarea", "Say one.")
    taken_in(page)
    page.click("#merge-start")
    assert "5 prompts" in verdict(page, "from-elsewhere")
    page.click("#merged-load")
    page.locator("#model-note", has_text="from-elsewhere is chosen").wait_for()
    page.locator("#foresee").wait_for()


def test_a_base_that_does_not_fit_is_said_and_cannot_be_started(page: Page, pair: tuple[Path, Path]) -> None:
    look_at(page, pair[1])
    assert page.locator("#merge-start").is_enabled()
    page.fill("#merge-base input, #merge-base textarea", "starter")
    taken_in(page)
    page.locator("#merge-about .headline.bad", has_text="does not fit").wait_for(timeout=HANG)
    assert page.locator("#merge-start").is_disabled()


def test_what_is_no_adapter_is_said_beside_start(page: Page, pair: tuple[Path, Path]) -> None:
    look_at(page, pair[0])
    page.locator("#merge-note .problem", has_text="adapter_config.json").wait_for()
    assert page.locator("#merge-start").is_disabled()


def test_a_merge_is_stopped_and_started_again(page: Page, pair: tuple[Path, Path]) -> None:
    look_at(page, pair[1])
    page.fill("#merge-name input, #merge-name textarea", "stopped-once")
    taken_in(page)
    page.click("#merge-start")
    page.click("#merged-stop", timeout=HANG)
    stopped = page.locator("#merged-head .merge[data-state=stopped]")
    stopped.wait_for(timeout=HANG)
    assert "Nothing of it was left" in stopped.inner_text()
    page.click("#merged-again")
    verdict(page, "stopped-once")
    open_merging(page, "All merges")
    page.locator("#merges-table", has_text="stopped-once").wait_for()
    page.click("#merges-forget")
    page.locator("#merges-note", has_text="Forgotten").wait_for()
    assert "stopped-once" not in page.inner_text("#merges-table")


def test_the_ways_into_a_quantized_base_are_measured(page: Page, pair: tuple[Path, Path]) -> None:
    look_at(page, pair[1])
    page.click("#merge-ways > button")
    page.click("#ways-measure")
    page.locator("#ways-found .headline", has_text="Nearest to what was trained").wait_for(timeout=HANG)
    assert page.locator("#ways-found tbody tr").count() == 3
    page.fill("#merge-onto input", "dequantized")
    page.keyboard.press("Enter")
    page.fill("#merge-name input, #merge-name textarea", "onto-what-was-learnt-on")
    taken_in(page)
    page.click("#merge-start")
    assert "checks passed" in verdict(page, "onto-what-was-learnt-on")


@pytest.mark.usefixtures("learnt")
def test_everything_can_be_read_on_a_phone(open_page: Any) -> None:
    page = open_page(width=390, height=844)
    choose_model(page, "starter")
    open_tab(page, "Merge")
    page.locator("#merge-about .headline").wait_for(timeout=HANG)
    page.click("#merge-advanced > button")
    page.locator("#merge-dtype").wait_for()
    for name in ("Set up", "Result", "All merges"):
        open_merging(page, name)
        page.wait_for_timeout(1500)
        assert unreadable(page) == []
