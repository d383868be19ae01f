"""Publishing in a real browser: from what a run has learnt to a repository that was read back, by the mouse alone."""

from __future__ import annotations

import time
from typing import Any

import pytest
from loopback_hub.samples import ALICE, READER
from page_steps import open_tab, taken_in, weak_texts

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("nothing_loaded")]

HANG = 240_000
"""Milliseconds after which a test gives up on a worker; a loaded machine takes a minute to import PyTorch."""


@pytest.fixture(scope="module")
def learnt(studio: Any) -> str:
    """A run of the studio that has made an adapter for the starter."""
    from gradio_client import Client

    client = Client(studio.url, verbose=False)
    id_ = client.predict(
        "starter", "persona", "most_steps=2&batch_tokens=512", "", "Pirate of alice", api_name="/train"
    )
    while (state := client.predict(id_, api_name="/runs")[0]["state"]) != "finished":
        assert state in ("new", "queued", "preparing", "running"), state
        time.sleep(0.5)
    return str(id_)


def sign_in(page: Any, token: str, says: str) -> None:
    page.fill("#publish-token input", token)
    taken_in(page)
    page.locator("#publish-who", has_text=says).wait_for(timeout=HANG)


@pytest.mark.usefixtures("learnt")
def test_what_a_run_has_learnt_is_on_the_hub_with_its_card(open_page: Any, studio: Any) -> None:
    page = open_page()
    open_tab(page, "Fine-tune")
    page.locator("#training-parts").get_by_role("tab", name="Run", exact=True).click()
    page.click("#result-publish", timeout=HANG)
    page.locator("#publish-about", has_text="Adapter").wait_for(timeout=HANG)
    page.locator("#publish-who", has_text="Nobody is signed in").wait_for()
    sign_in(page, READER, "may read alone")
    page.click("#publish-upload")
    page.locator("#publish-note .problem", has_text="may read and not write").wait_for(timeout=HANG)
    sign_in(page, ALICE, "may read and write: alice")
    page.locator("#publish-about", has_text="apache-2.0").wait_for(timeout=HANG)
    page.click("#publish-card-fold > button")
    page.locator("#publish-preview", has_text="How it was made").wait_for()
    assert "Pirate of alice" in page.inner_text("#publish-preview")
    assert weak_texts(page) == []
    page.fill("#publish-repo input, #publish-repo textarea", "alice/pirate")
    taken_in(page)
    page.locator("#publish-note .note").wait_for(state="hidden", timeout=HANG)
    page.click("#publish-upload")
    page.locator("#publish-progress [data-state=finished]").wait_for(timeout=HANG)
    assert "Only you see it" in page.inner_text("#publish-progress")
    page.locator("#publish-list td", has_text="alice/pirate").wait_for()
    repo = studio.hub.repos["alice/pirate"]
    assert repo.private
    assert {"adapter_model.safetensors", "README.md", "loss.svg"} <= repo.commits[repo.refs["main"]].keys()
    other = open_page(width=390, height=844, dark=True)  # another window is told by whoever signs in there
    open_tab(other, "Publish")
    sign_in(other, ALICE, "alice")
    other.locator("#publish-list td", has_text="alice/pirate").wait_for()
    assert other.evaluate("document.documentElement.scrollWidth") <= 390
    assert weak_texts(other) == []
