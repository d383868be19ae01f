"""Folders of models, whole and broken in every way we could think of, read without loading anything."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
from pico import change_json, save_pico

from studio.checkpoint import read_checkpoint, read_header, read_json
from studio.errors import Damaged, InputError, Unsupported


def write_header(file, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def shard(folder, **index):
    """Save the weights of a folder again in several files; `index` overrides its index."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    if index:
        change_json(folder / "model.safetensors.index.json", **index)
    return sorted(folder.glob("model-*.safetensors"))


def parameters(folder):
    from transformers import AutoModelForCausalLM

    return sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())


# Whole


def test_the_weights_are_counted_as_the_model_counts_them(pico):
    checkpoint = read_checkpoint(pico)
    assert (checkpoint.floats, checkpoint.other_bytes) == (parameters(pico), 0)
    assert checkpoint.loaded_bytes(4.0) == 4 * checkpoint.floats
    assert checkpoint.loaded_bytes(2.0) == 2 * checkpoint.floats


def test_the_count_is_the_same_however_the_weights_are_saved(pico, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(pico, dtype=torch.bfloat16).save_pretrained(half)
    shards = shutil.copytree(pico, tmp_path / "shards")
    assert len(shard(shards)) > 2
    assert (half / "model.safetensors").stat().st_size < 0.7 * (pico / "model.safetensors").stat().st_size
    assert read_checkpoint(half) == read_checkpoint(shards) == read_checkpoint(pico)


def test_untied_weights_count_twice(pico, tmp_path):
    untied = save_pico(tmp_path / "untied", tie_word_embeddings=False)
    assert read_checkpoint(untied).floats == parameters(untied) > read_checkpoint(pico).floats


def test_packed_weights_keep_their_size(broken):
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3, 5), "b": torch.ones(7, dtype=torch.uint8)}, broken / "model.safetensors")
    checkpoint = read_checkpoint(broken)
    assert (checkpoint.floats, checkpoint.other_bytes, checkpoint.loaded_bytes(2.0)) == (15, 7, 37)


def test_one_whole_file_wins_over_an_index_as_in_transformers(broken):
    (broken / "model.safetensors.index.json").write_text("{}")
    assert read_checkpoint(broken).floats > 0


# Cut, swapped and made up


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 1000, -1, -1000])
def test_a_cut_file_is_named_with_its_size(broken, size):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(Damaged, match=r"^model\.safetensors is damaged: .*bytes"):
        read_checkpoint(broken)


def test_a_file_that_goes_on_behind_its_end_is_damaged(broken):
    with (broken / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(Damaged, match=r"it has [\d,]+ bytes of [\d,]+"):
        read_checkpoint(broken)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><body>503 Service Unavailable</body></html>",
        b'{"error": "Repository not found"}',
        b"\xff" * 64,
        b"\0" * 64,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 1) + b"{",
    ],
)
def test_what_is_no_safetensors_file_is_damaged(broken, content):
    (broken / "model.safetensors").write_bytes(content)
    with pytest.raises(Damaged, match=r"model\.safetensors is damaged"):
        read_checkpoint(broken)


def test_a_pointer_of_git_lfs_is_called_one(broken):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n"
    (broken / "model.safetensors").write_text(pointer)
    with pytest.raises(Damaged, match="Git LFS pointer") as caught:
        read_checkpoint(broken)
    assert "git lfs pull" in caught.value.hint


WHOLE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        *(b"[" * 100_000 + b"]" * 100_000, b"\xff\xfe{}", b"not json", b"[1]", b"null", b'"a"', b'{"a": 1}'),
        *({"a": {}}, {"a": None}, {"a": {**WHOLE, "data_offsets": 4}}, {"a": {**WHOLE, "data_offsets": [4]}}),
        *({"a": {**WHOLE, "data_offsets": [0, "4"]}}, {"a": {**WHOLE, "data_offsets": [0, 4.0]}}),
        *({"a": {**WHOLE, "shape": "1"}}, {"a": {**WHOLE, "shape": [-1]}}, {"a": {**WHOLE, "shape": None}}),
        *({"a": {**WHOLE, "dtype": ["F32"]}}, {"a": {"data_offsets": [0, 4]}}),
        {"a": WHOLE, "b": {**WHOLE, "data_offsets": [4, 999]}},
    ],
)
def test_a_header_that_makes_no_sense_is_damaged(broken, header):
    write_header(broken / "model.safetensors", header, b"1234")
    with pytest.raises(Damaged, match=r"model\.safetensors is damaged"):
        read_checkpoint(broken)


def test_a_file_without_tensors_is_whole(broken):
    write_header(broken / "model.safetensors", {"__metadata__": {"format": "pt"}})
    assert read_header(broken / "model.safetensors") == {"__metadata__": {"format": "pt"}}
    assert read_checkpoint(broken).floats == 0


# Several files


def test_a_missing_part_is_named_and_counted(broken):
    parts = shard(broken)
    parts[1].unlink()
    with pytest.raises(Damaged, match=rf"^1 of {len(parts)} weight files are missing, the first is {parts[1].name}"):
        read_checkpoint(broken)


def test_a_cut_part_is_named(broken):
    part = shard(broken)[-1]
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(Damaged, match=f"^{part.name} is damaged"):
        read_checkpoint(broken)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors"])
def test_an_index_cannot_lead_out_of_the_folder(broken, name):
    weights = broken / "model.safetensors"
    shutil.copy(weights, broken.parent / "outside.safetensors")
    weights.rename(broken / "outside.safetensors")
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(Damaged, match="files of its own folder"):
        read_checkpoint(broken)


@pytest.mark.parametrize("name", ["..", ".", "", "nowhere.safetensors"])
def test_an_index_that_names_nothing_there_is_damaged(broken, name):
    shard(broken, weight_map={"a": name})
    with pytest.raises(Damaged):
        read_checkpoint(broken)


@pytest.mark.parametrize("weight_map", [None, {}, [], "x", {"a": 1}, {"a": ["x"]}, {"a": None}, {"a": 1, "b": "x"}])
def test_an_index_that_names_no_files_is_damaged(broken, weight_map):
    shard(broken, weight_map=weight_map)
    with pytest.raises(Damaged, match=r"model\.safetensors\.index\.json is damaged"):
        read_checkpoint(broken)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 200_000])
def test_an_index_that_is_no_json_object_is_damaged(broken, text):
    (broken / "model.safetensors").unlink()
    (broken / "model.safetensors.index.json").write_text(text)
    with pytest.raises(Damaged, match=r"model\.safetensors\.index\.json is damaged"):
        read_checkpoint(broken)


# What is not a model


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_pickled_weights_are_refused_for_what_they_are(broken, name):
    (broken / "model.safetensors").rename(broken / name)
    with pytest.raises(Unsupported, match="pickle") as caught:
        read_checkpoint(broken)
    assert "safetensors" in caught.value.hint


def test_a_config_alone_is_no_model(broken):
    (broken / "model.safetensors").unlink()
    with pytest.raises(Unsupported, match="config but no weights"):
        read_checkpoint(broken)


def test_weights_alone_are_no_model(broken):
    (broken / "config.json").unlink()
    with pytest.raises(Unsupported, match=r"has no config\.json"):
        read_checkpoint(broken)


@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b"[]", b"null", b"7", b"\xff\xfe{}", b"[" * 200_000])
def test_a_config_that_is_no_json_object_is_damaged(broken, content):
    (broken / "config.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"^config\.json is damaged: it "):
        read_checkpoint(broken)


def test_a_model_that_is_only_code_is_refused(broken):
    (broken / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "code.Config"}}))
    with pytest.raises(Unsupported, match="own Python code"):
        read_checkpoint(broken)


def test_an_adapter_is_no_model_and_none_hides_beside_one(broken):
    (broken / "adapter_config.json").write_text("{}")
    with pytest.raises(Unsupported, match="adapter"):
        read_checkpoint(broken)
    (broken / "config.json").unlink()
    with pytest.raises(Unsupported, match="adapter"):
        read_checkpoint(broken)


@pytest.mark.parametrize("name", ["nowhere", "config.json", "config.json/below", "nul\0byte"])
def test_a_path_that_is_no_folder_is_said_to_be_none(broken, name):
    with pytest.raises(InputError, match="There is no folder"):
        read_checkpoint(broken / name)


def test_a_small_file_is_read_as_it_is(broken):
    change_json(broken / "config.json", name="né")
    assert read_json(broken / "config.json")["name"] == "né"


def test_a_tokenizer_alone_is_said_to_be_one(broken):
    for file in broken.iterdir():
        if not file.name.startswith("token"):
            file.unlink()
    with pytest.raises(Unsupported, match="holds a tokenizer and no model"):
        read_checkpoint(broken)
