"""The Tokenizer tab in a real browser: pieces, the pipeline, and several tokenizers beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from page_steps import choose_model, open_part

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Studio
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]


# Paste so many characters; say whether the browser was told not to.
PASTE = """(length) => {
  const clipboardData = new DataTransfer();
  clipboardData.setData("text", "x".repeat(length));
  const paste = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
  return !document.querySelector("#tokenizer-text textarea").dispatchEvent(paste);
}"""


# Put so many characters into the field, as a drop of text does.
DROP = """(length) => {
  const area = document.querySelector("#tokenizer-text textarea");
  area.value = "x".repeat(length);
  area.dispatchEvent(new Event("input", { bubbles: true }));
}"""


def read(page: Page, text: str) -> None:
    """Type a text and wait until its tokens are there."""
    page.evaluate("document.querySelector('#pieces-view .tokenized')?.setAttribute('data-old', '')")
    page.fill("#tokenizer-text textarea", text)
    page.locator("#pieces-view .tokenized:not([data-old])").wait_for()


def drawn(page: Page) -> list[str]:
    """The tokens as they are drawn, without the marks that let a line break."""
    return [text.replace("\u200b", "") for text in page.locator("#pieces-view .tokens i").all_text_contents()]


def add_to_comparison(page: Page, model: str) -> None:
    page.click("#compare-others input")
    page.keyboard.type(model)
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.locator("#compare-others .token", has_text=model).wait_for()


@pytest.fixture
def pieces(page: Page) -> Page:
    """The page with the tab open, and the example that it begins with read."""
    open_part(page, "Pieces")
    page.locator("#pieces-view .tokens i").first.wait_for()
    return page


def test_a_newcomer_sees_tokens_at_one_click(pieces: Page) -> None:
    assert "tokens" in pieces.inner_text("#pieces-view .facts")
    assert len(drawn(pieces)) > 20
    assert "The ids give the same text again." in pieces.inner_text("#pieces-view")


def test_tokens_follow_what_is_typed(pieces: Page) -> None:
    read(pieces, "Once upon a time")
    assert "".join(drawn(pieces)) == "Once·upon·a·time"
    pieces.locator("#tokenizer-text textarea").press_sequentially("!")
    pieces.locator("#pieces-view .tokens i", has_text="!").wait_for()


def test_a_token_and_its_id_are_chosen_together_by_mouse_and_by_keyboard(pieces: Page) -> None:
    read(pieces, "Once upon")
    pieces.locator("#pieces-view .ids i").nth(1).click()
    assert pieces.locator("#pieces-view .chosen").count() == 2
    said = pieces.inner_text("#pieces-view .token")
    assert "Token 2 of 2" in said
    assert "characters 4 to 9" in said
    pieces.focus("#pieces-view .tokens")
    pieces.keyboard.press("ArrowLeft")
    assert "Token 1 of 2" in pieces.inner_text("#pieces-view .token")
    pieces.locator("#pieces-view .tokens i").nth(1).hover()
    assert pieces.locator("#pieces-view .lit").count() == 2


def test_what_cannot_be_seen_is_drawn(pieces: Page) -> None:
    read(pieces, "a\tb\u200bc\nd é")
    text = "".join(drawn(pieces))
    assert "⇥" in text
    assert "⟨200B⟩" in text
    assert "⏎" in text
    assert "C3" in text


def test_markup_in_a_text_is_text(pieces: Page) -> None:
    read(pieces, "<img src=x onerror=alert(1)><b>bold</b>")
    assert pieces.locator("#pieces-view .tokens img, #pieces-view .tokens b").count() == 0
    assert "".join(drawn(pieces)).startswith("<img·src=x")


def test_ids_become_text_and_a_wrong_one_is_named(pieces: Page) -> None:
    pieces.fill("#decode-ids textarea", "[319, 1967]")
    pieces.locator("#decoded", has_text="The·quick").wait_for()
    pieces.fill("#decode-ids textarea", "1, 99999999")
    pieces.locator("#decoded .problem", has_text="no token with the id 99999999").wait_for()
    pieces.fill("#decode-ids textarea", "1, two")
    pieces.locator("#decoded .problem", has_text="'two' is not the id of a token").wait_for()


def test_a_long_text_is_drawn_page_by_page(pieces: Page) -> None:
    read(pieces, "x9" * 15_000)
    pieces.locator("#pieces-view", has_text="Tokens 1 to 20,000 of 30,000 are drawn.").wait_for()
    assert pieces.locator("#pieces-view .tokens i").count() == 20_000
    pieces.get_by_role("button", name="After").click()
    pieces.locator("#pieces-view", has_text="Tokens 20,001 to 30,000 of 30,000 are drawn.").wait_for()


def test_another_model_in_the_strip_is_read_at_once(pieces: Page, pico: Path) -> None:
    read(pieces, "Once")
    choose_model(pieces, str(pico))
    pieces.wait_for_function("document.querySelectorAll('#pieces-view .tokens i').length === 4")


def test_a_model_of_the_hub_is_read_without_its_weights(pieces: Page, studio: Studio, pico: Path) -> None:
    studio.hub.add("dora/reader", {path.name: path.read_bytes() for path in pico.iterdir()})
    read(pieces, "Once")
    choose_model(pieces, "dora/reader")
    pieces.wait_for_function("document.querySelectorAll('#pieces-view .tokens i').length === 4")
    assert not studio.hub.requests("GET", r"dora/reader/.*safetensors")


@pytest.mark.parametrize(
    ("model", "words"), [("dora/nobody", "There is no model"), ("not a name", "is not the name of a model")]
)
def test_a_model_that_cannot_be_read_is_told_where_the_tokens_would_be(pieces: Page, model: str, words: str) -> None:
    choose_model(pieces, model)
    pieces.locator("#pieces-note .problem", has_text=words).wait_for()
    assert pieces.locator("#pieces-view .tokens").count() == 0


def test_the_pipeline_is_shown_stage_by_stage_and_one_word_merge_by_merge(page: Page) -> None:
    open_part(page, "Pipeline")
    page.locator("#stages .stages > li").nth(7).wait_for()
    assert page.locator("#stages h4").first.inner_text() == "The tokenizer"
    page.fill("#one-word input", " brown")
    page.keyboard.press("Enter")
    page.locator("#story", has_text="becomes 2 tokens").wait_for()
    assert page.locator("#story tbody tr").count() == 5


def test_several_texts_become_a_grid(page: Page) -> None:
    open_part(page, "Pipeline")
    page.locator("#stages .sheet").wait_for()
    page.click("#batch .label-wrap")
    page.fill("#batch-texts textarea", "one\none two three four")
    page.locator("#grid tr").nth(1).wait_for()
    assert page.locator("#grid td.pad").count() > 0
    page.fill("#setting-max-length textarea, #setting-max-length input", "2")
    page.fill("#setting-truncation input", "longest first")
    page.keyboard.press("Enter")
    page.locator("#grid", has_text="tokens cut off").wait_for()


def test_tokenizers_are_compared_in_many_languages(page: Page, pico: Path) -> None:
    open_part(page, "Compare")
    add_to_comparison(page, str(pico))
    page.click("#compare-begin")
    page.locator("#compared .headline", has_text="starter needs the fewest tokens").wait_for()
    assert page.locator("#compared tr", has_text="Arabic").count() == 1
    assert "Tokens in common" in page.inner_text("#compared")


def test_a_tokenizer_that_cannot_be_had_is_named_before_anything_is_compared(page: Page) -> None:
    open_part(page, "Compare")
    add_to_comparison(page, "dora/nobody")
    page.click("#compare-begin")
    page.locator("#compare-note .problem", has_text="dora/nobody").wait_for()


def test_tokenizers_are_compared_on_the_rows_under_your_data(page: Page, pico: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "one <b>two</b>"}\n' * 20)
    open_part(page, "Your data")
    page.locator("#data-there .note").wait_for(timeout=240_000)
    page.get_by_text("A file of yours").click()
    page.set_input_files("#data-file input[type=file]", file)
    page.locator("#data-there .note", has_text="mine.jsonl").wait_for()
    open_part(page, "Compare")
    add_to_comparison(page, str(pico))
    page.get_by_text("The rows under Your data", exact=True).click()
    page.click("#compare-begin")
    page.locator("#compared .headline", has_text="mine.jsonl, 20 rows").wait_for(timeout=240_000)
    assert page.locator("#compared td", has_text="text").count() >= 1


def test_a_text_of_fifty_megabytes_is_refused_before_it_is_sent(pieces: Page) -> None:
    read(pieces, "Once upon")
    sent: list[int] = []
    pieces.on("request", lambda request: sent.append(len(request.post_data or "")))
    pieces.evaluate(DROP, 50_000_000)
    pieces.locator("#too-long .problem", has_text="at most 10 MB").wait_for()
    assert pieces.input_value("#tokenizer-text textarea") == "Once upon"
    assert pieces.evaluate(PASTE, 50_000_000)  # the browser was told not to
    pieces.fill("#tokenizer-text textarea", "Once upon a time")
    pieces.locator("#too-long").wait_for(state="hidden")
    pieces.locator("#pieces-view .tokens i", has_text="time").wait_for()
    assert not pieces.evaluate(PASTE, 10)
    assert max(sent) < 10_000


def test_the_tab_fits_a_phone(open_page: Any) -> None:
    phone = open_page(width=390, height=844)
    open_part(phone, "Pieces")
    phone.locator("#pieces-view .tokens i").first.wait_for()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
