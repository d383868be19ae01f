"""Names of models and datasets: what is accepted, what is refused, and that a printed name reads back as the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.errors import InputError
from studio.models import STARTER, DatasetRef, ModelRef, Precision

ACCEPTED = {
    "gpt2": ("hub", "gpt2", "main"),
    "Qwen/Qwen3-0.6B": ("hub", "Qwen/Qwen3-0.6B", "main"),
    "  owner/name \n": ("hub", "owner/name", "main"),
    "owner/name@": ("hub", "owner/name", "main"),
    "owner/name@main": ("hub", "owner/name", "main"),
    "owner/name@v1.0": ("hub", "owner/name", "v1.0"),
    "owner/name@refs/pr/1": ("hub", "owner/name", "refs/pr/1"),
    "https://huggingface.co/owner/name": ("hub", "owner/name", "main"),
    "http://www.huggingface.co/owner/name/": ("hub", "owner/name", "main"),
    "https://hf.co/owner/name?library=x#usage": ("hub", "owner/name", "main"),
    "https://huggingface.co/owner/name/tree/main": ("hub", "owner/name", "main"),
    "https://huggingface.co/owner/name/tree/refs/pr/1/": ("hub", "owner/name", "refs/pr/1"),
    f"{'o' * 96}/{'n' * 96}": ("hub", f"{'o' * 96}/{'n' * 96}", "main"),
    "starter@v2": ("hub", "starter", "v2"),
    "Starter": ("hub", "Starter", "main"),
    "/data/model": ("folder", "/data/model", "main"),
    "/data//model/../other/": ("folder", "/data/other", "main"),
    "/data/owner@name": ("folder", "/data/owner@name", "main"),
    "/": ("folder", "/", "main"),
}
REFUSED = [
    *("", "  ", "@main", "owner/", "/".join("abc"), "owner name/x", "owner/na me", "owner/na:me"),
    *("-owner/name", "owner/name-", ".owner/name", "owner/name.", "owner/na--me", "owner/na..me", "ownér/name"),
    *("owner/name@a b", "owner/name@a@b", "owner/name@../x", "owner/name@" + "x" * 251, "owner/name\n@main"),
    *("owner/name@a\nb", f"{'o' * 97}/name", "https://example.org/owner/name", "huggingface.co/owner/name"),
    *("https://huggingface.co/owner/name/blob/main/config.json", "https://huggingface.co/gpt2", "~user/model"),
]


@pytest.mark.parametrize(("text", "parts"), ACCEPTED.items())
def test_a_name_is_read(text, parts):
    ref = ModelRef.parse(text)
    assert (ref.where, ref.name, ref.revision) == parts


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused_with_what_to_write(text):
    with pytest.raises(InputError) as caught:
        ModelRef.parse(text)
    assert "owner/name" in caught.value.hint or "branch" in caught.value.hint


@pytest.mark.parametrize("text", ["starter", " starter ", "starter@", "starter@main"])
def test_starter_is_the_model_that_is_shipped(text):
    assert ModelRef.parse(text) is STARTER


def test_a_folder_is_meant_from_here_or_from_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somebody")
    here = str(Path.cwd())
    texts = {".": here, "./m": f"{here}/m", "..": str(Path.cwd().parent), "~": "/somebody", "~/m": "/somebody/m"}
    assert {text: ModelRef.parse(text).name for text in texts} == texts
    assert {ModelRef.parse(text).where for text in texts} == {"folder"}


@pytest.mark.parametrize("text", ["~~/model", "~./model", "~\\model", ".\\model", "C:\\model"])
def test_an_odd_folder_is_a_folder_that_is_not_there_rather_than_a_crash(text):
    assert ModelRef.parse(text).where == "folder"


@pytest.mark.parametrize("text", [*ACCEPTED, "starter", "starter@main", "./m", "~/m", "~~/m"])
def test_a_printed_name_reads_back_as_the_same_model(text):
    ref = ModelRef.parse(text)
    assert ModelRef.parse(str(ref)) == ref


DATASETS = {
    "persona": ("bundled", "persona", "main", None, None),
    "orders:test_frames": ("bundled", "orders", "main", None, "test_frames"),
    "orders@main": ("bundled", "orders", "main", None, None),
    "persona@v2": ("hub", "persona", "v2", None, None),
    "squad": ("hub", "squad", "main", None, None),
    " owner/name ": ("hub", "owner/name", "main", None, None),
    "owner/name:train": ("hub", "owner/name", "main", None, "train"),
    "owner/name@v1:en:train": ("hub", "owner/name", "v1", "en", "train"),
    "owner/name:en-US.1:": ("hub", "owner/name", "main", "en-US.1", None),
    "owner/name@refs/convert/parquet:a b:test": ("hub", "owner/name", "refs/convert/parquet", "a b", "test"),
    "https://huggingface.co/datasets/owner/name": ("hub", "owner/name", "main", None, None),
    "https://hf.co/datasets/squad?x=1": ("hub", "squad", "main", None, None),
    "https://huggingface.co/datasets/owner/name/tree/refs/pr/1": ("hub", "owner/name", "refs/pr/1", None, None),
    "https://huggingface.co/datasets/owner/name/viewer/en/train?row=3": ("hub", "owner/name", "main", "en", "train"),
    "/data/rows.jsonl": ("local", "/data/rows.jsonl", "main", None, None),
    "/data/folder:en:test": ("local", "/data/folder", "main", "en", "test"),
    "/data/a:b/rows.jsonl": ("local", "/data/a:b/rows.jsonl", "main", None, None),
    "/data/a:b::": ("local", "/data/a:b", "main", None, None),
    "/data/owner@name": ("local", "/data/owner@name", "main", None, None),
}
NO_DATASETS = [
    *("", ":train", "owner/", "a/b/c", "owner/na me", "owner/name:a/b", "owner/name:a-b", "owner/name:a:b:c"),
    *("owner/name@a b", "owner/name@../x", "https://huggingface.co/owner/name", "https://example.org/datasets/a/b"),
    *("https://huggingface.co/datasets/owner/name/blob/main/a.json", "https://hf.co/datasets/a/b/viewer/e:n/train"),
]


@pytest.mark.parametrize(("text", "parts"), DATASETS.items())
def test_the_name_of_a_dataset_is_read_and_reads_back(text, parts):
    ref = DatasetRef.parse(text)
    assert (ref.where, ref.name, ref.revision, ref.config, ref.split) == parts
    assert DatasetRef.parse(str(ref)) == ref


@pytest.mark.parametrize("text", NO_DATASETS)
def test_anything_else_is_no_dataset_and_refused_with_what_to_write(text):
    with pytest.raises(InputError) as caught:
        DatasetRef.parse(text)
    assert "owner/name" in caught.value.hint or "branch" in caught.value.hint


def test_a_precision_knows_what_a_weight_takes():
    assert [precision.bits for precision in Precision] == [32, 16, 16, 8, 4, 4, None]
    assert [precision.value for precision in Precision if precision.quantizes] == ["int8", "nf4", "fp4"]
