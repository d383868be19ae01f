"""Seconds until 2,000 tokens are painted in Chromium, divided by the seconds that the model took to write them.

python tests/benchmarks/painting.py [REPEATS]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from running import endless_model, free_port, process, told

TOKENS = 2000


def main(repeats: int) -> None:
    from page_steps import begin_load, load_outcome, set_advanced
    from playwright.sync_api import sync_playwright

    folder = endless_model(Path(tempfile.mkdtemp()) / "model")
    painted, written = [], []
    with process("app.py", port=free_port()) as (_, url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(url)
        page.locator("#session-bar .session").wait_for()
        begin_load(page, folder)
        load_outcome(page)
        set_advanced(page, max_new_tokens=TOKENS)
        for _ in range(repeats):
            page.click("#new-chat")
            page.wait_for_timeout(500)
            page.fill("#message textarea", "Hello")
            started = time.perf_counter()
            page.click("#send")
            page.locator("#generation-note .facts").wait_for(timeout=300_000)
            # Two frames later whatever the last update changed is on the screen.
            page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            painted.append(time.perf_counter() - started)
            rate = float(page.locator("#generation-note .facts b").nth(1).inner_text())
            written.append(TOKENS / rate)
        browser.close()
    screen = told(f"{TOKENS:,} tokens, click to painted", painted, "s")
    model = told(f"{TOKENS:,} tokens, written by the model", written, "s")
    print(f"{'ratio of the medians':<46} {screen / model:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
