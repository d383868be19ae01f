"""A base that is or was quantized: merged onto the numbers that it stands for, or back into as few bits."""

from __future__ import annotations

import json

import pytest
import torch
from adapter_steps import error, logits
from adapter_variants import save_variant
from merging_steps import left, loaded, merged, tensors
from safetensors.torch import save_file

from studio import four_bit
from studio.adapters.packing import unpack
from studio.errors import InputError, Unsupported
from studio.loading import LoadPlan, Quantization
from studio.loading.skeleton import quantization_config
from studio.models import ModelRef, Precision

_HOW = {
    "nf4": (Precision.NF4, Quantization(compute="fp32")),
    "nf4, constants as they are": (Precision.NF4, Quantization(compute="fp32", double_quant=False)),
    "fp4": (Precision.FP4, Quantization(compute="fp32")),
    "int8": (Precision.INT8, Quantization()),
}
_NAMES = ["all linear", "DoRA", "GPT-2", "GPT-2 with DoRA", "Mixtral", "a head, untied", "biases of its own"]
_MOST = [(name, how) for name in _NAMES for how in ("nf4", "int8")]
_MOST += [("all linear", how) for how in _HOW if ("all linear", how) not in _MOST]
_SOME = [case for case in _MOST if case[0] in ("all linear", "GPT-2", "Mixtral")]


def quantized(base, how):
    """The base as it is loaded to train an adapter on it."""
    from transformers import AutoModelForCausalLM

    precision, settings = _HOW[how]
    config = quantization_config(LoadPlan(ModelRef("folder", str(base)), precision, quantization=settings))
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.bfloat16)
    four_bit.guard(model)
    return model


def together(model, adapter):
    """What the adapter says on the weights that it was trained on."""
    from peft import PeftModel

    return logits(PeftModel.from_pretrained(model.dequantize(dtype=torch.float32).float(), str(adapter)))


@pytest.mark.parametrize(("name", "how"), _MOST)
def test_a_merge_onto_the_dequantized_base_is_what_was_trained(name, how, tmp_path):
    base, adapter = save_variant(name, tmp_path)
    model = quantized(base, how)
    model.save_pretrained(tmp_path / "few bits")
    expected = together(model, adapter)
    precision, settings = _HOW[how]
    plans = {
        "base": {"onto": "dequantized", "precision": precision, "quantization": settings},
        "few bits": {"onto": "dequantized"},
    }
    for folder, plan in plans.items():
        done = merged(tmp_path / folder, adapter, tmp_path / f"from {folder}", dtype="fp32", **plan)
        assert done.onto == "dequantized"
        assert done.changed == done.expected
        assert "quantization_config" not in json.loads((tmp_path / f"from {folder}" / "config.json").read_text())
        assert error(logits(loaded(tmp_path / f"from {folder}")), expected) < 1e-5


@pytest.mark.parametrize(("name", "how"), _SOME)
def test_a_merge_back_into_few_bits_is_the_merged_weight_quantized(name, how, tmp_path):
    base, adapter = save_variant(name, tmp_path)
    quantized(base, how).save_pretrained(tmp_path / "few bits", max_shard_size="30KB")
    precision, settings = _HOW[how]
    merged(
        base, adapter, tmp_path / "whole", dtype="fp32", onto="dequantized", precision=precision, quantization=settings
    )
    plans = {
        "base": {"onto": "quantized", "precision": precision, "quantization": settings},
        "few bits": {"onto": "quantized"},
    }
    for folder, plan in plans.items():
        out = tmp_path / f"from {folder}"
        done = merged(tmp_path / folder, adapter, out, shard_size=2e-5, **plan)
        assert done.onto == "quantized"
        assert done.changed == done.expected
        model = loaded(out, torch.bfloat16)
        modules, before = _packed(model), _packed(quantized(base, how))
        assert modules.keys() == before.keys()
        whole = loaded(tmp_path / "whole")
        for path, weight in modules.items():
            changed = f"{path}.weight" in done.changed
            expected = _quantized_again(whole.get_submodule(path), how) if changed else before[path]
            assert weight.equal(expected), path


def _packed(model):
    """The path of every quantized module → its packed bytes."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    kinds = (Linear4bit, Linear8bitLt)
    return {name: module.weight.data for name, module in model.named_modules() if isinstance(module, kinds)}


def _quantized_again(module, how):
    """A weight in fp32, packed by bitsandbytes itself."""
    from bitsandbytes.nn import Int8Params, Params4bit
    from transformers.pytorch_utils import Conv1D

    precision, settings = _HOW[how]
    weight = (module.weight.t() if isinstance(module, Conv1D) else module.weight).detach().contiguous()
    if precision is Precision.INT8:
        return Int8Params(weight, requires_grad=False).to("cpu").data
    packed = Params4bit(
        weight, requires_grad=False, quant_type=precision.value, compress_statistics=settings.double_quant
    )
    return packed.to("cpu").data


def test_what_the_adapter_leaves_alone_stays_packed_as_it_was(tmp_path):
    base, adapter = save_variant("one layer", tmp_path)
    quantized(base, "nf4").save_pretrained(tmp_path / "few bits")
    done = merged(tmp_path / "few bits", adapter, tmp_path / "out", dtype="as the base", onto="quantized")
    before, after = tensors(tmp_path / "few bits"), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    differing = {name for name in before if not _same(before[name], after[name])}
    assert {name.partition(".weight")[0] + ".weight" for name in differing} == set(done.changed)
    assert len(done.changed) == 2
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["bnb_4bit_quant_type"] == "nf4"


def _same(one, other):
    """The state may have spaces at its end."""
    if one.dtype == torch.uint8 and one.ndim == 1 and bytes(one.tolist()).startswith(b"{"):
        return json.loads(bytes(one.tolist())) == json.loads(bytes(other.tolist()))
    return torch.equal(one, other)


def test_a_base_that_is_there_quantized_alone_is_dequantized(tmp_path):
    base, adapter = save_variant("all linear", tmp_path)
    model = quantized(base, "nf4")
    model.save_pretrained(tmp_path / "few bits")
    done = merged(tmp_path / "few bits", adapter, tmp_path / "out", dtype="fp32")
    assert done.onto == "dequantized"
    assert error(logits(loaded(tmp_path / "out")), together(model, adapter)) < 1e-5


def test_the_original_base_is_not_the_dequantized_one(tmp_path):
    base, adapter = save_variant("all linear", tmp_path)
    expected = together(quantized(base, "nf4"), adapter)
    assert merged(base, adapter, tmp_path / "out", dtype="fp32").onto == "original"
    assert error(logits(loaded(tmp_path / "out")), expected) > 1e-2


def test_a_plan_that_does_not_say_how_is_refused(tmp_path):
    base, adapter = save_variant("q and v", tmp_path)
    for onto in ("dequantized", "quantized"):
        with pytest.raises(InputError, match="is not quantized"):
            merged(base, adapter, tmp_path / "out", onto=onto)
    quantized(base, "int8").save_pretrained(tmp_path / "few bits")
    with pytest.raises(InputError, match="is quantized already"):
        merged(tmp_path / "few bits", adapter, tmp_path / "out", onto="quantized", precision=Precision.NF4)
    with pytest.raises(InputError, match="no use for nf4"):
        merged(base, adapter, tmp_path / "out", precision=Precision.NF4)
    assert left(tmp_path) == ["adapter", "base", "few bits"]


def test_what_goes_by_way_of_the_memory_goes_onto_the_original_alone(tmp_path):
    from peft import LoraConfig, get_peft_model

    base, adapter = save_variant("q and v", tmp_path)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    get_peft_model(loaded(base), config).save_pretrained(adapter)
    with pytest.raises(Unsupported, match="is or was quantized"):
        merged(base, adapter, tmp_path / "out", onto="dequantized", precision=Precision.NF4)
    assert left(tmp_path) == ["adapter", "base"]


def test_packed_bytes_by_another_name_stand_for_the_same(tmp_path):
    base, adapter = save_variant("q and v", tmp_path)
    quantized(base, "nf4").save_pretrained(tmp_path / "few bits")
    merged(tmp_path / "few bits", adapter, tmp_path / "one", dtype="fp32")
    stored = tensors(tmp_path / "few bits")
    for name, tensor in stored.items():
        if tensor.dtype == torch.uint8 and name.endswith(".weight"):
            stored[name] = tensor.flatten().view(torch.bfloat16).unsqueeze(1)
    save_file(stored, tmp_path / "few bits" / "model.safetensors", metadata={"format": "pt"})
    merged(tmp_path / "few bits", adapter, tmp_path / "two", dtype="fp32")
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(Unsupported, match="as FSDP wants them"):
        merged(tmp_path / "few bits", adapter, tmp_path / "three", onto="quantized")


def test_a_packed_matrix_stands_for_what_bitsandbytes_says(tmp_path):
    base, _ = save_variant("q and v", tmp_path)
    model = quantized(base, "nf4")
    model.save_pretrained(tmp_path / "few bits")
    stored = tensors(tmp_path / "few bits")
    path = "model.layers.0.mlp.up_proj"
    parts = {
        name.removeprefix(f"{path}.weight").lstrip("."): t for name, t in stored.items() if f"{path}.weight" in name
    }
    whole = model.dequantize(dtype=torch.bfloat16).get_submodule(path).weight
    assert torch.equal(unpack(parts), whole)
