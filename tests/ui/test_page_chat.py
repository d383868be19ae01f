"""Talking to a model in a real browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from page_steps import begin_load, finish, forget_note, load, say, set_advanced, turns

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def begin_to_say(page: Page, text: str) -> None:
    page.fill("#message textarea", text)
    page.click("#send")


def empty(page: Page) -> None:
    page.click("#new-chat")
    page.wait_for_function("document.querySelectorAll('#chat .message-content').length === 0")


def test_a_reply_is_written_piece_by_piece(page: Page, talker: Path) -> None:
    load(page, talker)
    set_advanced(page, max_new_tokens=8000)
    begin_to_say(page, "Hello")
    page.locator("#generation-note", has_text="Writing").wait_for()
    lengths = [len(turns(page)[-1])]
    while len(lengths) < 5 and page.locator("#stop").is_visible():
        page.wait_for_timeout(50)
        if (length := len(turns(page)[-1])) != lengths[-1]:
            lengths.append(length)
    assert lengths == sorted(lengths)
    assert len(lengths) == 5
    page.click("#stop")
    page.locator("#send").wait_for()


def test_stop_ends_the_reply_and_the_model_answers_the_next_message(page: Page, talker: Path) -> None:
    load(page, talker)
    set_advanced(page, max_new_tokens=8000)
    begin_to_say(page, "Hello")
    page.locator("#generation-note", has_text="Writing").wait_for()
    page.click("#stop")
    page.locator("#send").wait_for(timeout=240_000)
    page.locator("#session-bar", has_text="idle").wait_for(timeout=240_000)
    stopped_at = turns(page)[-1]
    page.wait_for_timeout(600)
    assert turns(page)[-1] == stopped_at
    set_advanced(page, max_new_tokens=10)
    say(page, "Again")
    assert len(turns(page)) == 4


def test_stop_works_while_the_model_reads_a_long_prompt(page: Page, slow_reader: Path) -> None:
    load(page, slow_reader, precision="fp32")
    begin_to_say(page, "word " * 1500)
    page.locator("#generation-note", has_text="reads the prompt").wait_for()
    page.click("#stop")
    page.locator("#session-bar", has_text="idle").wait_for(timeout=240_000)
    set_advanced(page, max_new_tokens=5)
    empty(page)
    assert "tokens/s" in say(page, "Short")


def test_the_same_seed_gives_the_same_reply_again(page: Page) -> None:
    load(page, "starter")
    set_advanced(page, seed=7, temperature=1.5)
    say(page, "Tell me a story about a fox.")
    first = turns(page)[-1]
    forget_note(page)
    page.click("#regenerate")
    finish(page)
    assert turns(page)[-1] == first
    assert len(turns(page)) == 2


def test_an_edited_message_is_answered_anew(page: Page) -> None:
    load(page, "starter")
    say(page, "Hello")
    say(page, "What is NF4?")
    page.locator("#chat .message-buttons-right [aria-label=Edit]").first.click()
    page.locator("#chat textarea").fill("What is a tokenizer?")
    forget_note(page)
    page.locator("#chat [aria-label=Submit]").click()
    finish(page)
    question, answer = turns(page)
    assert question == "What is a tokenizer?"
    assert "token" in answer


def test_a_reply_that_was_too_short_is_continued(page: Page) -> None:
    load(page, "starter")
    set_advanced(page, max_new_tokens=8, greedy=True)
    say(page, "Tell me a story about a fox.")
    assert "stopped at the longest reply" in page.inner_text("#generation-note")
    begun = turns(page)[-1]
    set_advanced(page, max_new_tokens=200)
    forget_note(page)
    page.click("#continue")
    finish(page)
    assert turns(page)[-1].startswith(begun)
    assert len(turns(page)[-1]) > len(begun)
    assert len(turns(page)) == 2


def test_undo_puts_the_message_back_into_the_box(page: Page) -> None:
    load(page, "starter")
    say(page, "Hello")
    page.locator("#chat [aria-label=Undo]").click()
    page.wait_for_function("document.querySelector('#message textarea').value === 'Hello'")
    assert turns(page) == []


def test_the_bin_and_new_chat_both_empty_the_chat_for_good(page: Page) -> None:
    load(page, "starter")
    say(page, "Hello")
    page.locator("#chat [aria-label=Clear]").click()
    page.wait_for_function("document.querySelectorAll('#chat .message-content').length === 0")
    say(page, "Thanks")
    assert turns(page)[0] == "Thanks"
    empty(page)


def test_a_reload_keeps_the_chat_and_another_window_does_not_see_it(open_page: Any) -> None:
    page = open_page()
    load(page, "starter")
    say(page, "What is NF4?")
    before = turns(page)
    page.reload()
    page.wait_for_function("document.querySelectorAll('#chat .message-content').length === 2")
    assert turns(page) == before
    other = open_page()
    other.locator("#send").wait_for()
    other.wait_for_timeout(500)
    assert turns(other) == []


def test_a_chat_is_exported_and_imported(page: Page, tmp_path: Path) -> None:
    load(page, "starter")
    page.fill("#system textarea", "Answer briefly.")
    say(page, "Hello")
    spoken = turns(page)
    page.click("#export")
    page.wait_for_timeout(300)
    with page.expect_download() as download:
        page.click("#export")
    file = tmp_path / "chat.json"
    download.value.save_as(file)
    content = json.loads(file.read_text())
    assert [message["role"] for message in content["messages"]] == ["system", "user", "assistant"]
    empty(page)
    page.fill("#system textarea", "")
    page.set_input_files("#import input[type=file], input[type=file]", file)
    page.locator("#generation-note", has_text="Imported 2 messages").wait_for()
    assert turns(page) == spoken
    assert page.input_value("#system textarea") == "Answer briefly."


def test_a_model_without_a_chat_template_continues_a_text(page: Page, without_template: Path) -> None:
    load(page, without_template)
    page.locator("#draft textarea").wait_for()
    assert "no chat template" in page.inner_text("#generation-note")
    page.fill("#draft textarea", "Once upon a time")
    set_advanced(page, max_new_tokens=12)
    forget_note(page)
    page.click("#send")
    finish(page)
    assert page.input_value("#draft textarea").startswith("Once upon a time")
    assert len(page.input_value("#draft textarea")) > len("Once upon a time")
    page.get_by_label("Chat", exact=True).check()
    say(page, "Hello")
    assert "has no chat template" in page.inner_text("#generation-note")
    assert "Completion" in page.inner_text("#generation-note .problem")


def test_an_empty_message_and_one_beyond_the_context_are_explained(page: Page, pico: Path) -> None:
    load(page, pico)
    page.click("#send")
    page.locator("#generation-note .problem", has_text="The message is empty").wait_for()
    assert "reads at most 512" in say(page, "x" * 600)
    empty(page)
    set_advanced(page, max_new_tokens=5)
    assert "tokens/s" in say(page, "x")


def test_a_full_context_is_said_in_words(page: Page, pico: Path) -> None:
    load(page, pico)
    assert "the context is full" in say(page, "x" * 480)


def test_reasoning_is_folded(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    reply = "<think>They greet me.</think>Hello!"
    file.write_text(json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": reply}]))
    page.set_input_files("#import input[type=file], input[type=file]", file)
    page.locator("#chat", has_text="Reasoning").wait_for()
    assert not page.get_by_text("They greet me.").is_visible()
    page.locator("#chat .thought-group .title").click()
    page.get_by_text("They greet me.").wait_for()
    assert page.get_by_text("Hello!").is_visible()


def test_whoever_waits_sees_for_what_and_both_get_their_own_reply(open_page: Any, talker: Path) -> None:
    first, second = open_page(), open_page()
    load(first, talker)
    set_advanced(first, max_new_tokens=8000)
    begin_to_say(first, "Mine")
    first.locator("#generation-note", has_text="Writing").wait_for()
    begin_load(second, "starter")
    second.locator("#model-note", has_text="somebody else is answering").wait_for()
    first.click("#stop")
    second.locator("#model-note", has_text="starter is ready").wait_for()
    say(second, "Hello")
    assert turns(first)[0] == "Mine"
    assert turns(second)[0] == "Hello"
    assert "Mine" not in second.inner_text("#chat")
