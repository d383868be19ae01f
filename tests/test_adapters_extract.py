"""What a full fine-tuning changed becomes a LoRA adapter as near to it as its rank allows, and the error is told."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from adapter_steps import deltas, error, learn, logits, reloaded, result_of
from adapter_variants import on_top, save_variant
from pico import save_pico
from safetensors.torch import load_file, save_file
from training_shapes import made

from studio import adapters
from studio.adapters import ExtractPlan, factors
from studio.errors import Damaged, InputError


def merged(base, folder, target):
    """The adapter merged by PEFT, as a model of its own."""
    on_top(base, folder).merge_and_unload().save_pretrained(target)
    return target


@pytest.mark.parametrize("name", ["all linear", "GPT-2", "Phi-3", "OPT", "Gemma 2"])
def test_a_merged_adapter_is_found_again(name, tmp_path):
    base, folder = save_variant(name, tmp_path)
    tuned = merged(base, folder, tmp_path / "tuned")
    done = result_of(adapters.extract(ExtractPlan(base, tuned, tmp_path / "again", rank=4)))
    assert done.error < 1e-3
    assert done.left_out == ()
    before, after = deltas(base, folder), deltas(base, tmp_path / "again")
    assert before.keys() == after.keys()
    for path, delta in before.items():
        assert error(after[path], delta) < 1e-3
    assert adapters.fit(adapters.read(tmp_path / "again"), base).fits
    json.dumps(asdict(done))


def test_the_error_of_a_full_fine_tuning_falls_with_the_rank_to_nothing(tmp_path):
    from transformers import AutoModelForCausalLM

    made("qwen2").save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    learn(model)
    model.save_pretrained(tmp_path / "tuned")
    plain = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    files = [load_file(tmp_path / side / "model.safetensors") for side in ("base", "tuned")]
    errors, distances = [], []
    for rank in (1, 8, 64):
        done = result_of(
            adapters.extract(ExtractPlan(tmp_path / "base", tmp_path / "tuned", tmp_path / str(rank), rank))
        )
        errors.append(done.error)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        distances.append(error(logits(reloaded(base, tmp_path / str(rank))), logits(model)))
        for module in done.modules:
            before, after = (held[f"{module.module}.weight"].double() for held in files)
            values = torch.linalg.svdvals(after - before)
            lost = float(values[module.rank :].norm() / values.norm())
            assert module.error == pytest.approx(lost, rel=1e-2, abs=1e-5)
            assert module.relative == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5
    # Nothing but what was left out keeps the last one from being the tuned model.
    assert error(logits(model), plain) > distances[0] > distances[1] > distances[2]
    left = {each.parameter for each in done.left_out}
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= left
    assert "model.layers.0.self_attn.q_proj.bias" in left
    assert done.error < done.error_with_left_out < 1


def test_layers_that_were_frozen_are_not_targets(tmp_path):
    base, folder = save_variant("q and v", tmp_path)
    done = result_of(adapters.extract(ExtractPlan(base, merged(base, folder, tmp_path / "tuned"), tmp_path / "again")))
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]  # PEFT keeps a set
    assert config["base_model_name_or_path"] == str(base)
    assert (config["r"], config["lora_alpha"], done.rank) == (32, 32, 32)
    # v_proj has 16 outputs, and a higher rank says nothing more.
    assert {(module.name, module.rank) for module in done.modules} == {
        ("self_attn.q_proj", 32),
        ("self_attn.v_proj", 16),
    }


def test_the_adapter_knows_its_base(tmp_path):
    base, folder = save_variant("q and v", tmp_path)
    tuned = merged(base, folder, tmp_path / "tuned")
    plan = ExtractPlan(base, tuned, tmp_path / "again", 4, "owner/name")
    result_of(adapters.extract(plan))
    again = adapters.read(tmp_path / "again")
    assert again.base == "owner/name"
    made("llama").save_pretrained(tmp_path / "other")
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    tensors["model.embed_tokens.weight"] = torch.randn_like(tensors["model.embed_tokens.weight"])
    save_file(tensors, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    assert "their embeddings differ" in adapters.fit(again, tmp_path / "other").foreign


def test_two_models_that_are_the_same_leave_nothing_to_extract(pico, tmp_path):
    other = save_pico(tmp_path / "other")
    with pytest.raises(InputError, match="nothing for an adapter"):
        result_of(adapters.extract(ExtractPlan(pico, other, tmp_path / "adapter")))
    with pytest.raises(InputError, match="one folder"):
        ExtractPlan(pico, pico, tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_models_of_two_shapes_are_refused_by_name(pico, tmp_path):
    deep = save_pico(tmp_path / "deep", num_hidden_layers=3)
    with pytest.raises(InputError, match=r"model\.layers\.2\..* is absent in the base"):
        result_of(adapters.extract(ExtractPlan(pico, deep, tmp_path / "adapter")))


def test_a_tuned_model_with_a_number_that_is_none_is_named(pico, broken, tmp_path):
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = torch.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Damaged, match=r"model\.layers\.1\.mlp\.up_proj"):
        result_of(adapters.extract(ExtractPlan(pico, broken, tmp_path / "adapter")))


def test_closing_leaves_nothing(pico, tmp_path):
    work = adapters.extract(ExtractPlan(pico, save_pico(tmp_path / "other"), tmp_path / "adapter"))
    next(work)
    work.close()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_large_matrices_are_taken_apart_nearly_as_well(monkeypatch):
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(300, 200))[0], torch.linalg.qr(torch.randn(200, 200))[0]
    matrix = u * torch.logspace(0, -3, 200) @ v.t()  # falls as slowly as real ones do
    a, b = factors.nearest(matrix, 16)
    best = float((matrix - b @ a).norm())
    monkeypatch.setattr(factors, "_EXACT", 100)
    a, b = factors.nearest(matrix, 16)
    assert best * 0.9999 < float((matrix - b @ a).norm()) < best * 1.001
    again = factors.nearest(matrix, 16)
    assert torch.equal(again[0], a)
