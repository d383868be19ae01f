"""Adapters that are more than a product of two matrices: by PEFT in memory, and right, or refused with the reason."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from adapter_steps import error, logits
from adapter_variants import disturb, on_top, save_variant
from merging_steps import ADAPTER, left, loaded, merged
from pico import change_json
from safetensors.torch import load_file, save_file
from training_shapes import made

from studio import compute
from studio.errors import Damaged, DoesNotFit, Unsupported
from studio.merging import MergePlan, in_memory, merge

_ATTENTION = ["q_proj", "v_proj"]
_IA3 = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
IN_MEMORY: dict[str, tuple[str, dict[str, Any]]] = {
    "IA3": ("IA3Config", _IA3),
    "IA3 with a head": ("IA3Config", {**_IA3, "modules_to_save": ["lm_head"]}),
    "IA3 with an embedding": ("IA3Config", {**_IA3, "modules_to_save": ["embed_tokens"]}),
    "LoHa": ("LoHaConfig", {"target_modules": _ATTENTION, "r": 4}),
    "LoKr": ("LoKrConfig", {"target_modules": _ATTENTION, "r": 4}),
    "AdaLoRA": ("AdaLoraConfig", {"target_modules": _ATTENTION, "init_r": 6, "target_r": 4, "total_step": 10}),
    "OFT": ("OFTConfig", {"target_modules": _ATTENTION, "r": 0, "oft_block_size": 8}),
    "VeRA": ("VeraConfig", {"target_modules": ["q_proj", "o_proj"], "r": 8}),
    "HRA": ("HRAConfig", {"target_modules": _ATTENTION, "r": 4}),
    "MiSS": ("MissConfig", {"target_modules": _ATTENTION, "r": 4}),
    "norms": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "PiSSA": ("LoraConfig", {"target_modules": _ATTENTION, "r": 4, "init_lora_weights": "pissa"}),
    "OLoRA": ("LoraConfig", {"target_modules": _ATTENTION, "r": 4, "init_lora_weights": "olora"}),
    "QA-LoRA": ("LoraConfig", {"target_modules": _ATTENTION, "r": 4, "use_qalora": True, "qalora_group_size": 8}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}, "it is a prompt"),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 4}, "it lies in the cache"),
    "BOFT": ("BOFTConfig", {"target_modules": _ATTENTION, "boft_block_size": 4}, "before all weights are there"),
    "aLoRA": ("LoraConfig", {"target_modules": _ATTENTION, "alora_invocation_tokens": [3, 4]}, "behind certain tokens"),
    "more layers": ("LoraConfig", {"target_modules": _ATTENTION, "layer_replication": [[0, 2], [0, 2]]}, "more layers"),
    "PiSSA by chance": ("LoraConfig", {"target_modules": _ATTENTION, "init_lora_weights": "pissa_niter_4"}, "conver"),
}


def save_kind(kind, settings, folder):
    """The base, the adapter and what both say together."""
    import peft

    made("llama").save_pretrained(folder / "base", max_shard_size="30KB")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        config = getattr(peft, kind)(task_type="CAUSAL_LM", **settings)
        adapted = peft.get_peft_model(loaded(folder / "base"), config)
        disturb(adapted)
        adapted.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter", logits(adapted)


@pytest.mark.parametrize("name", IN_MEMORY)
def test_an_adapter_of_another_kind_is_merged_in_memory(name, tmp_path):
    base, adapter, together = save_kind(*IN_MEMORY[name], tmp_path)
    done = merged(base, adapter, tmp_path / "out", dtype="fp32", shard_size=3e-5)
    assert (done.way, bool(done.why)) == ("in memory", True)
    assert done.changed
    assert error(logits(loaded(tmp_path / "out")), together) < 1e-5
    assert done.untied == (name in ("IA3 with a head", "IA3 with an embedding"))


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_is_no_change_of_weights_is_refused(name, tmp_path):
    kind, settings, why = REFUSED[name]
    base, adapter, _ = save_kind(kind, settings, tmp_path)
    with pytest.raises(Unsupported, match=why):
        merged(base, adapter, tmp_path / "out")
    assert left(tmp_path) == ["adapter", "base"]


def test_experts_with_the_names_of_before_transformers_5_are_merged_in_memory(tmp_path):
    base, adapter = save_variant("Mixtral", tmp_path)
    tensors = {}
    for layer in range(2):
        for expert in range(4):
            for name, (out, width) in {"w1": (64, 32), "w2": (32, 64), "w3": (64, 32)}.items():
                path = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{path}.lora_A.weight"] = torch.randn(4, width) / 10
                tensors[f"{path}.lora_B.weight"] = torch.randn(out, 4) / 10
    save_file(tensors, adapter / ADAPTER)
    change_json(adapter / "adapter_config.json", target_modules=["w1", "w2", "w3"], target_parameters=None)
    done = merged(base, adapter, tmp_path / "out", dtype="fp32")
    assert done.way == "in memory"
    assert len(done.changed) == len(tensors) // 2
    assert error(logits(loaded(tmp_path / "out")), logits(on_top(base, adapter))) < 1e-5
    for layer, expert, name in ((0, 1, "w1"), (1, 3, "w2"), (1, 0, "w3")):
        path = f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
        a, b = (tensors[f"base_model.model.{path}.lora_{letter}.weight"] for letter in "AB")
        before, after = (_tensor(folder, f"{path}.weight") for folder in (base, tmp_path / "out"))
        torch.testing.assert_close(after - before, b @ a * 2, rtol=1e-4, atol=1e-5)


def _tensor(folder, name):
    return next(tensors[name] for file in folder.glob("*.safetensors") if name in (tensors := load_file(file)))


def test_what_does_not_fit_into_the_memory_is_refused(tmp_path, monkeypatch):
    base, adapter, _ = save_kind(*IN_MEMORY["IA3"], tmp_path)
    monkeypatch.setattr(compute, "free_ram", lambda: 100_000)
    with pytest.raises(DoesNotFit, match="merged in memory, which takes"):
        merged(base, adapter, tmp_path / "out")
    assert left(tmp_path) == ["adapter", "base"]


def test_a_merge_in_memory_that_is_wrong_is_not_written(tmp_path, monkeypatch):
    base, adapter, _ = save_kind(*IN_MEMORY["LoHa"], tmp_path)
    monkeypatch.setattr(in_memory, "_merged", lambda adapted: adapted.unload())  # as if PEFT had forgotten it
    with pytest.raises(Unsupported, match="PEFT does not merge this adapter right"):
        merged(base, adapter, tmp_path / "out")
    assert left(tmp_path) == ["adapter", "base"]


def test_a_merge_in_memory_that_does_not_load_as_it_was_is_not_kept(tmp_path, monkeypatch):
    base, adapter, _ = save_kind(*IN_MEMORY["LoHa"], tmp_path)
    save = in_memory._save

    def badly(model, folder, size):
        model.get_input_embeddings().weight.data[3] += 1
        save(model, folder, size)
        model.get_input_embeddings().weight.data[3] -= 2

    monkeypatch.setattr(in_memory, "_save", badly)
    with pytest.raises(Damaged, match=r"embed_tokens\.weight does not load as it was merged"):
        merged(base, adapter, tmp_path / "out")
    assert left(tmp_path) == ["adapter", "base"]


def test_a_merge_in_memory_that_is_closed_leaves_nothing(tmp_path):
    base, adapter, _ = save_kind(*IN_MEMORY["OFT"], tmp_path)
    events = merge(MergePlan(base, adapter, tmp_path / "out"))
    next(events)
    events.close()
    assert left(tmp_path) == ["adapter", "base"]


def test_a_sum_in_memory_that_the_dtype_does_not_reach_is_named(tmp_path):
    base, adapter, _ = save_kind(*IN_MEMORY["IA3"], tmp_path)
    tensors = load_file(adapter / ADAPTER)
    save_file({name: tensor * 1e6 for name, tensor in tensors.items()}, adapter / ADAPTER)
    with pytest.raises(Damaged, match=r"(k|down)_proj\.weight would hold values that are not numbers in fp16"):
        merged(base, adapter, tmp_path / "out", dtype="fp16")
    assert left(tmp_path) == ["adapter", "base"]
