"""The conversation as a value."""

from __future__ import annotations

import json

import pytest

from studio.errors import InputError
from studio.tokenizer import Message
from studio.ui.chat import Conversation, drawn, edited, from_json, to_json

HELLO = Conversation((Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Bye")))
THOUGHTFUL = Conversation((Message("user", "Hi"), Message("assistant", "<think>\nPolite.\n</think>Hello!")))


def test_a_saved_conversation_reads_back_as_it_was() -> None:
    text = to_json(HELLO, system="Be brief.", model="starter")
    assert from_json(text) == (HELLO, "Be brief.")
    assert json.loads(text)["model"] == "starter"


def test_a_bare_list_of_messages_is_read_too() -> None:
    assert from_json('[{"role": "user", "content": "Hi"}]') == (Conversation((Message("user", "Hi"),)), "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no list of messages"),
        ('"text"', "no list of messages"),
        ('{"messages": {"role": "user"}}', "no list of messages"),
        ('[{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]', "Message 2"),
        ('[{"role": "user", "content": 5}]', "Message 1"),
        ("[5]", "Message 1"),
        ('[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]', "system prompt"),
        ("x" * 5_000_001, "more than"),
    ],
)
def test_a_file_that_is_no_conversation_says_why(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_json(text)


def test_asking_again_drops_the_replies_behind_the_last_question() -> None:
    assert HELLO.asked_again() == HELLO
    assert HELLO.until(2).asked_again() == HELLO.until(1)
    with pytest.raises(InputError, match="no message"):
        Conversation().asked_again()


def test_the_system_prompt_comes_first_and_blanks_are_none() -> None:
    assert HELLO.with_system(" Be brief. ")[0] == Message("system", "Be brief.")
    assert HELLO.with_system("  ") == HELLO.messages


def test_reasoning_is_drawn_as_a_folded_part_of_its_own() -> None:
    question, thought, answer = drawn(THOUGHTFUL)
    assert question["metadata"] is None
    assert thought["metadata"] == {"title": "Reasoning", "status": "done"}
    assert [part["content"][0]["text"] for part in (thought, answer)] == ["Polite.", "Hello!"]


@pytest.mark.parametrize("content", ["<think>\nHm", "\n<think>Hm"])
def test_reasoning_that_goes_on_is_drawn_as_pending(content: str) -> None:
    (part,) = drawn(Conversation((Message("assistant", content),)))
    assert part["metadata"]["status"] == "pending"
    assert part["content"][0]["text"] == "Hm"


def test_reasoning_whose_opening_tag_was_in_the_prompt_is_found_by_its_end() -> None:
    thought, answer = drawn(Conversation((Message("assistant", "Polite.\n</think>\n\nHello!"),)))
    assert thought["content"][0]["text"] == "Polite."
    assert answer["content"][0]["text"] == "Hello!"


def test_a_person_who_writes_the_tag_is_not_folded() -> None:
    (part,) = drawn(Conversation((Message("user", "<think>a</think>b"),)))
    assert part["content"][0]["text"] == "<think>a</think>b"


def test_leading_spaces_of_a_reply_are_kept() -> None:
    assert drawn(Conversation((Message("assistant", "  indented"),)))[0]["content"][0]["text"] == "  indented"


def test_an_edited_question_drops_what_answered_the_old_one() -> None:
    chat, role = edited(HELLO, 0, "Good day")
    assert role == "user"
    assert chat == Conversation((Message("user", "Good day"),))


def test_an_edited_reply_keeps_the_turns_behind_it() -> None:
    chat, role = edited(HELLO, 1, "Howdy!")
    assert role == "assistant"
    assert [message.content for message in chat.messages] == ["Hi", "Howdy!", "Bye"]


@pytest.mark.parametrize(("index", "expected"), [(1, ["Rude.", "Hello!"]), (2, ["Polite.", "Rude."])])
def test_reasoning_and_answer_are_edited_apart(index: int, expected: list[str]) -> None:
    chat, _ = edited(THOUGHTFUL, index, "Rude.")
    assert [part["content"][0]["text"] for part in drawn(chat)[1:]] == expected
