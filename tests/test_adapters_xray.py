"""An adapter is seen through by its factors alone, and what it says of each update is what the whole update says."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from adapter_steps import adapted, deltas, result_of
from adapter_variants import VARIANTS, on_top, save_variant
from pico import change_json, save_adapter, save_pico
from safetensors.torch import load_file, save_file

from studio import adapters
from studio.adapters.factors import effective_rank, rank_for
from studio.errors import Damaged, InputError, Unsupported
from studio.events import Progress

_FILE = "adapter_model.safetensors"


@pytest.mark.parametrize("name", ["q and v", "rsLoRA", "patterns", "GPT-2", "embedding and head adapted", "Phi-3"])
def test_norms_and_singular_values_are_those_of_the_whole_update(name, tmp_path):
    base, folder = save_variant(name, tmp_path)
    expected = deltas(base, folder)
    weights = dict(on_top(base, folder).base_model.model.named_modules())
    seen = result_of(adapters.xray(folder, base))
    assert {module.module for module in seen.modules} == set(expected)
    for module in seen.modules:
        delta, weight = expected[module.module].double(), weights[module.module].get_base_layer().weight
        values = torch.linalg.svdvals(delta)[: module.rank]
        torch.testing.assert_close(torch.tensor(module.values).double(), values, rtol=1e-4, atol=1e-6)
        assert module.norm == pytest.approx(float(delta.norm()), rel=1e-5)
        assert module.weight_norm == pytest.approx(float(weight.norm()), rel=1e-5)
        assert module.relative == pytest.approx(float(delta.norm() / weight.norm()), rel=1e-5)
        assert module.effect == "some"
    json.dumps(asdict(seen))


def test_with_dora_the_lengths_are_in_the_norm(tmp_path):
    for name in ("DoRA", "GPT-2 with DoRA"):
        base, folder = save_variant(name, tmp_path / name)
        model = on_top(base, folder)
        layers = adapted(model)
        before = {path: layer.get_base_layer().weight.detach().clone() for path, layer in layers.items()}
        model.merge_adapter()
        for module in result_of(adapters.xray(folder, base)).modules:
            moved = layers[module.module].get_base_layer().weight - before[module.module]
            assert module.dora
            assert module.norm == pytest.approx(float(moved.norm()), rel=1e-4)
            assert module.norm != pytest.approx(sum(value**2 for value in module.values) ** 0.5, rel=1e-2)


def test_fused_experts_count_together(tmp_path):
    base, folder = save_variant("Mixtral", tmp_path)
    expected = deltas(base, folder)
    for module in result_of(adapters.xray(folder, base)).modules:
        assert module.norm == pytest.approx(float(expected[module.module].norm()), rel=1e-4)
        if "experts" in module.name:
            assert (module.rank, len(module.values)) == (16, 16)
            assert module.name.startswith("mlp.experts.")
            assert module.relative > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_adapter_can_be_looked_at(name, tmp_path):
    base, folder = save_variant(name, tmp_path)
    seen = result_of(adapters.xray(folder, base))
    adapter = adapters.read(folder)
    assert len(seen.modules) == len(adapter.modules)
    assert len(seen.whole) == len(adapter.whole) + len(adapter.tokens)
    assert 0 < seen.relative < 10


def test_the_effective_rank_counts_directions():
    assert effective_rank(torch.tensor([3.0, 3.0, 3.0, 3.0])) == pytest.approx(4)
    assert effective_rank(torch.tensor([5.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.zeros(3)) == 0
    values = torch.tensor([10.0, 1.0, 0.1])
    assert [rank_for(values, share) for share in (0.99, 0.999, 0.9999999)] == [1, 2, 3]
    assert rank_for(torch.zeros(3), 0.99) == 0


def test_what_does_nothing_and_what_rounding_would_lose_is_called_out(pico, tmp_path):
    folder = save_adapter(tmp_path / "adapter", pico)
    tensors = load_file(folder / _FILE)
    for name in tensors:
        if "layers.0.self_attn.q_proj.lora_B" in name:
            tensors[name].zero_()
        if "layers.1.self_attn.v_proj.lora_B" in name:
            tensors[name] *= 1e-5
    save_file(tensors, folder / _FILE)
    seen = result_of(adapters.xray(folder, pico))
    found = {(module.layer, module.name): module.effect for module in seen.modules}
    assert found == {
        (0, "self_attn.q_proj"): "none",
        (0, "self_attn.v_proj"): "some",
        (1, "self_attn.q_proj"): "some",
        (1, "self_attn.v_proj"): "faint",
    }
    assert seen.without_effect == ("model.layers.0.self_attn.q_proj",)
    nothing = seen.modules[0]
    assert (nothing.norm, nothing.relative, nothing.effective_rank, nothing.enough) == (0, 0, 0, 0)


def test_an_adapter_that_was_never_trained_has_no_effect_with_dora_too(pico, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", use_dora=True)
    get_peft_model(AutoModelForCausalLM.from_pretrained(pico), config).save_pretrained(tmp_path / "adapter")
    seen = result_of(adapters.xray(tmp_path / "adapter", pico))
    assert len(seen.without_effect) == len(seen.modules) == 2


def test_a_tensor_that_was_saved_whole_is_held_against_the_base(tmp_path):
    base, folder = save_variant("norms", tmp_path)
    brought = load_file(folder / _FILE)
    (tmp_path / "adapter" / _FILE).unlink()
    name = "base_model.model.model.norm.weight"
    brought[name] = torch.ones_like(brought[name])  # as in the base
    save_file(brought, folder / _FILE)
    found = {each.name: each for each in result_of(adapters.xray(folder, base)).whole}
    assert found["model.norm.weight"].effect == "none"
    other = found["model.layers.0.input_layernorm.weight"]
    change = brought["base_model.model.model.layers.0.input_layernorm.weight"] - 1
    assert other.norm == pytest.approx(float(change.norm()), rel=1e-4)
    assert (other.effect, other.rows) == ("some", None)


def test_rows_that_were_trained_are_held_against_the_same_rows_of_the_base(tmp_path):
    base, folder = save_variant("tokens, untied", tmp_path)
    tables, brought = load_variant(base), load_file(folder / _FILE)
    for each in result_of(adapters.xray(folder, base)).whole:
        rows = [3, 77] if "embed" in each.name else [5]
        key = next(
            name for name in brought if "trainable_tokens" in name and ("embed" in name) == ("embed" in each.name)
        )
        before = tables[each.name][rows]
        assert (each.rows, each.new_rows) == (len(rows), 0)
        assert each.norm == pytest.approx(float((brought[key] - before).norm()), rel=1e-4)
        assert each.relative == pytest.approx(each.norm / float(before.norm()), rel=1e-4)


def load_variant(base):
    """All tensors of a base, which lies in several files."""
    return {name: tensor for file in base.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_new_rows_of_an_embedding_are_told_apart_from_those_that_changed(tmp_path):
    base, folder = save_variant("new tokens, tied", tmp_path)
    whole = result_of(adapters.xray(folder, base)).whole
    assert [(each.rows, each.new_rows, each.effect) for each in whole if each.rows] == [(2, 2, "some")] * 2
    # PEFT saves both tables of an enlarged vocabulary along, which are the base's but for the new rows.
    assert [(each.rows, each.new_rows, each.norm) for each in whole if not each.rows] == [(None, 2, 0)] * 2


def test_a_heat_map_has_a_row_a_layer_and_a_column_a_name(tmp_path):
    base, folder = save_variant("a regular expression", tmp_path)
    drawn = adapters.heat_map(result_of(adapters.xray(folder, base)), lambda module: module.relative)
    assert drawn.layers == (1,)
    assert set(drawn.names) == {"self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"}
    base, folder = save_variant("embedding and head adapted", tmp_path / "other")
    drawn = adapters.heat_map(result_of(adapters.xray(folder, base)), lambda module: module.effective_rank)
    assert drawn.layers == (None, 0, 1)
    assert [len(row) for row in drawn.cells] == [4, 4, 4]
    assert drawn.cells[1][drawn.names.index("lm_head")] is None
    assert drawn.cells[0][drawn.names.index("lm_head")] > 1


def test_what_does_not_belong_together_is_refused(pico, tmp_path):
    folder = save_adapter(tmp_path / "adapter", pico)
    wide = save_pico(tmp_path / "wide", hidden_size=64)
    with pytest.raises(InputError, match=r"does not fit this base: .*q_proj"):
        result_of(adapters.xray(folder, wide))
    change_json(folder / "adapter_config.json", init_lora_weights="pissa")
    with pytest.raises(Unsupported, match="pissa"):
        result_of(adapters.xray(folder, pico))
    change_json(folder / "adapter_config.json", peft_type="LOHA")
    with pytest.raises(Unsupported, match="LOHA"):
        result_of(adapters.xray(folder, pico))


def test_a_number_that_is_none_is_named(pico, tmp_path):
    folder = save_adapter(tmp_path / "adapter", pico)
    tensors = load_file(folder / _FILE)
    next(tensor for name, tensor in tensors.items() if "layers.1.self_attn.q_proj.lora_A" in name)[0, 0] = torch.nan
    save_file(tensors, folder / _FILE)
    with pytest.raises(Damaged, match=r"layers\.1\.self_attn\.q_proj"):
        result_of(adapters.xray(folder, pico))


def test_looking_can_be_given_up(pico, tmp_path):
    work = adapters.xray(save_adapter(tmp_path / "adapter", pico), pico)
    assert isinstance(next(work), Progress)
    work.close()
    assert list(work) == []
