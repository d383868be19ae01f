"""Take the pictures of the README anew: every tab, wide and narrow, light and dark.

python tests/screenshots.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from page_steps import load, open_merging, open_part, open_tab, say, set_advanced, taken_in
from playwright.sync_api import Page, sync_playwright
from running import ROOT, free_port, process

FOLDER = ROOT / "assets" / "screenshots"

LONG = 600_000
"""Milliseconds that a run may take."""
PARTS = {"tokenizer": "Pieces", "template": "Chat template", "data": "Your data"}
"""Parts of the Tokenizer tab, by the name of their picture."""


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    # Within the folder that the studio is started in, so that no picture shows a path of this machine.
    workspace = ROOT / "workspace" / "pictures"
    shutil.rmtree(workspace, ignore_errors=True)
    with process("app.py", port=free_port(), workspace=workspace) as (_, url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        ran = merged = False
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
                ask_memory(page)
                page.screenshot(path=FOLDER / f"memory-{width}-{look}.png")
                set_up(page)
                page.screenshot(path=FOLDER / f"fine-tune-{width}-{look}.png")
                if not ran:  # one run is enough for all pictures
                    learn(page)
                    ran = True
                show_run(page)
                page.screenshot(path=FOLDER / f"run-{width}-{look}.png")
                open_merge(page)
                page.screenshot(path=FOLDER / f"merge-{width}-{look}.png")
                if not merged:
                    page.click("#merge-start")
                    merged = True
                show_verdict(page)
                page.screenshot(path=FOLDER / f"proof-{width}-{look}.png")
                see_through(page)
                page.screenshot(path=FOLDER / f"adapter-{width}-{look}.png")
                ask_both(page)
                page.screenshot(path=FOLDER / f"sides-{width}-{look}.png")
                offer(page)
                page.screenshot(path=FOLDER / f"publish-{width}-{look}.png")
                page.close()
        browser.close()


def talk(page: Page) -> None:
    """A short chat whose words are the same every time."""
    set_advanced(page, seed=4)
    page.click("#sampling .label-wrap")
    say(page, "What does NF4 mean?")
    say(page, "Tell me a story about a fox.")
    settle(page)


def weigh(page: Page) -> None:
    """The Load tab with a model in memory, foretold and measured."""
    open_tab(page, "Load")
    load(page, "starter", precision="nf4")
    page.locator("#held .sheet").wait_for()
    page.click("#foresee")
    page.locator("#outlook .sheet").wait_for()
    settle(page)


def read(page: Page, part: str) -> None:
    """A part of the Tokenizer tab with its answer."""
    open_part(page, part)
    if part == "Your data":
        page.click("#measure")
        page.locator("#data-summary .sheet").wait_for()
    else:
        page.locator(".tokens i:visible").first.wait_for()  # the other parts keep theirs, unseen
    settle(page)


def ask_memory(page: Page) -> None:
    """The Memory tab with its answer."""
    open_tab(page, "Memory")
    page.locator("#memory-answer .memory-answer").wait_for()
    settle(page)


def set_up(page: Page) -> None:
    """The Fine-tune tab as it opens: rows, how they are learnt, what that takes."""
    open_tab(page, "Fine-tune")
    page.locator("#training-every .sheet").wait_for(timeout=LONG)
    page.locator("#training-takes .headline").wait_for(timeout=LONG)
    settle(page)


def learn(page: Page) -> None:
    """A whole run with what is filled in."""
    page.click("#training-start")
    page.locator("#run-head .run[data-state=finished]").wait_for(timeout=LONG)


def show_run(page: Page) -> None:
    """The last run: its curves, and what came of it."""
    page.locator("#training-parts").get_by_role("tab", name="Run", exact=True).click()
    page.locator("#run-head .run[data-state=finished]").wait_for()
    page.locator("#run-loss canvas, #run-loss svg").first.wait_for()
    settle(page)


def open_merge(page: Page) -> None:
    """The Merge tab as it opens: the adapter of the last run, its fit, what it takes."""
    open_merging(page, "Set up")
    page.locator("#merge-takes .headline").wait_for(timeout=LONG)
    settle(page)


def show_verdict(page: Page) -> None:
    """The last merge with its proof."""
    open_merging(page, "Result")
    page.locator("#merged-head .merge[data-verdict=proven]").wait_for(timeout=LONG)
    settle(page)


def see_through(page: Page) -> None:
    """The adapter of the last run by layer and module."""
    open_merging(page, "Adapter")
    page.click("#xray-look")
    page.locator("#xray-found .heat").wait_for(timeout=LONG)
    settle(page)


def ask_both(page: Page) -> None:
    """The starter, and what it has learnt, on one question."""
    open_tab(page, "Generate")
    page.locator("#generation-parts").get_by_role("tab", name="Side by side", exact=True).click()
    page.click("#side-1 input[role=listbox]")
    page.get_by_role("option").first.click()
    page.fill("#sides-prompt textarea", "What can you do?")
    taken_in(page)
    page.click("#sides-begin")
    page.locator("#sides-choice").wait_for(timeout=LONG)
    settle(page)


def offer(page: Page) -> None:
    """The Publish tab as it opens: what was made last, its files, and who signs."""
    open_tab(page, "Publish")
    page.locator("#publish-about .headline").wait_for(timeout=LONG)
    settle(page)


def settle(page: Page) -> None:
    """Wait until the session bar has looked again, at the top of the page."""
    page.wait_for_timeout(2500)
    page.evaluate("window.scrollTo(0, 0)")


if __name__ == "__main__":
    main()
