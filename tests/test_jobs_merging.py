"""A merge by names that cannot be had: nothing is written, and the words say what is wrong and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_steps import result
from pico import change_json, save_adapter

from studio.errors import AccessDenied, InputError, NotFound, StudioError
from studio.jobs.merging import merge
from studio.merges.order import MergeOrder
from studio.models import ModelRef


@pytest.fixture(scope="module")
def adapter(pico, tmp_path_factory):
    return Path(save_adapter(tmp_path_factory.mktemp("adapters") / "mine", pico))


@pytest.fixture
def theirs(pico, adapter, hub_server):
    """A Hub with a base, a model that is no adapter, a base that not all may have, and an adapter."""
    hub_server.add("alice/pico", pico)
    hub_server.add("alice/model", pico)
    hub_server.add("alice/gated", pico, gated=True)
    hub_server.add("alice/lora", {file.name: file.read_bytes() for file in adapter.iterdir()})
    return hub_server


@pytest.mark.parametrize(
    ("base", "lora", "error", "words"),
    [
        ("alice/gated", "alice/lora", AccessDenied, "gated"),
        ("alice/nowhere", "alice/lora", NotFound, "alice/nowhere"),
        ("alice/pico@v9", "alice/lora", NotFound, "v9"),
        ("alice/pico", "alice/lora@v9", NotFound, "v9"),
        ("alice/pico", "alice/model", InputError, "adapter_config.json"),
    ],
)
def test_what_cannot_be_had_is_said_and_nothing_is_left(base, lora, error, words, theirs, tmp_path):
    order = MergeOrder(ModelRef.parse(base), ModelRef.parse(lora), tmp_path / "merged")
    with pytest.raises(error, match=words) as caught:
        result(merge(order, token=False))
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_base_and_an_adapter_of_the_hub_are_merged_and_proven(theirs, tmp_path):
    order = MergeOrder(ModelRef.parse("alice/pico"), ModelRef.parse("alice/lora"), tmp_path / "merged")
    assert result(merge(order, token=False)).passed


def test_an_output_folder_that_is_not_empty_is_refused_before_anything_is_fetched(theirs, tmp_path):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("mine")
    order = MergeOrder(ModelRef.parse("alice/pico"), ModelRef.parse("alice/lora"), tmp_path / "merged")
    with pytest.raises(InputError, match="merged"):
        result(merge(order, token=False))
    assert (tmp_path / "merged" / "mine.txt").read_text() == "mine"
    assert not theirs.requests(path="alice/pico")


@pytest.mark.parametrize("rank", [0, 7])
def test_a_rank_that_the_file_does_not_have_is_refused(rank, pico, adapter, tmp_path):
    wrong = shutil.copytree(adapter, tmp_path / "wrong")
    change_json(wrong / "adapter_config.json", r=rank)
    order = MergeOrder(ModelRef("folder", str(pico)), ModelRef("folder", str(wrong)), tmp_path / "out" / "merged")
    with pytest.raises(StudioError, match=r"rank|r is 0"):
        result(merge(order, token=False))
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
