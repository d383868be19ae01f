"""The Adapter part of Merge, and a deployment proven, in a real browser, by the mouse."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_steps import look_at, open_merging, taken_in, weak_texts
from pico import save_adapter, save_pico

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]

HANG = 90_000
"""Milliseconds after which a test gives up."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base and two adapters for it, of the ranks 4 and 2."""
    folder = tmp_path_factory.mktemp("adapters")
    base = save_pico(folder / "base")
    return base, save_adapter(folder / "first", base), save_adapter(folder / "second", base, rank=2)


@pytest.fixture(scope="module")
def merged(studio: Any, two: tuple[Path, Path, Path]) -> str:
    """A merge of the studio; the page opens on it."""
    from gradio_client import Client

    client = Client(studio.url, verbose=False)
    base, adapter, _ = two
    id_ = client.predict(str(base), str(adapter), "to-be-served", "prove=false", api_name="/merge")
    while (state := client.predict(id_, api_name="/merges")[0]["state"]) != "finished":
        assert state in ("new", "queued", "preparing", "running"), state
        time.sleep(0.1)
    return str(id_)


def x_ray(page: Page, adapter: Path) -> None:
    """See an adapter through."""
    look_at(page, adapter)
    open_merging(page, "Adapter")
    page.locator("#xray-about", has_text=adapter.name).wait_for()
    page.click("#xray-look")
    page.locator("#xray-found .heat").wait_for(timeout=HANG)


def test_an_adapter_is_seen_through_and_the_map_shows_another_figure(page: Page, two: tuple[Path, Path, Path]) -> None:
    x_ray(page, two[1])
    page.locator("#xray-found .headline", has_text="All 4 modules have an effect").wait_for()
    cells = page.locator("#xray-found td[data-effect=some]")
    assert cells.count() == 4
    before = cells.all_inner_texts()
    page.click("#xray-figure input")
    page.get_by_role("option", name="Directions that count").click()
    page.locator("#xray-found .legend", has_text="directions of the 4").wait_for()
    assert cells.all_inner_texts() != before
    open_merging(page, "Set up")
    open_merging(page, "Adapter")
    assert cells.count() == 4  # as it was left
    open_merging(page, "Set up")
    page.fill("#merge-adapter input", str(two[2]))
    page.keyboard.press("Enter")
    open_merging(page, "Adapter")  # before the other one was looked at
    page.locator("#xray-about", has_text="second").wait_for()
    page.locator("#xray-found .heat").wait_for(state="hidden")


def test_an_adapter_is_made_smaller_and_chosen(page: Page, two: tuple[Path, Path, Path]) -> None:
    look_at(page, two[1])
    open_merging(page, "Adapter")
    page.click("#smaller > button")
    page.fill("#smaller-name input, #smaller-name textarea", "page-small")
    taken_in(page)
    page.click("#smaller-write")
    page.locator("#smaller-found .headline", has_text="page-small is written").wait_for(timeout=HANG)
    assert "was cut off" in page.inner_text("#smaller-found")
    page.click("#smaller-use")
    page.locator("#merge-about .facts", has_text="2 rank").wait_for(timeout=HANG)
    assert "page-small" in page.input_value("#merge-adapter input")
    assert page.locator("#merge-start").is_enabled()


def test_two_adapters_are_combined_after_an_outlook(page: Page, two: tuple[Path, Path, Path]) -> None:
    look_at(page, two[1])
    open_merging(page, "Adapter")
    page.click("#combine > button")
    page.fill("#combine-second input", str(two[2]))
    page.keyboard.press("Enter")
    page.locator("#combine-ahead .facts", has_text="6 rank").wait_for(timeout=HANG)
    page.fill("#combine-name input, #combine-name textarea", "page-both")
    taken_in(page)
    page.click("#combine-write")
    page.locator("#combine-found .headline", has_text="exact weighted sum").wait_for(timeout=HANG)
    page.click("#combine-use")
    page.locator("#merge-about .facts", has_text="6 rank").wait_for(timeout=HANG)


def test_an_adapter_is_extracted_from_a_tuned_model(page: Page, two: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from adapter_variants import on_top

    base, adapter, _ = two
    on_top(base, adapter).merge_and_unload().save_pretrained(tmp_path / "tuned")
    open_merging(page, "Adapter")
    page.click("#extract > button")
    for name, folder in (("base", base), ("tuned", tmp_path / "tuned")):
        page.fill(f"#extract-{name} input", str(folder))
        page.keyboard.press("Enter")
    page.fill("#extract-name input, #extract-name textarea", "page-extracted")
    taken_in(page)
    page.click("#extract-write")
    page.locator("#extract-found .headline", has_text="page-extracted is written").wait_for(timeout=HANG)
    assert page.locator("#extract-found td", has_text="q_proj").count() == 2
    assert page.locator("#extract-found td", has_text="rounding").count() == 4
    assert weak_texts(page) == []
    page.click("#extract-use")
    page.locator("#merge-about .headline", has_text="It fits").wait_for(timeout=HANG)


@pytest.mark.usefixtures("merged")
def test_a_deployment_is_told_what_it_has_to_write(page: Page) -> None:
    open_merging(page, "Result")
    page.click("#parity > button")
    page.click("#parity-ask")
    page.locator("#parity-found .headline", has_text="what it has to write").wait_for(timeout=HANG)
    for name in ("check_transformers.py", "check_vllm.py", "check_llama_cpp.py"):
        page.locator("#parity-programs", has_text=name).wait_for()
    assert "EXPECTED" in page.locator("#parity-programs .cm-content").first.inner_text()
    assert weak_texts(page) == []


def test_all_of_it_can_be_read_on_a_phone(open_page: Any, two: tuple[Path, Path, Path]) -> None:
    page = open_page(width=390, height=844)
    x_ray(page, two[1])
    page.click("#smaller > button")
    for part in ("combine", "extract", "bone"):
        page.click(f"#{part} > button")
    page.locator("#bone-write").wait_for()
    for dark in (False, True):
        if dark:
            page.click("#theme-switch")
            page.locator(".dark").first.wait_for()
        page.wait_for_timeout(500)
        assert weak_texts(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
