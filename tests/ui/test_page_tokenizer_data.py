"""Your data in a real browser: from a file or the Hub to lengths, a cut-off, and words for all that goes wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from page_steps import open_part, taken_in, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Studio
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]


@pytest.fixture(autouse=True)
def _well_behaved_hub(studio: Studio) -> Iterator[None]:
    yield
    studio.hub.faults.clear()


def open_panel(page: Page) -> None:
    open_part(page, "Your data")
    page.locator("#data-there .note").wait_for(timeout=240_000)
    page.wait_for_timeout(300)


def measure(page: Page) -> str:
    """Press Measure; return the outcome, or the problem."""
    page.evaluate("document.querySelectorAll('#data-note .prose, #data-summary .prose').forEach(e => e.innerHTML = '')")
    page.click("#measure")
    over = page.locator("#data-summary .sheet, #data-note .problem").first
    over.wait_for(timeout=240_000)
    page.locator("#measure-stop").wait_for(state="hidden")
    page.wait_for_timeout(300)
    return over.inner_text()


def upload(page: Page, file: Path) -> None:
    page.get_by_text("A file of yours").click()
    page.locator("#data-there .note").wait_for(state="hidden")
    page.set_input_files("#data-file input[type=file]", file)
    page.locator("#data-there .note, #data-note .problem").first.wait_for()
    page.locator("#measure-stop").wait_for(state="hidden")


def name_on_the_hub(page: Page, name: str) -> str:
    """Choose the Hub, write the name, and return what is said of it."""
    page.get_by_text("The Hub", exact=True).click()
    page.locator("#data-name").wait_for()
    page.locator("#data-there .note").wait_for(state="hidden")
    page.evaluate("document.querySelectorAll('#data-there .prose, #data-note .prose').forEach(e => e.innerHTML = '')")
    page.fill("#data-name input, #data-name textarea", name)
    taken_in(page)
    page.click("#data-look")
    over = page.locator("#data-there .note, #data-note .problem").first
    over.wait_for(timeout=240_000)
    page.locator("#measure-stop").wait_for(state="hidden")
    page.wait_for_timeout(300)
    return over.inner_text()


def test_the_starter_set_is_measured_and_a_cut_off_is_told_live(page: Page) -> None:
    open_panel(page)
    assert "762 rows, 60,338 tokens for starter" in measure(page)
    page.locator("#data-bars canvas, #data-bars svg").first.wait_for()
    page.fill("#data-limit input[type=number]", "80")
    page.keyboard.press("Tab")
    page.locator("#data-cost", has_text="At 80: 26 % of the rows are cut").wait_for()


def test_a_file_is_measured_and_what_stands_out_is_named_by_row(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = ['{"text": "a <|end|> b"}', '{"text": null}', '{"text": "<img src=x onerror=alert(1)> c"}']
    file.write_text("\n".join(rows))
    open_panel(page)
    upload(page, file)
    assert "2 rows, " in measure(page)
    page.get_by_text("longest rows").click()
    told = page.inner_text("#data-outstanding")
    assert "mine.jsonl, row 1" in told
    assert "row 2" in told
    assert "<img src=x" in told
    assert page.locator("#data-outstanding img").count() == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "empty.jsonl is empty"),
        ("binary.jsonl", b"\x00\x01\x02" * 100, "binary.jsonl is binary, not text"),
        ("zipped.jsonl", b"PK\x03\x04" + bytes(100), "zipped.jsonl is a zip archive"),
        ("broken.jsonl", b'{"a": "b"}\n{"a": b}\n', r"broken.jsonl, (row|line) 2"),
        ("odd.jsonl", b'{"one": "a", "two": "b"}\n', "the columns are one, two"),
    ],
)
def test_a_bad_file_is_said_with_its_place(page: Page, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    open_panel(page)
    assert "762" in measure(page)
    (tmp_path / name).write_bytes(content)
    upload(page, tmp_path / name)
    assert re.search(said, measure(page))
    assert not page.locator("#data-lengths").is_visible()


def test_columns_that_are_not_recognised_are_chosen_by_hand(page: Page, tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"one": "a", "two": "b"}\n' * 4)
    open_panel(page)
    upload(page, tmp_path / "odd.jsonl")
    assert "Say which column" in measure(page)
    page.locator("#data-format").wait_for()  # Advanced has opened
    page.click("#data-format input")
    page.get_by_role("option", name="prompt-completion").click()
    for number, column in enumerate(("one", "two")):
        page.locator(f"#data-column-{number}").wait_for()
        page.click(f"#data-column-{number} input")
        page.locator(f"#data-column-{number}").get_by_role("option", name=column).click()
    assert "4 rows, " in measure(page)


def test_a_dataset_of_the_hub_says_its_size_and_offers_its_splits(page: Page, studio: Studio) -> None:
    files = {"train.jsonl": '{"text": "one two"}\n' * 50, "test.jsonl": '{"text": "three"}\n'}
    studio.hub.add("alice/pages", files, kind="datasets")
    open_panel(page)
    assert "alice/pages, train: 1.0 kB to download" in name_on_the_hub(page, "alice/pages")
    page.click("#data-split input")
    page.get_by_role("option", name="test").click()
    page.locator("#data-there", has_text="alice/pages, test: 18 B to download").wait_for()
    assert not studio.hub.requests("GET", r"alice/pages.*\.jsonl")
    assert "1 row, " in measure(page)
    page.locator("#data-cost", has_text="no row is cut").wait_for()


def test_a_gated_dataset_and_one_that_is_not_there_say_what_to_do(page: Page, studio: Studio) -> None:
    studio.hub.add("alice/closed", {"train.jsonl": '{"text": "one"}\n'}, kind="datasets", gated=True)
    open_panel(page)
    assert "alice/closed" in name_on_the_hub(page, "alice/closed")
    assert page.locator("#data-note .problem").is_visible()
    assert "alice/nowhere" in name_on_the_hub(page, "alice/nowhere")


def test_counting_can_be_stopped_and_begun_again(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text(('{"text": "' + "many words in a row " * 40 + '"}\n') * 15_000)
    open_panel(page)
    upload(page, file)
    page.click("#measure")
    page.locator("#data-note", has_text="Counting").wait_for(timeout=240_000)
    page.click("#measure-stop")
    page.locator("#data-note", has_text="Stopped.").wait_for()
    page.get_by_text("A starter set").click()
    page.locator("#data-there", has_text="persona").wait_for()
    assert "762 rows" in measure(page)


def test_everything_can_be_read_on_a_phone(open_page: Any) -> None:
    page = open_page(width=390, height=844)
    open_panel(page)
    measure(page)
    page.get_by_text("longest rows").click()
    page.click("#data-mapping > button")
    assert unreadable(page) == []
