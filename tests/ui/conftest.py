"""The page as a person meets it: `python app.py` in a process of its own, and a real Chromium in front of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pico import save_pico

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub
    from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).parent.parent.parent
BROWSER_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
START_SECONDS = 120
"""How long the page may take to answer; a loaded machine with two cores is slow to import."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A page that fails is tried once more, and the summary says so: a busy machine may starve a browser."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@dataclass(frozen=True)
class Studio:
    """A studio that runs: where its page is, and which Hub it asks."""

    url: str
    hub: LoopbackHub


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """One studio for all tests of the page, as the README starts it, with a Hub of this machine behind it."""
    from loopback_hub import LoopbackHub

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("studio") / "log.txt"
    with LoopbackHub() as hub, log.open("w") as output:
        env = {name: value for name, value in os.environ.items() if name not in ("SPACE_ID", "HF_TOKEN")}
        env |= {
            "STUDIO_PORT": str(port),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path_factory.mktemp("hf_home")),
            "STUDIO_WORKSPACE": str(tmp_path_factory.mktemp("workspace")),
        }
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=output, stderr=output)
        try:
            url = f"http://127.0.0.1:{port}/"
            _wait_for(url, process, log)
            yield Studio(url, hub)
        finally:
            process.terminate()
            process.wait(20)
    # Whatever a handler did not expect is logged with its traceback; a test that caused one has failed unseen.
    assert "Traceback" not in log.read_text(), log.read_text()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    raise AssertionError(f"The page did not open.\n{log.read_text()}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Without one the tests are skipped, or fail where STUDIO_REQUIRE_BROWSER is set."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        why = "no Chromium on this machine; install Debian's package chromium"
        pytest.fail(why) if os.environ.get("STUDIO_REQUIRE_BROWSER") else pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def windows(browser: Browser) -> Iterator[BrowserContext]:
    """All windows of one browser share what it keeps: each would compile the page's scripts anew."""
    with browser.new_context(accept_downloads=True) as context:
        yield context


@pytest.fixture
def open_page(
    request: pytest.FixtureRequest, studio: Studio, browser: Browser, windows: BrowserContext
) -> Iterator[Any]:
    """Open a window on the page; afterwards no window may have asked another host or logged an error."""
    pages, complaints = [], []

    def open_page(*, width: int = 1440, height: int = 900, dark: bool = False, query: str = "") -> Page:
        # A browser draws one page of a window: a second one gets its own.
        page = browser.new_page(accept_downloads=True) if pages else windows.new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_default_timeout(120_000)  # a machine may be slow or busy
        page.on("request", lambda request: complaints.append(request.url) if _is_foreign(request.url) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"{studio.url}{query}")
        page.locator("#session-bar .session").wait_for()
        # With the bar comes the name of the model that is in memory, a moment later: what is typed before is lost.
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 200)))")
        return page

    open_page.complaints = complaints  # type: ignore[attr-defined]
    yield open_page
    if folder := os.environ.get("STUDIO_TEST_SCREENSHOTS"):
        for number, page in enumerate(pages):
            page.screenshot(path=f"{folder}/{request.node.name[:60]}-{number}.png", full_page=True)
    for page in pages:
        page.close()
    assert complaints == []


def _is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


@pytest.fixture
def page(open_page: Any) -> Page:
    """One window, as wide as a laptop."""
    return open_page()


@pytest.fixture(scope="module")
def nothing_loaded(studio: Studio, windows: BrowserContext) -> None:
    """No model is in memory: the page opens on the one that is, and otherwise on the starter."""
    page = windows.new_page()
    page.goto(studio.url)
    page.locator("#session-bar .session").wait_for()
    page.click("#unload")
    page.locator("#model-note", has_text="Unloaded").wait_for(timeout=240_000)
    page.close()


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends by itself: its end-of-turn token is suppressed.

    Slow enough to be seen at it, and its context is long.
    """
    return _endless(save_pico(tmp_path_factory.mktemp("models") / "talker", context=8192, num_hidden_layers=8))


def _endless(folder: Path) -> Path:
    """Take from a model the token that ends its turn."""
    config = folder / "generation_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"suppress_tokens": [content["eos_token_id"]]}))
    return folder


@pytest.fixture(scope="session")
def slow_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model large enough that a prompt of some thousand tokens keeps it busy for seconds; it never ends by itself."""
    shape = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8}
    folder = tmp_path_factory.mktemp("models") / "slow_reader"
    return _endless(save_pico(folder, context=8192, num_key_value_heads=8, **shape))


@pytest.fixture(scope="session")
def without_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was not made for conversations."""
    return save_pico(tmp_path_factory.mktemp("models") / "base_model", chat_template=None)
