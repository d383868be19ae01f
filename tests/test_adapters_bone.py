"""An adapter of the type Bone becomes one of the type MiSS that says the same."""

from __future__ import annotations

import json

import pytest
import torch
from adapter_steps import error, logits, reloaded, result_of
from pico import change_json
from safetensors.torch import load_file, save_file

from studio import adapters
from studio.errors import Damaged, InputError, PickleOnly, Unsupported

_FILE, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_TARGETS = ("q_proj", "down_proj")


def save_bone(folder, rank=8, *, bat=False):
    """A Bone adapter as PEFT 0.13 to 0.18 wrote them, with random weights, for the pico model."""
    torch.manual_seed(2)
    tensors = {}
    for layer in range(2):
        for path in (f"model.layers.{layer}.self_attn.q_proj", f"model.layers.{layer}.mlp.down_proj"):
            shape = (32 // rank, rank, rank) if bat else (rank, 32)
            tensors[f"base_model.model.{path}.bone_block"] = torch.randn(shape) * 0.1
    config = {
        "auto_mapping": None, "base_model_name_or_path": "pico", "bias": "none", "exclude_modules": None,
        "inference_mode": True, "init_weights": "bat" if bat else True, "layers_pattern": None,
        "layers_to_transform": None, "modules_to_save": None, "peft_type": "BONE", "r": rank, "revision": None,
        "target_modules": list(_TARGETS), "task_type": "CAUSAL_LM",
    }  # fmt: skip
    folder.mkdir()
    (folder / _CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / _FILE)
    return folder


@torch.no_grad()
def with_bone(model, folder):
    """The model with a Bone adapter in its weights, by the formulas of the paper (Kang and Yin 2024)."""
    config = json.loads((folder / _CONFIG).read_text())
    for name, block in load_file(folder / _FILE).items():
        layer = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".bone_block"))
        out, into = layer.weight.shape
        rank = config["r"]
        if config["init_weights"] == "bat":  # each square of the weight: W + W B + B
            for row in range(out // rank):
                for column in range(into // rank):
                    square = layer.weight[row * rank : (row + 1) * rank, column * rank : (column + 1) * rank]
                    square += square @ block[row] + block[row]
        else:  # all groups of inputs share one block
            for column in range(into):
                layer.weight[:, column] += block[column % rank]
    return model


@pytest.mark.parametrize(("rank", "bat"), [(8, False), (6, False), (8, True), (16, True)])
def test_the_outputs_are_equal(rank, bat, pico, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = save_bone(tmp_path / "bone", rank, bat=bat)
    done = result_of(adapters.to_miss(folder, tmp_path / "miss"))
    plain = logits(AutoModelForCausalLM.from_pretrained(pico))
    expected = logits(with_bone(AutoModelForCausalLM.from_pretrained(pico), folder))
    found = reloaded(AutoModelForCausalLM.from_pretrained(pico), tmp_path / "miss")
    assert error(logits(found), expected) < 1e-5 < 1e-2 < error(plain, expected)
    assert error(logits(found.merge_and_unload()), expected) < 1e-5
    assert (done.rank, done.variant, done.modules) == (rank, "bat" if bat else "", 4)
    assert adapters.read(tmp_path / "miss").type == "MISS"


def test_every_number_stays_as_it_is(tmp_path):
    folder = save_bone(tmp_path / "bone")
    change_json(folder / _CONFIG, bias="Bone_only")
    before = {name: tensor.bfloat16() for name, tensor in load_file(folder / _FILE).items()}
    save_file(before, folder / _FILE)
    result_of(adapters.to_miss(folder, tmp_path / "miss"))
    after = load_file(tmp_path / "miss" / _FILE)
    assert after.keys() == {name.replace("bone", "miss") for name in before}
    assert all(torch.equal(after[name.replace("bone", "miss")], tensor) for name, tensor in before.items())
    assert json.loads((tmp_path / "miss" / _CONFIG).read_text())["bias"] == "MiSS_only"


def test_reading_one_points_to_the_conversion(tmp_path):
    with pytest.raises(Unsupported, match="Bone") as refused:
        adapters.read(save_bone(tmp_path / "bone"))
    assert "Convert it to MiSS" in refused.value.hint


def test_another_type_or_a_file_that_does_not_agree_is_refused(tmp_path):
    folder = save_bone(tmp_path / "bone")
    with pytest.raises(InputError, match=r"no adapter_config\.json"):
        result_of(adapters.to_miss(tmp_path, tmp_path / "miss"))
    change_json(folder / _CONFIG, r=16)
    with pytest.raises(Damaged, match="rank 16"):
        result_of(adapters.to_miss(folder, tmp_path / "miss"))
    change_json(folder / _CONFIG, r=8, init_weights="bat")
    with pytest.raises(Damaged, match="bat"):
        result_of(adapters.to_miss(folder, tmp_path / "miss"))
    change_json(folder / _CONFIG, peft_type="LORA")
    with pytest.raises(InputError, match="LORA"):
        result_of(adapters.to_miss(folder, tmp_path / "miss"))
    assert [path.name for path in tmp_path.iterdir()] == ["bone"]


def test_a_number_that_is_none_and_a_pickle_are_refused(tmp_path):
    folder = save_bone(tmp_path / "bone")
    tensors = load_file(folder / _FILE)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, folder / _FILE)
    with pytest.raises(Damaged, match="not numbers"):
        result_of(adapters.to_miss(folder, tmp_path / "miss"))
    (folder / _FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(PickleOnly):
        result_of(adapters.to_miss(folder, tmp_path / "miss"))
    assert [path.name for path in tmp_path.iterdir()] == ["bone"]
