"""What a person does on the page, by the words that the tests use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

_HANG = 240_000
"""Milliseconds after which a step gives up; a loaded machine takes a minute to import PyTorch."""
LEAST_CONTRAST = 4.5  # WCAG 2.2 AA for text

# For every element that shows text of its own: the contrast of its colour on what is really behind it.
CONTRASTS = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * (top[3] ?? 1) + below[i] * (1 - (top[3] ?? 1)));
  const light = (c) => {
    const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    const unseen = box.width < 2 || box.height < 2 || style.visibility === 'hidden' || e.closest('[aria-hidden=true]');
    if (!own || unseen) continue;
    const back = behind(e), front = over(parse(style.color), back);
    const [hi, lo] = [light(front), light(back)].sort((a, b) => b - a);
    found.push([e.textContent.trim().slice(0, 40), (hi + 0.05) / (lo + 0.05)]);
  }
  return found;
}"""

# Colours fade from light to dark, and on a busy machine they begin to late.
FADED = """async () => {
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const ends = (a) => a.effect.getComputedTiming().endTime !== Infinity;
  await Promise.allSettled(document.getAnimations().filter(ends).map((a) => a.finished));
}"""


def open_tab(page: Page, name: str) -> None:
    """Open a tab of the page by its name."""
    page.locator("#tabs > .tab-wrapper").wait_for()
    _choose(page, "#tabs", name)


def open_part(page: Page, name: str) -> None:
    """Open the Tokenizer tab, and a part of it by its name."""
    open_tab(page, "Tokenizer")
    page.locator("#tokenizer-parts .tab-wrapper").first.wait_for()
    _choose(page, "#tokenizer-parts", name)


def open_merging(page: Page, name: str) -> None:
    """Open the Merge tab, and a part of it by its name."""
    open_tab(page, "Merge")
    page.locator("#merging-parts .tab-wrapper").first.wait_for()
    _choose(page, "#merging-parts", name)


def look_at(page: Page, adapter: str | Path) -> None:
    """Write where an adapter is into Set up, and wait until it was looked at."""
    open_merging(page, "Set up")
    page.locator("#merge-about .headline, #merge-nothing .headline").first.wait_for(timeout=_HANG)
    page.wait_for_timeout(300)
    page.evaluate("document.querySelector('#merge-about .prose').textContent = ''")
    page.fill("#merge-adapter input", str(adapter))
    page.keyboard.press("Enter")
    page.locator("#merge-about .headline, #merge-note .problem").first.wait_for(timeout=_HANG)
    page.locator("#merge-note .note").wait_for(state="hidden", timeout=_HANG)


def _choose(page: Page, tabs: str, name: str) -> None:
    there = page.locator(f"{tabs} > .tab-wrapper").get_by_role("tab", name=name, exact=True)
    if there.is_visible():
        there.click()
    else:  # on a phone the last ones are in a menu
        page.locator(f"{tabs} > .tab-wrapper .overflow-menu > button").click()
        page.locator(f"{tabs} > .tab-wrapper .overflow-dropdown").get_by_text(name, exact=True).click()


def taken_in(page: Page) -> None:
    """Wait until the page knows what was typed: a click in the same moment would send what was there before."""
    page.keyboard.press("Tab")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def choose_model(page: Page, model: str) -> None:
    """Write a model's name into the strip, and no more."""
    page.fill("#model input", model)
    page.keyboard.press("Tab")


def load(page: Page, model: str | Path, *, precision: str | None = None) -> str:
    """Type a model's name, press Load, and return what the page says once it is done."""
    begin_load(page, model, precision=precision)
    return load_outcome(page)


def begin_load(page: Page, model: str | Path, *, precision: str | None = None) -> None:
    """Type a model's name and press Load."""
    page.fill("#model input", str(model))
    taken_in(page)
    if precision:
        page.fill("#precision input", precision)
        page.keyboard.press("Enter")
    page.evaluate("document.querySelector('#model-note .prose').textContent = ''")
    page.click("#load")


def load_outcome(page: Page) -> str:
    """What the page says when it is ready, has failed, or was cancelled."""
    over = page.locator("#model-note .note:not(:has(progress)), #model-note .problem")
    over.wait_for(timeout=240_000)
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
    over.wait_for(timeout=240_000)
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


def unreadable(page: Page) -> list[tuple[str, float]]:
    """What cannot be read, in light and in dark: texts of weak contrast, and by how much the page leaves its window."""
    found = []
    for _ in range(2):
        page.evaluate("document.body.classList.toggle('dark')")
        page.evaluate(FADED)
        found += weak_texts(page)
        beyond = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        found += [("pixels beyond the window", beyond)] * (beyond > 0)
    return found


def weak_texts(page: Page) -> list[tuple[str, float]]:
    """The texts that are hard to read, with their contrast."""
    found = page.evaluate(CONTRASTS)
    return [(text, round(ratio, 2)) for text, ratio in found if ratio < LEAST_CONTRAST]
