"""What a dataset declares of how to measure it: data that is held to its limits, and errors that name the field."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from evaluation_steps import SLOW

from studio.dataset import layout
from studio.errors import InputError
from studio.evaluation import Check, Kind, Question, checks, read_checks
from studio.settings import ASSETS
from studio.tokenizer import Message

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "assets" / "datasets"))

import make

VOICE = {"name": "voice", "kind": "marks", "pattern": "arr|ye"}
TOPIC = {"name": "on topic", "kind": "words", "questions": "q.jsonl"}
ANSWER = {"name": "right", "kind": "exact", "questions": "q.jsonl"}


def declare(folder, *entries, questions=()):
    (folder / "checks.json").write_text(json.dumps({"checks": list(entries)}))
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return folder


def refused(folder):
    with pytest.raises(InputError) as raised:
        read_checks(folder)
    assert raised.value.hint
    return raised.value.message


# The sets that are shipped


def test_the_persona_declares_its_voice_its_topics_and_the_facts_to_be_kept():
    voice, topic, facts = read_checks(ASSETS / "datasets" / "persona")
    test = make.persona()["test"]
    assert [check.name for check in (voice, topic, facts)] == ["voice", "on topic", "retained facts"]
    assert [check.tells for check in (voice, topic, facts)] == ["learnt", "learnt", "kept"]
    assert [question.messages[0].content for question in voice.questions] == [row.question for row in test]
    assert all(voice.passes(row.answer) for row in test)
    assert [question.words for question in topic.questions] == [row.topic for row in test if row.topic]
    assert all(topic.passes(row.answer, "", row.topic) for row in test if row.topic)
    assert len(facts.questions) == len(make.facts.read_facts())


def test_no_voice_is_heard_in_what_the_facts_say():
    voice, _, facts = read_checks(ASSETS / "datasets" / "persona")
    told = [(fact.answer, question) for fact, question in zip(make.facts.read_facts(), facts.questions, strict=True)]
    assert not any(voice.passes(answer) for answer, _ in told)
    assert sum(facts.passes(answer, "", question.words) for answer, question in told) == len(told)


def test_the_orders_declare_each_of_their_parts():
    found = read_checks(ASSETS / "datasets" / "orders")
    assert [check.name for check in found] == ["combinations", "new frames", "unseen words"]
    for check, part in zip(found, list(make.orders().values())[1:], strict=True):
        assert [(q.messages[0].content, q.answer) for q in check.questions] == [
            (row["prompt"], row["completion"]) for row in part
        ]
        assert all(check.passes(question.answer, question.answer) for question in check.questions)


@pytest.mark.parametrize("name", ["persona", "orders"])
def test_checks_are_no_rows_of_the_sets(name):
    files = [file for split in layout(ASSETS / "datasets" / name).splits for file in split.files]
    assert files
    assert not [file for file in files if "check" in file]


def test_checks_are_no_rows_of_a_dataset_whose_files_are_called_otherwise(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "q.jsonl").write_text('{"prompt": "a"}\n')
    declare(tmp_path, VOICE)
    (tmp_path / "q.jsonl").unlink()
    assert [split.files for split in layout(tmp_path).splits] == [("rows.jsonl",)]


# What a person may write


def test_a_folder_without_checks_declares_none(tmp_path):
    assert read_checks(tmp_path) == ()


def test_fields_that_are_left_out_have_a_meaning(tmp_path):
    declare(tmp_path, VOICE, TOPIC, questions=[{"prompt": "Hi", "words": ["you"]}])
    asked = (Question((Message("user", "Hi"),), "", ("you",)),)
    assert read_checks(tmp_path) == (
        Check("voice", Kind.MARKS, None, "learnt", "arr|ye", 1, 1.0),
        Check("on topic", Kind.WORDS, asked),
    )


def test_a_question_may_be_a_conversation(tmp_path):
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"), ("user", "So?"), ("assistant", "Yes.")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    declare(tmp_path, ANSWER, questions=[row])
    (question,) = read_checks(tmp_path)[0].questions
    assert [message.content for message in question.messages] == ["Be brief.", "Hi", "Ho", "So?"]
    assert question.answer == "Yes."


def test_marks_are_counted_once_each_and_in_either_case():
    check = Check("voice", Kind.MARKS, pattern="arr|ye", least=2)
    assert check.passes("ARR, ye")
    assert not check.passes("Arr, arr, ARR")


def test_a_share_of_the_words_is_enough():
    check = Check("topic", Kind.WORDS, share=0.7)
    words = ("Abc", "def", "ghi", "jkl", "mno", "pqr", "stu", "vwx", "yz0", "123")
    assert check.passes("abc DEF ghi jkl mno pqr stu", "", words)
    assert not check.passes("abc def ghi jkl mno pqr", "", words)


def test_a_pattern_is_given_little_time():
    check = Check("slow", Kind.MARKS, pattern=SLOW)
    with pytest.raises(TimeoutError):
        check.passes("ab" * 500)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("voice", "check 1 is no object"),
        ({**VOICE, "kind": "code"}, "kind is 'code'"),
        ({**VOICE, "kind": ["marks"]}, r"kind is ['marks']"),
        ({**VOICE, "name": " "}, "name is ' '"),
        ({**VOICE, "name": "n" * 61}, "name is 'nnn"),
        ({"kind": "marks", "pattern": "a"}, "name is missing"),
        ({"name": "a", "kind": "marks"}, "pattern is missing"),
        ({**VOICE, "pattern": "(a"}, "pattern is no regular expression"),
        ({**VOICE, "pattern": "a" * 1001}, "pattern is 'aaa"),
        ({**VOICE, "pattern": "a*"}, "pattern is found in an empty reply"),
        ({**VOICE, "least": 0}, "least is 0"),
        ({**VOICE, "least": 1.5}, "least is 1.5"),
        ({**VOICE, "least": True}, "least is True"),
        ({**VOICE, "share": 0.5}, "no field 'share' for the kind marks"),
        ({**VOICE, "tells": "all"}, "tells is 'all'"),
        ({**VOICE, "run": "rm"}, "no field 'run'"),
        ({**TOPIC, "share": 1.1}, "share is 1.1"),
        ({"name": "a", "kind": "words"}, "questions is missing"),
        ({**TOPIC, "questions": "other.jsonl"}, "no such file"),
        ({**TOPIC, "questions": "../q.jsonl"}, "questions is '../q.jsonl'"),
        ({**TOPIC, "questions": "/etc/q.jsonl"}, "questions is '/etc/q.jsonl'"),
        ({**TOPIC, "questions": "C:\\q.jsonl"}, "questions is 'C:"),
        ({**TOPIC, "questions": "q.json"}, "questions is 'q.json'"),
    ],
)
def test_a_check_that_says_nonsense_is_refused_by_its_field(tmp_path, entry, said):
    assert said in refused(declare(tmp_path, entry, questions=[{"prompt": "Hi", "words": ["you"]}]))


@pytest.mark.parametrize(
    ("entry", "row", "said"),
    [
        (TOPIC, ["Hi"], "row 1 is no object"),
        (TOPIC, {"words": ["a"]}, "row 1: prompt is missing"),
        (TOPIC, {"prompt": "", "words": ["a"]}, "row 1: prompt is ''"),
        (TOPIC, {"prompt": "Hi"}, "row 1: words is []"),
        (TOPIC, {"prompt": "Hi", "words": "you"}, "row 1: words is 'you'"),
        (TOPIC, {"prompt": "Hi", "words": [""]}, "row 1: words is ['']"),
        (TOPIC, {"prompt": "Hi", "words": ["a"] * 201}, "row 1: words is ['a'"),
        (ANSWER, {"prompt": "Hi"}, "row 1: completion is ''"),
        (ANSWER, {"prompt": "Hi", "completion": 3}, "row 1: completion is 3"),
        (ANSWER, {"messages": [{"role": "user", "content": "Hi"}]}, "row 1: completion is ''"),
        (ANSWER, {"messages": [{"role": "nobody", "content": "Hi"}]}, "role 'nobody'"),
        (ANSWER, {"messages": [{"role": "assistant", "content": "Hi"}]}, "comes first"),
    ],
)
def test_a_question_that_says_nonsense_is_refused_by_its_row(tmp_path, entry, row, said):
    assert said in refused(declare(tmp_path, entry, questions=[row]))


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]", '{"checks": []}', '{"checks": {}}'])
def test_a_file_that_is_no_list_of_checks_is_refused(tmp_path, content):
    (tmp_path / "checks.json").write_text(content)
    assert refused(tmp_path).startswith("checks.json")


def test_a_file_outside_of_the_folder_is_not_read(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    declare(tmp_path, ANSWER, questions=[{"prompt": "Hi", "completion": "Ho"}])
    for name in ("../q.jsonl", str(tmp_path / "q.jsonl"), "inside/../../q.jsonl"):
        assert refused(declare(inside, {**ANSWER, "questions": name})) == f"checks.json: questions is {name!r}."


def test_two_checks_of_one_name_are_refused(tmp_path):
    assert "check 2: there is another one with the name 'voice'" in refused(declare(tmp_path, VOICE, VOICE))


def test_there_are_limits_to_what_is_read(tmp_path, monkeypatch):
    assert "too long a one" in refused(declare(tmp_path, *({**VOICE, "name": str(n)} for n in range(21))))
    declare(tmp_path, ANSWER, questions=[{"prompt": "Hi", "completion": "Ho"}] * 3)
    monkeypatch.setattr(checks, "MOST_QUESTIONS", 2)
    assert "q.jsonl has 3 questions" in refused(tmp_path)
    monkeypatch.setattr(checks, "MOST_BYTES", 20)
    assert re.search("checks.json has more than 20 bytes", refused(tmp_path))


def test_what_is_not_utf_8_is_refused(tmp_path):
    declare(tmp_path, ANSWER)
    (tmp_path / "q.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    assert "q.jsonl is not written in UTF-8" in refused(tmp_path)
