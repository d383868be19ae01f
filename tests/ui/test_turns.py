"""A conversation as rows: adding, removing, and what the rows mean."""

from __future__ import annotations

from typing import Any

import pytest

from studio.errors import InputError
from studio.tokenizer import read_tools
from studio.ui import turns
from studio.ui.template_panel import EXAMPLE, TOOLS, WITH_A_CALL

CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'


def rows(*said: turns.Turn) -> dict[str, Any]:
    values: dict[str, Any] = {f"role_{number}": "user" for number in range(turns.ROWS)}
    values |= {f"text_{number}": "left over" for number in range(turns.ROWS)}
    for number, (role, text) in enumerate(said):
        values |= {f"role_{number}": role, f"text_{number}": text}
    return values | {"count": len(said)}


def kept(update: dict[str, Any]) -> list[turns.Turn]:
    return turns.written(update, update["count"])


def test_a_turn_more_is_of_whoever_is_next_and_hidden_rows_do_not_count() -> None:
    update = turns.added(**rows(("user", "Hi")))
    assert kept(update) == [("user", "Hi"), ("assistant", "")]
    assert update["row_1"]["visible"]
    assert not update["row_2"]["visible"]
    assert kept(turns.added(**rows())) == [("user", "")]


def test_there_are_ten_rows_and_no_more() -> None:
    full = [("user", str(number)) for number in range(turns.ROWS)]
    update = turns.added(**rows(*full))
    assert kept(update) == full
    assert not update["add"]["interactive"]


def test_a_turn_that_is_taken_out_closes_the_gap() -> None:
    dropped = turns._dropping(1)
    update = dropped(**rows(("user", "a"), ("assistant", "b"), ("user", "c")))
    assert kept(update) == [("user", "a"), ("user", "c")]


def test_a_call_in_json_is_a_call_only_of_a_tool_that_there_is() -> None:
    tools = read_tools(TOOLS)
    asked, answer = ("assistant", CALL), ("tool", "dry")
    called, replied = turns.as_messages([asked, answer], tools)
    assert called.content == ""
    assert called.tool_calls[0].arguments == {"city": "Paris"}
    assert (replied.name, replied.tool_call_id) == ("get_weather", called.tool_calls[0].id)
    assert turns.as_messages([asked], ())[0].content == CALL
    for text in (CALL.replace("get_weather", "other"), CALL[:-1], '{"name": ["get_weather"]}', "{" * 100_000):
        assert turns.as_messages([("assistant", text)], tools)[0].content == text
    assert turns.as_messages([("user", CALL)], tools)[0].content == CALL


def test_a_call_whose_arguments_are_no_object_says_so() -> None:
    with pytest.raises(InputError, match="arguments"):
        turns.as_messages([("assistant", '{"name": "get_weather", "arguments": [1]}')], read_tools(TOOLS))


def test_the_examples_are_conversations() -> None:
    assert [message.role for message in turns.as_messages(EXAMPLE, ())] == [role for role, _ in EXAMPLE]
    assert turns.as_messages(WITH_A_CALL, read_tools(TOOLS))[1].tool_calls
