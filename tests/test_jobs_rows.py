"""Rows of a shipped set, of an upload and of the Hub: looked at, read, measured; and what visitors may not."""

from __future__ import annotations

import json

import pytest
from dataset_steps import all_of, result
from hub_steps import go_offline
from loopback_hub.samples import ALICE, BOB

from studio import jobs
from studio.dataset import ColumnMapping, Format
from studio.errors import AccessDenied, DoesNotFit, InputError, Offline
from studio.jobs import Upload, rows
from studio.models import STARTER, DatasetRef

CONFIGS = """---
configs:
- config_name: en
  data_files: [{split: train, path: en/train.jsonl}, {split: test, path: en/test.jsonl}]
- config_name: de
  default: true
  data_files: de/*.jsonl
---
"""
SEVERAL = {
    "README.md": CONFIGS,
    "en/train.jsonl": '{"text": "one"}\n{"text": "two"}\n',
    "en/test.jsonl": '{"text": "three"}\n',
    "de/all.jsonl": '{"text": "eins"}\n',
}


@pytest.fixture(autouse=True)
def workspace(monkeypatch, tmp_path):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.fixture
def shared(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "alice/studio")


def add(server, **settings):
    return server.add("alice/rows", SEVERAL, kind="datasets", **settings)


def look(source, config=None, token=False):
    ref = DatasetRef.parse(source) if isinstance(source, str) else source
    return result(jobs.look_at_dataset(ref, config=config, token=token))


def read(offer, split=None):
    return result(jobs.read_rows(offer, split, token=False))


def written(folder, content, name="mine.jsonl"):
    file = folder / name
    file.write_text(content)
    return Upload(file)


# Looking and reading


@pytest.mark.parametrize(("name", "count"), [("persona", 762), ("persona:test", 115), ("orders", 700)])
def test_a_shipped_set_is_read_without_the_network(name, count):
    offer = look(name)
    assert read(offer).count == count
    assert offer.to_download(offer.layout.splits[0]) == 0


def test_an_upload_is_named_as_its_file(tmp_path, workspace):
    offer = look(written(tmp_path, '{"text": "one"}\n'))
    found = read(offer)
    assert (offer.name, found.name, all_of(found)) == ("mine.jsonl", "mine.jsonl", [{"text": "one"}])
    assert workspace in found.file.parents


def test_a_row_of_an_upload_that_is_no_json_is_named(tmp_path):
    offer = look(written(tmp_path, '{"text": "one"}\n{"text": two}\n'))
    with pytest.raises(InputError, match=r"mine\.jsonl, row 2|mine\.jsonl.*line 2"):
        read(offer)


def test_a_look_at_the_hub_says_what_there_is_and_downloads_nothing(hub_server):
    add(hub_server)
    offer = look("alice/rows", config="en")
    assert offer.layout.configs == ("en", "de")
    assert {split.name: offer.to_download(split) for split in offer.layout.splits} == {"train": 32, "test": 18}
    assert not hub_server.requests("GET", r"\.jsonl")


def test_one_split_of_the_hub_is_downloaded_and_no_other(hub_server):
    add(hub_server)
    assert all_of(read(look("alice/rows:en:test"))) == [{"text": "three"}]
    assert hub_server.requests("GET", r"test\.jsonl")
    assert not hub_server.requests("GET", r"train\.jsonl")


@pytest.mark.parametrize("name", ["alice/rows:xx:", "alice/rows:en:dev"])
def test_a_config_or_split_that_is_not_there_is_refused_with_those_that_are(hub_server, name):
    add(hub_server)
    with pytest.raises(InputError, match=r"xx|dev") as caught:
        look(name)
    assert "Choose one of" in caught.value.hint


def test_a_gated_dataset_is_for_those_who_may(hub_server):
    add(hub_server, gated=True)
    with pytest.raises(AccessDenied, match="alice/rows"):
        look("alice/rows", token=BOB)
    assert look("alice/rows", token=ALICE).layout.configs


def test_a_dataset_that_was_read_is_there_offline(hub_server, monkeypatch):
    add(hub_server)
    read(look("alice/rows:en:train"))
    go_offline(monkeypatch)
    assert read(look("alice/rows:en:train")).count == 2


def test_offline_a_dataset_that_is_not_there_is_said_to_be_out_of_reach(monkeypatch):
    go_offline(monkeypatch)
    with pytest.raises(Offline):
        look("alice/rows")


# Visitors


def test_a_visitor_may_name_no_file_of_the_machine(tmp_path, shared):
    upload = written(tmp_path, '{"text": "one"}\n')
    with pytest.raises(InputError, match="not open to visitors"):
        look(str(upload.file))


def test_a_visitor_may_upload_and_use_what_is_shipped(tmp_path, shared):
    assert read(look(written(tmp_path, '{"text": "one"}\n'))).count == 1
    assert read(look("persona")).count == 762


def test_a_visitor_may_download_so_much_and_no_more(hub_server, shared, monkeypatch):
    add(hub_server)
    monkeypatch.setattr(rows, "VISITOR_LIMIT", 210)
    offer = look("alice/rows:en:")
    assert read(offer, "test").count == 1
    with pytest.raises(DoesNotFit, match="limit"):
        read(offer, "train")


def test_the_owner_of_a_machine_names_files_by_their_path(tmp_path):
    upload = written(tmp_path, '{"text": "one"}\n')
    assert read(look(str(upload.file))).count == 1


# Measuring


def measured(found, mapping=None):
    return result(jobs.measure_rows(found, STARTER, mapping, token=False))


def test_rows_are_recognised_and_measured():
    found = measured(read(look("orders")))
    assert found.recognition.mapping.format == Format.PROMPT_COMPLETION
    assert found.model == "starter"
    assert len(found.lengths.lengths) == 700


def test_columns_chosen_by_hand_count(tmp_path):
    rows_ = [{"first": "a b c", "second": "a"}] * 3
    found = read(look(written(tmp_path, "".join(map(json.dumps, rows_)).replace("}{", "}\n{"))))
    with pytest.raises(InputError, match="first, second"):
        measured(found)
    first, second = (measured(found, ColumnMapping.of(Format.TEXT, text=name)) for name in ("first", "second"))
    assert first.lengths.tokens > second.lengths.tokens
