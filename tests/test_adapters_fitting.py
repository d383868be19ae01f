"""An adapter is held against a base, and what it adds is what PEFT adds."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from adapter_variants import VARIANTS, on_top, save_variant
from pico import change_json, save_adapter, save_pico
from safetensors.torch import load_file, save_file
from training_shapes import made

from studio import adapters
from studio.adapters import stored
from studio.errors import Damaged, InputError, Unsupported

_FILE = "adapter_model.safetensors"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_adapter_finds_its_place(name, tmp_path):
    base, folder = save_variant(name, tmp_path)
    adapter = adapters.read(folder)
    found = adapters.fit(adapter, base)
    assert found.fits
    assert [match.module for match in found.matches] == [module.path for module in adapter.modules]
    assert all(match.tensors for match in found.matches)
    assert not found.older
    json.dumps(asdict(found))


@pytest.mark.parametrize(
    "name",
    ["patterns", "rsLoRA", "GPT-2", "embedding and head adapted", "Mixtral", "Mixtral, all linear", "gpt-oss"],
)
def test_an_update_is_the_one_of_peft(name, tmp_path):
    base, folder = save_variant(name, tmp_path)
    adapter = adapters.read(folder)
    layers = dict(on_top(base, folder).base_model.model.named_modules())
    updates = adapters.Updates(adapter)
    for match in adapters.fit(adapter, base).matches:
        expected = layers[match.module].get_delta_weight("default").detach()
        found = updates.delta(match)
        assert found.dtype == torch.float32
        assert found.shape == match.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        if match.experts == 1:
            assert torch.equal(found, expected)


def test_rows_of_an_update_are_rows_of_the_whole(tmp_path):
    base, folder = save_variant("GPT-2", tmp_path)
    adapter = adapters.read(folder)
    updates = adapters.Updates(adapter)
    for match in adapters.fit(adapter, base).matches:
        torch.testing.assert_close(updates.delta(match, 5, 9), updates.delta(match)[5:14])


def test_experts_are_found_where_the_checkpoint_has_them(tmp_path):
    base, folder = save_variant("Mixtral", tmp_path)
    matches = {match.parameter: match for match in adapters.fit(adapters.read(folder), base).matches}
    both = matches["model.layers.0.mlp.experts.gate_up_proj"]
    assert (both.experts, both.rank, len(both.tensors)) == (4, 4, 8)
    assert {name.rsplit(".", 2)[1] for name in both.tensors} == {"w1", "w3"}
    down = matches["model.layers.0.mlp.experts.down_proj"]
    assert down.tensors == tuple(f"model.layers.0.block_sparse_moe.experts.{n}.w2.weight" for n in range(4))


def test_a_checkpoint_without_the_prefix_of_its_class_is_read_all_the_same(tmp_path):
    base, folder = save_variant("GPT-2", tmp_path)
    tensors = {}
    for file in base.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (base / "model.safetensors.index.json").unlink()
    plain = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(plain, base / "model.safetensors", metadata={"format": "pt"})
    found = adapters.fit(adapters.read(folder), base)
    assert found.fits
    assert found.matches[0].tensors == ("h.0.attn.c_attn.weight",)


def test_an_adapter_of_another_width_is_told_by_name(pico, tmp_path):
    wide = save_pico(tmp_path / "wide", hidden_size=64)
    found = adapters.fit(adapters.read(save_adapter(tmp_path / "adapter", pico)), wide)
    assert not found.fits
    assert "model.layers.0.self_attn.q_proj.lora_A.weight is [4, 32] and would be [4, 64]" in found.mismatched


def test_an_adapter_of_a_deeper_model_has_what_is_not_expected(pico, tmp_path):
    deep = save_pico(tmp_path / "deep", num_hidden_layers=3)
    found = adapters.fit(adapters.read(save_adapter(tmp_path / "adapter", deep)), pico)
    assert [name for name in found.unexpected if "lora_A" in name] == [
        "model.layers.2.self_attn.q_proj.lora_A.weight",
        "model.layers.2.self_attn.v_proj.lora_A.weight",
    ]
    assert found.missing == ()


def test_an_adapter_of_another_architecture_does_not_go_on(pico, tmp_path):
    made("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(InputError, match="does not go on this base"):
        adapters.fit(adapters.read(save_adapter(tmp_path / "adapter", pico)), tmp_path / "gpt2")


def test_targets_that_the_config_forgot_are_not_passed_over(pico, tmp_path):
    folder = save_adapter(tmp_path / "adapter", pico)
    change_json(folder / "adapter_config.json", target_modules=["q_proj"])
    found = adapters.fit(adapters.read(folder), pico)
    assert {name.split(".")[4] for name in found.unexpected} == {"v_proj"}


def test_what_is_missing_from_the_file_is_told(pico, tmp_path):
    folder = save_adapter(tmp_path / "adapter", pico)
    tensors = load_file(folder / _FILE)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1." not in name}, folder / _FILE)
    found = adapters.fit(adapters.read(folder), pico)
    assert len(found.missing) == 4
    assert not found.fits


def test_a_base_of_equal_shapes_is_noticed_where_the_run_left_a_sketch(pico, tmp_path):
    from transformers import AutoModelForCausalLM

    from studio.adapters.sketch import sketch, write_sketch

    folder = save_adapter(tmp_path / "adapter", pico)
    model = AutoModelForCausalLM.from_pretrained(pico)
    write_sketch(folder, sketch(model.get_input_embeddings().weight))
    assert adapters.fit(adapters.read(folder), pico).fits
    other = Path(shutil.copytree(pico, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    save_file(
        {name: torch.randn_like(tensor) for name, tensor in tensors.items()},
        other / "model.safetensors",
        metadata={"format": "pt"},
    )
    found = adapters.fit(adapters.read(folder), other)
    assert "their embeddings differ" in found.foreign
    assert not found.fits


def test_experts_from_before_transformers_5_are_known_as_older(tmp_path):
    base, folder = save_variant("Mixtral, all linear", tmp_path)
    tensors = {}
    for layer in range(2):
        for expert in range(4):
            for name, (out, width) in {"w1": (64, 32), "w2": (32, 64), "w3": (64, 32)}.items():
                path = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = (
                    torch.randn(4, width),
                    torch.randn(out, 4),
                )
    save_file(tensors, folder / _FILE)
    change_json(
        folder / "adapter_config.json",
        target_modules=["w1", "w2", "w3"],
        target_parameters=None,
        rank_pattern={},
        alpha_pattern={},
    )
    found = adapters.fit(adapters.read(folder), base)
    assert found.older
    assert found.fits


def test_a_base_that_lacks_a_tensor_is_damaged(broken, pico, tmp_path):
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Damaged, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        adapters.fit(adapters.read(save_adapter(tmp_path / "adapter", pico)), broken)


def test_a_base_of_other_shapes_than_its_config_is_damaged(broken, pico, tmp_path):
    change_json(broken / "config.json", intermediate_size=128)
    with pytest.raises(Damaged, match="the config calls for"):
        adapters.fit(adapters.read(save_adapter(tmp_path / "adapter", pico)), broken)


def test_a_base_that_was_quantized_by_something_else_is_refused(broken, pico, tmp_path):
    change_json(broken / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(Unsupported, match="gptq"):
        adapters.fit(adapters.read(save_adapter(tmp_path / "adapter", pico)), broken)


def test_tensors_are_read_in_pieces_to_the_same_bits(pico, monkeypatch):
    monkeypatch.setattr(stored, "PIECE", 100)
    for name, whole in load_file(pico / "model.safetensors").items():
        place = stored.places([pico / "model.safetensors"])[name]
        parts = [stored.read_rows(place, first, count) for first, count in stored.steps(place.shape)]
        assert len(parts) > 1 or whole.numel() <= 100 or len(whole) <= 64
        assert torch.equal(torch.cat(parts), whole)
