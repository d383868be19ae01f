"""Whatever happens to a merge, there is a whole model in its folder or nothing at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from adapter_variants import save_variant
from merging_steps import ADAPTER, left, loaded, merged
from pico import change_json, save_adapter, save_pico
from safetensors.torch import load_file, save_file

from studio.errors import Busy, Damaged, DoesNotFit, InputError, PickleOnly, StudioError, Unsupported
from studio.events import Phase, Progress
from studio.merging import MergePlan, merge, part, shards

_KILLED = """
import os, sys
sys.path[:0] = sys.argv[4:]
from pathlib import Path
import torch, transformers, peft
from studio.merging import MergePlan, merge, shards
base, adapter, output = map(Path, sys.argv[1:4])
write = shards._write_whole

def killed_at(number):
    writes = 0
    def counted(stream, content):
        nonlocal writes
        writes += 1
        if writes == number:
            stream.write(bytes(content)[: len(content) // 2])
            os.kill(os.getpid(), 9)
        return write(stream, content)
    shards._write_whole = counted

for number in (1, 7, 14, 21):
    child = os.fork()
    if not child:
        killed_at(number)
        list(merge(MergePlan(base, adapter, output, shard_size=3e-5)))
        os._exit(0)
    print(os.waitpid(child, 0)[1], sorted(os.listdir(output.parent)), flush=True)
child = os.fork()
if not child:
    Path.rename = lambda *_: os.kill(os.getpid(), 9)
    list(merge(MergePlan(base, adapter, output, shard_size=3e-5)))
print(os.waitpid(child, 0)[1], sorted(os.listdir(output.parent)), flush=True)
"""


@pytest.fixture
def base(pico):
    return pico


@pytest.fixture
def adapter(pico, tmp_path):
    return save_adapter(tmp_path / "adapter", pico)


def test_a_merge_that_is_killed_leaves_nothing_that_looks_finished(base, adapter, tmp_path):
    (tmp_path / "into").mkdir()
    output = tmp_path / "into" / "out"
    paths = [str(base), str(adapter), str(output), str(Path(__file__).parents[1])]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *paths], capture_output=True, text=True, timeout=300, env=env, check=True
    )
    assert done.stdout.splitlines() == [f"{signal.SIGKILL.value} ['out.part']"] * 5
    assert merged(base, adapter, output).changed
    assert left(output.parent) == ["out"]
    loaded(output)


def test_a_merge_that_is_closed_leaves_nothing(base, adapter, tmp_path, monkeypatch):
    write, written = shards._write_whole, []

    def slowly(stream, content):
        written.append(len(content))
        time.sleep(0.1)
        return write(stream, content)

    monkeypatch.setattr(shards, "_write_whole", slowly)
    events = merge(MergePlan(base, adapter, tmp_path / "out"))
    for event in events:
        if isinstance(event, Progress) and event.phase is Phase.MERGE:
            break
    assert left(tmp_path) == ["adapter", "out.part"]
    events.close()
    assert left(tmp_path) == ["adapter"]
    assert 1 <= len(written) < 20  # of more than 20


def test_a_merge_that_was_never_begun_leaves_nothing(base, adapter, tmp_path):
    merge(MergePlan(base, adapter, tmp_path / "out")).close()
    assert left(tmp_path) == ["adapter"]


def test_a_disk_that_is_too_small_is_noticed_before_a_byte_is_written(small_disk, tmp_path):
    base = save_pico(tmp_path / "base", hidden_size=256, intermediate_size=512)
    adapter = save_adapter(tmp_path / "adapter", base)
    with pytest.raises(DoesNotFit, match=r"takes 0\.\d\d GB, and the disk with .* has 0\.00 GB"):
        merged(base, adapter, small_disk / "out")
    assert left(small_disk) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(small_disk, tmp_path, monkeypatch):
    base = save_pico(tmp_path / "base", hidden_size=512, intermediate_size=1024)
    adapter = save_adapter(tmp_path / "adapter", base)
    monkeypatch.setattr("studio.merging.merging.check_disk", lambda *_: None)  # as if it had been free then
    with pytest.raises(DoesNotFit, match="is full"):
        merged(base, adapter, small_disk / "out")
    assert left(small_disk) == []


def test_an_output_with_something_in_it_is_left_alone(base, adapter, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "file", "link", "file/deeper"):
        with pytest.raises(InputError, match=r"not empty|cannot be written"):
            merged(base, adapter, tmp_path / name)
    assert left(tmp_path) == ["adapter", "file", "full", "link"]
    assert (tmp_path / "full" / "mine").read_text() == (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_and_one_that_is_deep_are_filled(base, adapter, tmp_path):
    (tmp_path / "empty").mkdir()
    assert merged(base, adapter, tmp_path / "empty").changed
    assert merged(base, adapter, tmp_path / "a" / "b" / "c").changed


def test_what_appears_in_the_output_meanwhile_is_left_alone(base, adapter, tmp_path):
    output = tmp_path / "out"

    def disturbed():
        for event in merge(MergePlan(base, adapter, output)):
            if isinstance(event, Progress) and event.phase is Phase.MERGE:
                output.mkdir(exist_ok=True)
                (output / "mine").write_text("mine")

    with pytest.raises(InputError, match="not empty"):
        disturbed()
    assert left(output) == ["mine"]
    assert left(tmp_path) == ["adapter", "out"]


def test_two_merges_into_one_folder_do_not_mix(base, adapter, tmp_path):
    with part.made_beside(tmp_path / "out") as mine:
        (mine / "model.safetensors").write_text("half")
        with pytest.raises(Busy, match="Another merge is writing out"):
            merged(base, adapter, tmp_path / "out")
        assert left(mine) == ["model.safetensors"]
    assert left(tmp_path) == ["adapter"]


def test_what_a_killed_merge_left_is_not_taken_over_into_the_next(base, adapter, tmp_path):
    (tmp_path / "out.part" / "deep").mkdir(parents=True)
    (tmp_path / "out.part" / "model-00007-of-00009.safetensors").write_text("half")
    merged(base, adapter, tmp_path / "out")
    assert {"model.safetensors", "merge.json"} < set(left(tmp_path / "out"))
    assert not {"deep", "model-00007-of-00009.safetensors"} & set(left(tmp_path / "out"))


# What cannot be trusted


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("q and v", "layers.1.self_attn.v_proj.lora_B"),
        ("DoRA", "layers.0.mlp.up_proj.lora_magnitude_vector"),
        ("a head, tied", "lm_head"),
        ("tokens, tied", "trainable_tokens_delta"),
        ("biases that are trained", "k_proj.bias"),
    ],
)
def test_a_number_in_the_adapter_that_is_none_is_named(name, tensor, value, tmp_path):
    base, adapter = save_variant(name, tmp_path)
    _poison(adapter / ADAPTER, tensor, value)
    with pytest.raises(Damaged, match=f"adapter holds values that are not numbers, in .*{tensor}"):
        merged(base, adapter, tmp_path / "out")
    assert left(tmp_path) == ["adapter", "base"]


def test_a_number_in_the_base_that_is_none_is_named(broken, adapter, tmp_path):
    _poison(broken / "model.safetensors", "layers.1.mlp.down_proj", float("nan"))
    with pytest.raises(Damaged, match=r"layers\.1\.mlp\.down_proj\.weight of the base holds values that are not numb"):
        merged(broken, adapter, tmp_path / "out")
    assert left(tmp_path) == ["adapter", "broken"]


def test_a_sum_that_the_dtype_does_not_reach_is_named(base, adapter, tmp_path):
    tensors = load_file(adapter / ADAPTER)
    save_file({name: tensor * 3e4 for name, tensor in tensors.items()}, adapter / ADAPTER)
    with pytest.raises(Damaged, match=r"self_attn\.[qv]_proj\.weight would hold values .* F16"):
        merged(base, adapter, tmp_path / "out", dtype="fp16")
    assert left(tmp_path) == ["adapter"]
    assert merged(base, adapter, tmp_path / "out").changed


def _poison(file, part_of_name, value):
    tensors = load_file(file)
    name = next(name for name in tensors if part_of_name in name)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, file, metadata={"format": "pt"})


def _pickled(folder):
    torch.save(load_file(folder / ADAPTER), folder / "adapter_model.bin")
    (folder / ADAPTER).unlink()


def _cut(folder):
    content = (folder / ADAPTER).read_bytes()
    (folder / ADAPTER).write_bytes(content[:-100])


def _without_a_layer(folder):
    tensors = load_file(folder / ADAPTER)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1." not in name}, folder / ADAPTER)


def _with_a_stranger(folder):
    tensors = load_file(folder / ADAPTER)
    strange = {name.replace("q_proj", "x_proj"): tensor.clone() for name, tensor in tensors.items() if "q_proj" in name}
    save_file(tensors | strange, folder / ADAPTER)


_BAD = {
    "pickled": (_pickled, PickleOnly),
    "cut": (_cut, Damaged),
    "without a layer": (_without_a_layer, InputError),
    "with a stranger": (_with_a_stranger, InputError),
    "of another rank": (lambda folder: change_json(folder / "adapter_config.json", r=9), Damaged),
    "with forgotten targets": (
        lambda folder: change_json(folder / "adapter_config.json", target_modules=["q_proj"]),
        InputError,
    ),
    "of an unknown type": (lambda folder: change_json(folder / "adapter_config.json", peft_type="X"), Unsupported),
    "without a config": (lambda folder: (folder / "adapter_config.json").unlink(), InputError),
}


@pytest.mark.parametrize("how", _BAD)
def test_a_bad_adapter_is_refused_before_a_byte_is_written(how, base, adapter, tmp_path):
    spoil, kind = _BAD[how]
    spoil(adapter)
    with pytest.raises(kind) as raised:
        merged(base, adapter, tmp_path / "out")
    assert isinstance(raised.value, StudioError)
    assert raised.value.hint
    assert left(tmp_path) == ["adapter"]


@pytest.mark.parametrize("shape", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_key_value_heads": 4}])
def test_a_base_of_another_shape_is_refused_before_a_byte_is_written(shape, adapter, tmp_path):
    other = save_pico(tmp_path / "other", **shape)
    with pytest.raises(InputError, match="base"):
        merged(other, adapter, tmp_path / "out")
    assert left(tmp_path) == ["adapter", "other"]


def test_an_update_of_a_bias_that_is_not_there_is_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    base, adapter = save_variant("q and v", tmp_path)
    config = LoraConfig(r=4, target_modules=["q_proj"], lora_bias=True, task_type="CAUSAL_LM")
    get_peft_model(loaded(base), config).save_pretrained(adapter)
    with pytest.raises(Unsupported, match=r"bias of model\.layers\.0\.self_attn\.q_proj, which has none"):
        merged(base, adapter, tmp_path / "out")
    assert left(tmp_path) == ["adapter", "base"]
