"""Datasets of the Hub: looked at before they are downloaded, then fetched and kept as models are, on the same terms."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path

import pyarrow
import pytest
from dataset_steps import all_of, result
from hub_steps import CDN, children, go_offline, partial_files
from loopback_hub.samples import ALICE, BOB, SMALL
from pyarrow import parquet

from studio import dataset, hub
from studio.errors import AccessDenied, DoesNotFit, InputError, NotFound, Offline, Unsupported
from studio.events import Phase, Progress
from studio.models import DatasetRef, ModelRef

ROWS = DatasetRef("hub", "alice/rows")
TRAIN, TEST = '{"text": "one"}\n{"text": "two"}\n', '{"text": "three"}\n'
FILES = {"README.md": "# Rows", "train.jsonl": TRAIN, "test.jsonl": TEST}


def packed(values, **options):
    """A Parquet file with one column."""
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": values}), buffer, **options)
    return buffer.getvalue()


LARGE = {"data/train-00000-of-00001.parquet": packed([f"{n:0500}" for n in range(2000)], compression="none")}
CONFIGS = """---
license: mit
configs:
- config_name: en
  data_files:
  - {split: train, path: "en/train-*.parquet"}
  - {split: test, path: en/test.parquet}
- config_name: de
  default: true
  data_files: de/*.parquet
dataset_info:
- config_name: en
  splits:
  - {name: train, num_examples: 3, num_bytes: 30}
---
# Rows
"""
SEVERAL = {
    "README.md": CONFIGS,
    "en/train-0.parquet": packed(["a", "b"]),
    "en/train-1.parquet": packed(["c"]),
    "en/test.parquet": packed(["d"]),
    "de/all.parquet": packed(["e"]),
    "requirements.txt": "torch",
    "images/cat.png": b"x",
}


def add(server, files=FILES, name="alice/rows", **settings):
    return server.add(name, files, kind="datasets", **settings)


def download(ref=ROWS, token=False, **options):
    return result(hub.download(ref, token=token, **options))


def look(ref=ROWS, token=False, **options):
    return result(hub.peek(ref, token=token, **options))


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# Looking and fetching


def test_a_dataset_is_looked_at_then_a_split_is_fetched_and_read(hub_server, tmp_path):
    add(hub_server, SEVERAL)
    seen = look()
    assert not hub_server.requests(path=r"\.parquet|cat\.png"), "nothing but the card is fetched"
    layout = dataset.layout(seen, "en")
    assert (layout.configs, layout.config) == (("en", "de"), "en")
    train = layout.split()
    assert (train.name, train.files, train.rows) == ("train", ("en/train-0.parquet", "en/train-1.parquet"), 3)
    assert train.bytes == sum(len(SEVERAL[file]) for file in train.files)
    assert [split.name for split in layout.splits] == ["train", "test"]
    folder = download(seen.ref, only=train.files)
    assert names(folder) == {"README.md", *train.files}
    rows = result(dataset.read(folder, cache=tmp_path, files=train.files, name="alice/rows"))
    assert [row["text"] for row in all_of(rows)] == ["a", "b", "c"]


def test_the_default_config_is_the_one_that_the_card_names(hub_server):
    add(hub_server, SEVERAL)
    layout = dataset.layout(look())
    assert layout.config == "de"
    assert layout.split().files == ("de/all.parquet",)
    with pytest.raises(InputError, match="no config 'fr'") as caught:
        dataset.layout(look(), "fr")
    assert "en, de" in caught.value.hint
    with pytest.raises(InputError, match="no split 'dev'"):
        layout.split("dev")


def test_without_a_card_the_names_of_the_files_say_which_split_they_are(hub_server):
    add(hub_server, {"train.jsonl": TRAIN, "dev.jsonl": TEST})
    layout = dataset.layout(look())
    assert [(split.name, split.files) for split in layout.splits] == [
        ("train", ("train.jsonl",)),
        ("validation", ("dev.jsonl",)),
    ]


def test_all_files_with_rows_are_fetched_where_none_are_named_and_never_code(hub_server):
    extra = {
        "rows.py": "print(1)",
        "model.bin": b"x",
        "dataset_infos.json": "{}",
        "LICENSE.txt": "x",
        "a/b.csv": "a\n1",
    }
    add(hub_server, FILES | extra)
    assert hub.facts(ROWS, token=False).download_bytes == sum(map(len, FILES.values())) + len("a\n1")
    assert names(download()) == {*FILES, "a/b.csv"}


def test_a_dataset_and_a_model_of_one_name_are_two(hub_server):
    add(hub_server, name="alice/pico")
    hub_server.add("alice/pico", SMALL)
    of_model, of_rows = (download(kind("hub", "alice/pico")) for kind in (ModelRef, DatasetRef))
    assert (names(of_model), names(of_rows)) == (set(SMALL), set(FILES))
    assert of_rows.parents[1].name == "datasets--alice--pico"
    assert [model.ref.name for model in hub.cached_models()] == ["alice/pico"]


def test_a_download_tells_its_size_before_and_keeps_to_a_limit(hub_server):
    add(hub_server, LARGE)
    size = len(*LARGE.values())
    with pytest.raises(DoesNotFit, match=r"alice/rows has 1\.0 MB to download; the limit here is 500\.0 kB") as caught:
        download(limit=500_000)
    assert "smaller split" in caught.value.hint
    assert not hub_server.requests("GET", "/resolve/|/_cdn/")
    events = list(hub.download(ROWS, token=False, limit=size))
    assert events[0] == Progress(Phase.RESOLVE)
    assert {event.total for event in events[1:-1]} == {size}
    assert events[-2].done == size


def test_a_download_that_is_closed_goes_on_where_it_was(hub_server):
    add(hub_server, LARGE)
    slow = hub_server.fault(CDN, pace=0.3)
    with closing(hub.download(ROWS, token=False)) as events:
        next(event for event in events if event.done)
        assert children()
    assert not children()
    (kept,) = Path(partial_files_of_datasets()).glob("*.incomplete")
    had = kept.stat().st_size
    assert 0 < had < len(*LARGE.values())
    slow.times = 0
    download()
    assert hub_server.requests("GET", CDN)[-1].headers["range"] == f"bytes={had}-"


def partial_files_of_datasets():
    assert not partial_files(), "they are not among the models"
    return hub.cache_folder() / "datasets--alice--rows" / "blobs"


# What cannot be used


@pytest.mark.parametrize(
    ("files", "words", "hint"),
    [
        ({"rows.py": "import os", "README.md": "#"}, "is a script that makes the rows", "refs/convert/parquet"),
        ({"a.png": b"x", "b.zip": b"x"}, r"holds only \.png, \.zip", "parquet"),
        ({"README.md": "#", "dataset_infos.json": "{}"}, r"holds only \.json|no files with rows", "parquet"),
    ],
)
def test_a_dataset_without_rows_that_can_be_read_is_refused_with_the_reason(hub_server, files, words, hint):
    add(hub_server, files)
    with pytest.raises(Unsupported, match=words) as caught:
        download()
    assert hint in caught.value.hint
    assert not hub_server.requests("GET", "/resolve/")


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../secret.csv", "https://example.org/rows.csv", "~/rows.csv", "zip://a::https://b/c.zip"],
)
def test_a_card_cannot_name_rows_outside_of_the_dataset(hub_server, path):
    configs = json.dumps([{"config_name": "a", "data_files": [{"split": "train", "path": ["a.csv", path]}]}])
    add(hub_server, {"README.md": f"---\nconfigs: {configs}\n---\n", "a.csv": "a\n1"})
    with pytest.raises(Unsupported, match="rows that are not in the dataset itself"):
        dataset.layout(look())


@pytest.mark.parametrize(
    "front",
    [
        "configs: [{config_name: a, data_files: nothing.csv}]",
        "configs: [",
        "configs: [{config_name: 'a/b', data_files: a.csv}]",
    ],
)
def test_a_card_that_makes_no_sense_is_an_error_in_words(hub_server, front):
    add(hub_server, {"README.md": f"---\n{front}\n---\n", "a.csv": "a\n1"})
    with pytest.raises(Unsupported, match="alice/rows") as caught:
        dataset.layout(look())
    assert "studio-splits" not in caught.value.message


def test_other_metadata_of_a_card_does_no_harm(hub_server):
    add(hub_server, FILES | {"README.md": "---\nconfigs: 7\ndataset_info: x\ntags: [a]\n---\n"})
    assert [split.name for split in dataset.layout(look()).splits] == ["train", "test"]


# Who may have it


def test_a_missing_dataset_is_called_a_dataset(hub_server):
    with pytest.raises(NotFound, match="There is no dataset called alice/rows"):
        download()


def test_a_gated_dataset_says_where_its_terms_are(hub_server):
    add(hub_server, gated=True, allowed={"bob"})
    for call in (download, look):
        with pytest.raises(AccessDenied, match="alice/rows is gated") as caught:
            call(DatasetRef("hub", "alice/rows", split="train"))
        assert f"{hub_server.url}/datasets/alice/rows," in caught.value.hint
    assert names(download(token=BOB)) == set(FILES)


def test_on_a_shared_machine_a_private_dataset_stays_with_those_who_may_read_it(hub_server, monkeypatch):
    add(hub_server, private=True)
    folder = download(token=ALICE, shared=True)
    for stranger in (False, BOB):
        for call in (download, look):
            with pytest.raises(NotFound):
                call(token=stranger, shared=True)
    assert hub.cached(ROWS, shared=True) is None
    assert download(token=ALICE, shared=True) == folder
    go_offline(monkeypatch)
    for call in (download, look):
        with pytest.raises(Offline):
            call(token=ALICE, shared=True)


def test_on_a_shared_machine_a_gated_dataset_stays_with_those_who_were_let_in(hub_server):
    add(hub_server, gated=True, allowed={"bob"})
    assert download(token=BOB, shared=True)
    for call in (download, look):
        with pytest.raises(AccessDenied):
            call(shared=True)


def test_that_a_model_is_public_says_nothing_about_a_dataset_of_its_name(hub_server, monkeypatch):
    add(hub_server, private=True)
    hub_server.add("alice/rows", SMALL)
    download(token=ALICE, shared=True)
    hub.facts(ModelRef("hub", "alice/rows"), token=False)
    go_offline(monkeypatch)
    with pytest.raises(Offline):
        download(shared=True)


# Without the Hub


def test_without_the_hub_a_split_that_is_here_is_used_and_one_that_is_not_is_missing(hub_server, monkeypatch):
    add(hub_server, SEVERAL)
    train = dataset.layout(look(), "en").split()
    folder = download(only=train.files)
    go_offline(monkeypatch)
    seen = look()
    assert seen.ref.revision == folder.name
    layout = dataset.layout(seen, "en")
    assert layout.split() == train
    assert download(only=train.files) == folder == hub.cached(ROWS, only=train.files)
    with pytest.raises(Offline):
        download(only=layout.split("test").files)
    with pytest.raises(Offline):
        download()


def test_half_a_split_is_not_taken_for_a_whole_one(hub_server, monkeypatch):
    add(hub_server, SEVERAL)
    files = dataset.layout(look(), "en").split().files
    (download(only=files) / files[1]).unlink()
    go_offline(monkeypatch)
    assert hub.cached(ROWS, only=files) is None
    with pytest.raises(Offline):
        download(only=files)


def test_without_the_hub_a_dataset_that_was_never_here_is_missing(monkeypatch):
    go_offline(monkeypatch)
    for call in (download, look):
        with pytest.raises(Offline):
            call()


# The real client


def test_the_real_client_lists_and_reads_datasets_of_the_loopback_hub(hub_server, tmp_path):
    from huggingface_hub import HfApi

    repo = add(hub_server, LARGE | FILES, license="mit", gated=True)
    api = HfApi(endpoint=hub_server.url, token=ALICE)
    info = api.dataset_info("alice/rows", files_metadata=True)
    assert (info.sha, info.gated, info.tags) == (repo.refs["main"], "manual", ["license:mit"])
    assert {file.path for file in api.list_repo_tree("alice/rows", repo_type="dataset", recursive=True)} == {
        *LARGE,
        *FILES,
    }
    folder = api.snapshot_download("alice/rows", repo_type="dataset", cache_dir=tmp_path)
    assert names(Path(folder)) == {*LARGE, *FILES}
    assert list(api.list_models(search="rows")) == []
