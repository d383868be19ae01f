"""Seconds from a paste to painted tokens in Chromium: 20,000 tokens at once, and the first of a megabyte.

python tests/benchmarks/tokens_painting.py [REPEATS]
"""

from __future__ import annotations

import shutil
import sys
import time

from running import ROOT, free_port, process, told

SENTENCE = "The quick brown fox jumps over lazy dogs. 12345 Grüße. "
PASTES = {"20,000 tokens": SENTENCE * 690, "the first 20,000 tokens of 1 MB": SENTENCE * 18_000}
TOKENS = 20_000


def main(repeats: int) -> None:
    from page_steps import open_part
    from playwright.sync_api import Page, sync_playwright

    def drawn(page: Page) -> None:
        page.wait_for_function(
            f"document.querySelectorAll('#pieces-view .tokens i').length === {TOKENS}", timeout=120_000
        )
        # Two frames later what was drawn is on the screen.
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    with process("app.py", port=free_port()) as (_, url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(url)
        page.locator("#session-bar .session").wait_for()
        open_part(page, "Pieces")
        page.locator("#pieces-view .tokens i").first.wait_for()
        for name, text in PASTES.items():
            taken = []
            for _ in range(repeats):
                page.fill("#tokenizer-text textarea", "x")
                page.wait_for_function("document.querySelectorAll('#pieces-view .tokens i').length === 1")
                started = time.perf_counter()
                page.fill("#tokenizer-text textarea", text)
                drawn(page)
                taken.append(time.perf_counter() - started)
            told(f"{name}, paste to painted", taken, "s")
        browser.close()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
