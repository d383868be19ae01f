"""What a person does on the page, by the words that the tests use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page


def load(page: Page, model: str | Path, *, precision: str | None = None) -> str:
    """Type a model's name, press Load, and return what the page says once it is done."""
    begin_load(page, model, precision=precision)
    return load_outcome(page)


def begin_load(page: Page, model: str | Path, *, precision: str | None = None) -> None:
    """Type a model's name and press Load."""
    page.fill("#model input", str(model))
    page.keyboard.press("Tab")
    if precision:
        page.fill("#precision input", precision)
        page.keyboard.press("Enter")
    page.evaluate("document.querySelector('#model-note .prose').textContent = ''")
    page.click("#load")


def load_outcome(page: Page) -> str:
    """What the page says when it is ready, has failed, or was cancelled."""
    over = page.locator("#model-note .note:not(:has(progress)), #model-note .problem")
    over.wait_for(timeout=60_000)
    page.locator("#load").wait_for()
    # The tab follows a moment later: it offers what the model can do.
    page.wait_for_timeout(300)
    return over.inner_text()


def say(page: Page, text: str) -> str:
    """Send a message, wait until the reply is complete, and return what the page says about it."""
    forget_note(page)
    page.fill("#message textarea", text)
    page.keyboard.press("Enter")
    return finish(page)


def forget_note(page: Page) -> None:
    """Take away what the page said last, so that the next word is news."""
    page.evaluate("document.querySelector('#generation-note .prose').textContent = ''")


def finish(page: Page) -> str:
    """Wait until the page says how a reply came out; return its words."""
    over = page.locator("#generation-note .facts, #generation-note .problem")
    over.wait_for(timeout=90_000)
    page.locator("#send").wait_for()
    # Gradio drops a click that comes before the page has heard the end of the last run; nobody's hand is that quick.
    page.wait_for_timeout(200)
    return over.inner_text()


def set_advanced(page: Page, **values: float | bool) -> None:
    """Open Advanced and set fields by name."""
    if not page.locator("#setting-seed").is_visible():
        page.click("#sampling .label-wrap")
        page.locator("#setting-seed input, #setting-seed textarea").wait_for()
    for name, value in values.items():
        widget = f"#setting-{name.replace('_', '-')}"
        field = page.locator(f"{widget} input, {widget} textarea").first
        if isinstance(value, bool):
            field.set_checked(value)
        else:
            field.fill(str(value))
            page.keyboard.press("Tab")


def turns(page: Page) -> list[str]:
    """The texts of the chat, one a bubble; folded reasoning is left out."""
    return [text.strip() for text in page.locator("#chat .message-content").all_inner_texts()]
