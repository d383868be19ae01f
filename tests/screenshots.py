"""Take the pictures of the README anew: every tab, wide and narrow, light and dark.

python tests/screenshots.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from page_steps import load, open_part, say, set_advanced
from playwright.sync_api import Page, sync_playwright
from running import ROOT, free_port, process

FOLDER = ROOT / "assets" / "screenshots"

PARTS = {"tokenizer": "Pieces", "template": "Chat template", "data": "Your data"}
"""Parts of the Tokenizer tab, by the name of their picture."""


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with process("app.py", port=free_port()) as (_, url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in ((1440, 900), (390, 844)):
            for look in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=look)
                page.goto(url)
                page.locator("#session-bar .session").wait_for()
                talk(page)
                page.screenshot(path=FOLDER / f"generate-{width}-{look}.png")
                weigh(page)
                page.screenshot(path=FOLDER / f"load-{width}-{look}.png")
                for name, part in PARTS.items():
                    read(page, part)
                    page.screenshot(path=FOLDER / f"{name}-{width}-{look}.png")
                page.close()
        browser.close()


def talk(page: Page) -> None:
    """A short chat whose words are the same every time."""
    set_advanced(page, seed=4)
    page.click("#sampling .label-wrap")
    say(page, "What does NF4 mean?")
    say(page, "Tell me a story about a fox.")
    page.wait_for_timeout(2500)  # the session bar looks again
    page.evaluate("window.scrollTo(0, 0)")


def weigh(page: Page) -> None:
    """The Load tab with a model in memory, foretold and measured."""
    page.get_by_role("tab", name="Load").click()
    load(page, "starter", precision="nf4")
    page.locator("#held .sheet").wait_for()
    page.click("#foresee")
    page.locator("#outlook .sheet").wait_for()
    page.wait_for_timeout(2500)
    page.evaluate("window.scrollTo(0, 0)")


def read(page: Page, part: str) -> None:
    """A part of the Tokenizer tab with its answer."""
    open_part(page, part)
    if part == "Your data":
        page.click("#measure")
        page.locator("#data-summary .sheet").wait_for()
    else:
        page.locator(".tokens i").first.wait_for()
    page.wait_for_timeout(2500)
    page.evaluate("window.scrollTo(0, 0)")


if __name__ == "__main__":
    main()
