"""What rows are meant as, and each as a conversation, a completion or a text; what is wrong names row and column."""

from __future__ import annotations

import json

import pytest
from dataset_steps import result, rows_of

from studio import dataset
from studio.dataset import ColumnMapping, Completion, Conversation, Format, Passage, as_conversation
from studio.errors import InputError
from studio.models import DatasetRef
from studio.tokenizer import Message, ToolCall, ToolDefinition

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
TURNS = (Message("user", "Hi"), Message("assistant", "Ho"))
SYSTEM = Message("system", "Be kind.")
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
DEFINED = tuple(ToolDefinition(tool) for tool in TOOLS)
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
CALLED = (
    Message("user", "Rain?"),
    Message("assistant", "", (ToolCall("weather", {"city": "Bern"}, "1"),)),
    Message("tool", "no", name="weather", tool_call_id="1"),
    Message("assistant", "No."),
)

ANSWER = Message("tool", "no")

ROWS = {
    "a call and its answer": (
        {
            "messages": [
                {"role": "user", "content": "Rain?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "no", "name": "weather", "tool_call_id": "1"},
                {"role": "assistant", "content": "No."},
            ]
        },
        Format.MESSAGES,
        Conversation(CALLED),
    ),
    "a call and its answer in ShareGPT": (
        {
            "conversations": [
                {"from": "human", "value": "Rain?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
                {"from": "observation", "value": "no"},
                {"from": "gpt", "value": "No."},
            ]
        },
        Format.SHAREGPT,
        Conversation(
            (CALLED[0], Message("assistant", "", (ToolCall("weather", {"city": "Bern"}),)), ANSWER, CALLED[3])
        ),
    ),
    "messages": ({"messages": CHAT}, Format.MESSAGES, Conversation(TURNS)),
    "messages as text": ({"messages": json.dumps(CHAT)}, Format.MESSAGES, Conversation(TURNS)),
    "roles in a column of another name": ({"dialogue": CHAT, "id": 1}, Format.MESSAGES, Conversation(TURNS)),
    "roles in the column of ShareGPT": ({"conversations": CHAT}, Format.MESSAGES, Conversation(TURNS)),
    "content in pieces": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]},
        Format.MESSAGES,
        Conversation(TURNS[:1]),
    ),
    "tools": ({"messages": CHAT, "tools": TOOLS}, Format.MESSAGES, Conversation(TURNS, DEFINED)),
    "tools as text": ({"messages": CHAT, "tools": json.dumps(TOOLS)}, Format.MESSAGES, Conversation(TURNS, DEFINED)),
    "each tool as text": (
        {"messages": CHAT, "tools": [json.dumps(tool) for tool in TOOLS]},
        Format.MESSAGES,
        Conversation(TURNS, DEFINED),
    ),
    "ShareGPT": ({"conversations": SHARED}, Format.SHAREGPT, Conversation(TURNS)),
    "ShareGPT with a system column": (
        {"system": "Be kind.", "conversations": SHARED},
        Format.SHAREGPT,
        Conversation((SYSTEM, *TURNS)),
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        Format.ALPACA,
        Conversation((Message("user", "Add.\n\n1, 2"), Message("assistant", "3"))),
    ),
    "Alpaca without an input": (
        {"instruction": "Add 1, 2.", "input": "", "output": "3"},
        Format.ALPACA,
        Conversation((Message("user", "Add 1, 2."), Message("assistant", "3"))),
    ),
    "Dolly": (
        {"instruction": "Add.", "context": "1, 2", "response": "3", "category": "maths"},
        Format.ALPACA,
        Conversation((Message("user", "Add.\n\n1, 2"), Message("assistant", "3"))),
    ),
    "prompt and completion": ({"prompt": "1+", "completion": "2"}, Format.PROMPT_COMPLETION, Completion("1+", "2")),
    "turns as prompt and completion": (
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
        Format.PROMPT_COMPLETION,
        Completion(TURNS[:1], TURNS[1:]),
    ),
    "question and answer": ({"Question": "1+1", "Answer": "2"}, Format.PROMPT_COMPLETION, Completion("1+1", "2")),
    "preference over turns": (
        {"chosen": CHAT, "rejected": CHAT, "score": 1.5},
        Format.PREFERENCE,
        Conversation(TURNS),
    ),
    "preference with a prompt": (
        {"prompt": "Hi", "chosen": "Ho", "rejected": "No"},
        Format.PREFERENCE,
        Completion("Hi", "Ho"),
    ),
    "preference with a prompt and turns": (
        {"prompt": "Hi", "chosen": CHAT[1:], "rejected": CHAT[1:]},
        Format.PREFERENCE,
        Conversation(TURNS),
    ),
    "text": ({"text": "Once.", "source": "web"}, Format.TEXT, Passage("Once.")),
    "the only text there is": ({"poem": "Once.", "year": 1999}, Format.TEXT, Passage("Once.")),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_format_is_recognised_from_the_rows_and_read(tmp_path, case):
    row, kind, expected = ROWS[case]
    rows = rows_of(tmp_path, [row] * 3)
    found = dataset.recognise(rows)
    assert found.mapping.format is kind
    assert 0 < found.confidence <= 1
    assert "3 of 3 rows" in found.why
    found.mapping.check(rows.columns)
    assert as_conversation(rows.open()[0], found.mapping) == expected


@pytest.mark.parametrize(("name", "kind"), [("persona", Format.MESSAGES), ("orders", Format.PROMPT_COMPLETION)])
def test_the_bundled_sets_are_recognised_for_certain(tmp_path, name, kind):
    place = dataset.place_of(DatasetRef.parse(name))
    files = dataset.layout(place).split().files
    found = dataset.recognise(result(dataset.read(place, cache=tmp_path, files=files)))
    assert (found.mapping.format, found.confidence) == (kind, 1.0)


def test_rows_that_do_not_read_cost_confidence(tmp_path):
    found = dataset.recognise(rows_of(tmp_path, [{"messages": CHAT}] * 3 + [{"messages": None}]))
    assert found.confidence == 0.75
    assert "3 of 4 rows" in found.why


def test_rows_from_all_over_a_long_dataset_are_looked_at(tmp_path):
    rows = rows_of(tmp_path, [{"messages": CHAT}] * 500 + [{"messages": []}] * 500)
    assert dataset.recognise(rows).confidence == 0.5


def test_what_is_not_recognised_is_said_with_its_columns(tmp_path):
    with pytest.raises(InputError, match="not clear: the columns are a, b") as caught:
        dataset.recognise(rows_of(tmp_path, [{"a": 1, "b": 2}]))
    assert "Say which column" in caught.value.hint


# Mappings by hand


def test_columns_can_be_named_by_hand():
    mapping = ColumnMapping.of(Format.ALPACA, instruction="frage", output="antwort")
    expected = Conversation((Message("user", "Q"), Message("assistant", "A")))
    assert as_conversation({"frage": "Q", "antwort": "A", "input": "unused"}, mapping) == expected
    assert mapping.used == ("frage", "antwort")


def test_a_mapping_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="alpaca needs a column for 'output'"):
        ColumnMapping.of(Format.ALPACA, instruction="a")
    with pytest.raises(InputError, match="text has no part called 'prompt'"):
        ColumnMapping.of(Format.TEXT, text="a", prompt="b")
    with pytest.raises(InputError, match="no column 'antwort' for 'completion'") as caught:
        ColumnMapping.of(Format.PROMPT_COMPLETION, prompt="frage", completion="antwort").check(["frage", "antworten"])
    assert "Did you mean 'antworten'" in caught.value.hint


# What is wrong with a row


def turns(*said):
    return [{"role": role, "content": content} for role, content in said]


MESSAGES = ColumnMapping.of(Format.MESSAGES, messages="messages")
PAIR = ColumnMapping.of(Format.PROMPT_COMPLETION, prompt="prompt", completion="completion")
BAD = {
    "no column": (MESSAGES, {"text": "x"}, "row 7 has no column 'messages'"),
    "null": (MESSAGES, {"messages": None}, "row 7, column 'messages' is null"),
    "no list": (MESSAGES, {"messages": "hello"}, "column 'messages' is text and no list of turns: 'hello'"),
    "no turns": (MESSAGES, {"messages": []}, "column 'messages' is a conversation without turns"),
    "a turn of text": (MESSAGES, {"messages": ["hi"]}, "'messages', turn 1 is text and no object: 'hi'"),
    "nobody speaks": (MESSAGES, {"messages": [{"content": "x"}]}, "turn 1 does not say who speaks"),
    "an unknown role": (MESSAGES, {"messages": turns(("pirate", "x"))}, "turn 1 has the role 'pirate'"),
    "null content": (MESSAGES, {"messages": turns(("user", None))}, "turn 1: content is null"),
    "content that is a number": (MESSAGES, {"messages": turns(("user", 5))}, "turn 1: content holds a number.*'5'"),
    "a picture": (
        MESSAGES,
        {"messages": turns(("user", [{"type": "image", "url": "x"}]))},
        "turn 1: content holds image, and the studio reads text alone",
    ),
    "the assistant first": (
        MESSAGES,
        {"messages": turns(("assistant", "x"))},
        "turn 1 is of the assistant and comes f",
    ),
    "two of the user": (
        MESSAGES,
        {"messages": turns(("user", "x"), ("user", "y"))},
        "turn 2 is of the user and follows one of the user",
    ),
    "a late system prompt": (
        MESSAGES,
        {"messages": turns(("user", "x"), ("system", "y"))},
        "turn 2 is of the system and follows one of the user",
    ),
    "nothing to learn": (MESSAGES, {"messages": turns(("user", "x"), ("assistant", " "))}, "turn 2 is empty"),
    "a completion that is null": (PAIR, {"prompt": "x", "completion": None}, "column 'completion' is null or empty"),
    "a completion of spaces": (PAIR, {"prompt": "x", "completion": " "}, "column 'completion' is empty: there is noth"),
    "a number": (PAIR, {"prompt": "x", "completion": 7}, "column 'completion' is a number and no text: '7'"),
    "true": (PAIR, {"prompt": True, "completion": "x"}, "column 'prompt' is true and no text"),
    "half a conversation": (PAIR, {"prompt": CHAT[:1], "completion": "x"}, "column 'completion' is text and no list"),
    "a completion of the user": (
        PAIR,
        {"prompt": CHAT[:1], "completion": CHAT[:1]},
        "'completion', turn 2 is of the user",
    ),
    "tools that are none": (
        ColumnMapping.of(Format.MESSAGES, messages="messages", tools="tools"),
        {"messages": CHAT, "tools": "weather"},
        "column 'tools' is no list of functions: 'weather'",
    ),
    "a call that names nothing": (
        MESSAGES,
        {"messages": [*CHAT[:1], {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        "'messages', turn 2, call 1 names no function",
    ),
    "a call without an answer": (
        MESSAGES,
        {"messages": [*CHAT[:1], {"role": "assistant", "content": None, "tool_calls": [CALL]}, *CHAT[:1]]},
        "turn 3 is of the user and follows a call",
    ),
    "an answer to nothing": (
        MESSAGES,
        {"messages": [*CHAT, {"role": "tool", "content": "no"}]},
        "turn 3 is of the tool and follows one of the assistant",
    ),
    "nothing rejected": (
        ColumnMapping.of(Format.PREFERENCE, chosen="chosen", rejected="rejected"),
        {"chosen": "x", "rejected": None},
        "column 'rejected' is null",
    ),
    "an empty text": (ColumnMapping.of(Format.TEXT, text="text"), {"text": ""}, "column 'text' is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_row_names_the_row_and_the_column(case):
    mapping, row, words = BAD[case]
    with pytest.raises(InputError, match=words) as caught:
        as_conversation(row, mapping, place="f.jsonl, row 7")
    assert caught.value.message.startswith("f.jsonl, row 7")
    assert caught.value.hint
