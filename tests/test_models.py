"""Names of models: what is accepted, what is refused, and that a printed name reads back as the same model."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.errors import InputError
from studio.models import STARTER, ModelRef, Precision

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


def test_a_precision_knows_what_a_weight_takes():
    assert [precision.bits for precision in Precision] == [32, 16, 16, 8, 4, 4, None]
    assert [precision.value for precision in Precision if precision.quantizes] == ["int8", "nf4", "fp4"]
