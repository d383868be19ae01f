"""The rows that a run names, made into examples; rows that were pasted; and what is wrong with files, said in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from dataset_steps import all_of, result
from loopback_hub.samples import BOB

from studio import jobs
from studio.dataset import ColumnMapping, Format, Preparation
from studio.errors import AccessDenied, InputError, NotFound, StudioError, Unsupported
from studio.loading import LoadPlan
from studio.models import STARTER, DatasetRef
from studio.training import DataSource, TrainingRun

PLAN = LoadPlan(STARTER)
GOOD = '{"prompt": "a", "completion": "b"}\n'


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "run" / "data").mkdir(parents=True)
    return tmp_path / "run"


def put(folder, name, content):
    (folder / "data" / name).write_bytes(content.encode() if isinstance(content, str) else content)


def prepared(run, folder, token=False):
    return result(jobs.prepare(run, folder, token=token))


def one(name, **more):
    return TrainingRun(PLAN, (DataSource(name),), **more)


def previewed(source, **more):
    source = DatasetRef.parse(source) if isinstance(source, str) else source
    return result(jobs.preview(source, STARTER, more.pop("preparation", Preparation()), token=False, **more))


# By name


def test_a_shipped_set_and_a_file_of_the_run_are_mixed_with_their_weights(run_folder):
    put(run_folder, "mine.jsonl", GOOD.replace("a", "mine") * 3)
    run = TrainingRun(PLAN, (DataSource("persona"), DataSource("mine.jsonl", weight=2.0)), DataSource("persona:test"))
    found = prepared(run, run_folder)
    assert found.learn.file.parent == run_folder / "examples"
    assert (found.rows, found.held_out.count) == (762 + 3 + 115, 115)
    places = found.learn.open()["row"][:]
    assert sum(place >= 762 for place in places) == 6
    assert prepared(run, run_folder) == found


def test_a_limit_holds_for_all_sources_together(run_folder):
    run = TrainingRun(PLAN, (DataSource("persona"), DataSource("orders")), preparation=Preparation(most_rows=50))
    assert prepared(run, run_folder).rows == 50


def test_a_mapping_of_the_run_counts(run_folder):
    put(run_folder, "mine.jsonl", '{"x": "a b", "y": "b"}\n')
    with pytest.raises(InputError, match="not clear: the columns are x, y"):
        prepared(one("mine.jsonl"), run_folder)
    source = DataSource("mine.jsonl", ColumnMapping.of(Format.TEXT, text="x"))
    assert prepared(TrainingRun(PLAN, (source,)), run_folder).learn.count == 1


def test_no_name_leads_out_of_the_folder(run_folder, monkeypatch):
    (run_folder / "secret.jsonl").write_text(GOOD)
    monkeypatch.setenv("SPACE_ID", "alice/studio")
    for name in ("../secret.jsonl", "./../secret.jsonl", str(run_folder / "secret.jsonl")):
        with pytest.raises(StudioError):
            prepared(one(name), run_folder)


# What is wrong with a file


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("empty.jsonl", "", InputError, r"empty\.jsonl is empty"),
        ("bad.jsonl", GOOD * 6 + '{"prompt": "a",}\n', InputError, r"bad\.jsonl, line 7 \(row 7\) is not JSON"),
        ("packed.jsonl", b"PK\x03\x04" + bytes(50), InputError, r"packed\.jsonl is a zip archive"),
        ("binary.jsonl", b"\x01\x02\0\x03" * 50, InputError, r"binary\.jsonl is binary"),
        ("pairs.jsonl", '{"chosen": "a", "rejected": "b"}\n', Unsupported, r"pairs\.jsonl holds pairs of answers"),
        (
            "null.jsonl",
            '{"messages": [{"role": "user", "content": null}]}',
            InputError,
            r"null.*row 1, column 'messages'",
        ),
        ("mixed.jsonl", GOOD + '{"text": "c"}\n' * 9, InputError, None),
        ("long.jsonl", '{"prompt": "%s", "completion": "b"}\n' % ("a" * 9000), InputError, r"long\.jsonl, row 1"),
    ],
)
def test_errors_name_file_row_and_column(run_folder, name, content, error, words):
    put(run_folder, name, content)
    if words is None:
        lots = prepared(one(name), run_folder).dropped
        assert [(lot.rows, lot.places[0]) for lot in lots] == [(1, f"{name}, row 1")]
        return
    with pytest.raises(error, match=words) as caught:
        prepared(one(name), run_folder)
    assert caught.value.hint


def test_a_column_that_is_named_and_not_there_is_told_with_those_that_are(run_folder):
    put(run_folder, "mine.jsonl", GOOD)
    source = DataSource("mine.jsonl", ColumnMapping.of(Format.TEXT, text="texts"))
    with pytest.raises(InputError, match="no column 'texts'") as caught:
        prepared(TrainingRun(PLAN, (source,)), run_folder)
    assert "prompt, completion" in caught.value.hint


def test_one_row_is_enough(run_folder):
    put(run_folder, "one.csv", "prompt,completion\na,b\n")
    found = prepared(one("one.csv"), run_folder)
    assert (found.learn.count, found.held_out) == (1, None)


def test_a_file_that_is_nowhere_is_not_found(run_folder):
    with pytest.raises(NotFound, match="nothing-here"):
        prepared(one("./nothing-here.jsonl"), run_folder)


def test_a_gated_dataset_is_for_those_who_may(hub_server, run_folder):
    hub_server.add("alice/rows", {"train.jsonl": GOOD}, kind="datasets", gated=True)
    with pytest.raises(AccessDenied, match="alice/rows"):
        prepared(one("alice/rows"), run_folder, token=BOB)


def test_a_limit_fetches_no_more_files_of_the_hub_than_it_takes(hub_server, run_folder):
    shards = {f"data/train-{n:05}-of-00005.jsonl": GOOD.replace("a", f"a{n}") * 4 for n in range(5)}
    hub_server.add("alice/rows", shards, kind="datasets")
    limited = one("alice/rows", preparation=Preparation(most_rows=7, held_out=0.0))
    assert prepared(limited, run_folder).rows == 7
    fetched = {n for n in range(5) if hub_server.requests("GET", rf"train-0000{n}-of")}
    assert fetched == {0, 1}
    assert prepared(replace(limited, preparation=Preparation()), run_folder).rows == 20


# Seen


def test_a_row_is_previewed_with_what_its_columns_mean():
    found = previewed("orders", row=2)
    assert (found.data, found.model, found.rows, found.row) == ("orders", "starter", 700, 2)
    assert found.recognition.mapping.format == Format.PROMPT_COMPLETION
    assert found.preview.place.endswith("row 2")
    assert found.preview.ends is True
    assert found.advice == ()


def test_advice_comes_with_the_row():
    found = previewed("orders", preparation=Preparation(limit=8))
    assert [each.id for each in found.advice] == ["nothing-to-train"]


def test_a_row_is_previewed_without_reading_more_than_the_limit(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(GOOD * 2000 + "{broken\n")
    found = previewed(str(file), preparation=Preparation(most_rows=10), row=3)
    assert found.rows == 10
    with pytest.raises(InputError, match="row 2001"):
        previewed(str(file))


# Pasted


@pytest.mark.parametrize(
    ("text", "name", "rows"),
    [
        (GOOD * 2, "pasted.jsonl", [{"prompt": "a", "completion": "b"}] * 2),
        ('[{"text": "a"}]', "pasted.json", [{"text": "a"}]),
        ('{"data": [{"text": "a"}]}', "pasted.jsonl", [{"text": "a"}]),
        ("prompt,completion\na,b\n", "pasted.csv", [{"prompt": "a", "completion": "b"}]),
        ("question\tanswer\na\tb, c\n", "pasted.csv", [{"question": "a", "answer": "b, c"}]),
        ("Hello, world.\nYes, indeed.", "pasted.txt", [{"text": "Hello, world."}, {"text": "Yes, indeed."}]),
        ("One.\nTwo.\n\nThree.", "pasted.txt", [{"text": "One.\nTwo."}, {"text": "Three."}]),
    ],
)
def test_what_is_pasted_is_a_file_of_the_kind_that_it_is(text, name, rows):
    upload = jobs.pasted(text)
    assert upload.file.name == name
    assert jobs.pasted(text) == upload
    offer = result(jobs.look_at_dataset(upload, token=False))
    assert all_of(result(jobs.read_rows(offer, token=False))) == rows


def test_a_visitor_previews_what_was_pasted(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "alice/studio")
    assert previewed(jobs.pasted(GOOD)).preview.side == "learn"


@pytest.mark.parametrize(
    ("text", "words"), [(" \n", "Nothing"), ("a\ud83d", "half a character"), ("a" * 10_000_001, "10 MB")]
)
def test_what_cannot_be_pasted_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        jobs.pasted(text)


def test_a_wrong_line_of_a_paste_is_named():
    upload = jobs.pasted(json.dumps({"text": "a"}) + "\n{wrong\n")
    with pytest.raises(InputError, match=r"pasted\.jsonl, line 2 \(row 2\) is not JSON"):
        previewed(upload)
