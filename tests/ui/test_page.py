"""The page as a whole, in a real browser: it opens, fits, can be read, and keeps to itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from page_steps import say, turns, unreadable

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_the_starter_answers_at_one_click_and_stops_by_itself(page: Page) -> None:
    page.get_by_text("What is the rank of a LoRA?").click()
    page.locator("#generation-note .facts").wait_for(timeout=240_000)
    question, answer = turns(page)
    assert question == "What is the rank of a LoRA?"
    assert "rank" in answer
    facts = page.inner_text("#generation-note")
    assert "ended by itself" in facts
    assert re.search(r"\d+\ntokens/s|\d+ tokens/s", facts)


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_every_text_can_be_read_and_nothing_is_wider_than_the_window(open_page: Any, width: int, dark: bool) -> None:
    page = open_page(width=width, height=900, dark=dark)
    assert page.evaluate("document.body.classList.contains('dark')") is dark
    say(page, "What is NF4?")
    page.click("#sampling .label-wrap")
    page.fill("#model input", "not a name")
    page.keyboard.press("Tab")
    page.click("#load")
    page.locator("#model-note .problem").wait_for()
    assert unreadable(page) == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page: Page) -> None:
    reached, unseen = [], []
    page.focus("#theme-switch")
    for _ in range(40):
        page.keyboard.press("Tab")
        here, outlined = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
               return [e === document.body ? '' : (e.closest('[id]:not([id^=component])')?.id ?? e.className),
                       s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2]; }"""
        )
        if not here:  # past the last element
            break
        reached.append(here)
        unseen += [] if outlined else [here]
    assert unseen == []
    wanted = [
        "model",
        "precision",
        "load",
        "unload",
        "mode",
        "chat",
        "message",
        "send",
        "regenerate",
        "new-chat",
        "system",
    ]
    assert [name for name in wanted if name not in reached] == []


def test_the_look_can_be_switched_by_hand(page: Page) -> None:
    before = page.evaluate("document.body.classList.contains('dark')")
    page.click("#theme-switch")
    assert page.evaluate("document.body.classList.contains('dark')") is not before


def test_only_finished_tabs_are_there(page: Page) -> None:
    assert page.locator("#tabs > .tab-wrapper").get_by_role("tab").all_inner_texts() == [
        "Tokenizer",
        "Memory",
        "Load",
        "Fine-tune",
        "Merge",
        "Generate",
        "Publish",
    ]


def test_what_a_model_or_a_person_writes_runs_nothing_and_fetches_nothing(open_page: Any, tmp_path: Any) -> None:
    import json

    page = open_page()
    own = "document.title='owned'"
    hostile = f"<img src='data:,' onerror=\"{own}\"><script>{own}</script> ![x](http://example.invalid/x.png)"
    file = tmp_path / "chat.json"
    roles = ("user", "assistant")
    file.write_text(json.dumps({"messages": [{"role": role, "content": hostile} for role in roles]}))
    served = []
    page.on("response", lambda response: served.append(response.url))
    page.set_input_files("#import input[type=file], input[type=file]", file)
    page.locator("#generation-note", has_text="Imported 2 messages").wait_for()
    page.wait_for_timeout(500)
    assert page.title() == "Transformers Studio"
    assert not [url for url in served if "example.invalid" in url]
    # The browser reports that it refused the picture's address: that is the policy at work.
    open_page.complaints[:] = [text for text in open_page.complaints if "example.invalid" not in text]
