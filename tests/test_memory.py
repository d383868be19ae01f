"""What a model takes in memory: the same number before it is loaded and after, and the same as counted by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import load_pico, save_pico

from studio.loading import LoadPlan, Quantization, outlook
from studio.memory import ModuleWeights, by_device, by_dtype, four_bit_bytes, int8_bytes, measured, total
from studio.models import ModelRef, Precision

SHAPE = {"vocab_size": 261, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
GEMMA = {**SHAPE, **HEADS, "head_dim": 16, "pad_token_id": 0}
ODD = {"hidden_size": 36, "intermediate_size": 75, "num_attention_heads": 3, "num_key_value_heads": 1}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied": ("Llama", {**SHAPE, **HEADS, "tie_word_embeddings": True}),
    "llama, odd and with biases": (
        "Llama",
        {**SHAPE, **HEADS, **ODD, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    ),
    "qwen2": ("Qwen2", {**SHAPE, **HEADS, "tie_word_embeddings": False}),
    "gpt2": ("GPT2", {"vocab_size": 261, "n_embd": 36, "n_layer": 2, "n_head": 3, "n_positions": 64}),
    "gemma2": ("Gemma2", GEMMA),
    "gemma3": ("Gemma3", {**GEMMA, "tie_word_embeddings": True}),
    "mixtral": ("Mixtral", {**SHAPE, **HEADS, "num_local_experts": 4, "tie_word_embeddings": False}),
    "qwen3 moe": (
        "Qwen3Moe",
        {**SHAPE, **HEADS, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": Precision.FP32},
    "bf16": {"precision": Precision.BF16},
    "int8": {"precision": Precision.INT8},
    "nf4": {"precision": Precision.NF4, "quantization": Quantization(double_quant=False)},
    "nf4, double": {"precision": Precision.NF4},
    "fp4": {"precision": Precision.FP4, "quantization": Quantization(double_quant=False, storage="bf16")},
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A folder with a model of a family; each is made once."""

    @cache
    def made(name: str) -> Path:
        import transformers

        folder = save_pico(tmp_path_factory.mktemp("families") / "model")
        kind, shape = FAMILIES[name]
        config_kind = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
        config = getattr(transformers, config_kind)(**shape)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(
                config
            ).save_pretrained(folder)
        return folder

    return made


def plan_of(folder, **fields):
    return LoadPlan(**{"model": ModelRef("folder", str(folder)), **fields})


def bytes_by_hand(model):
    """The bytes of all storages that are reachable from the model, each counted once, by where they begin."""
    storages = {}

    def hold(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()

    for tensor in (*model.parameters(), *model.buffers()):
        hold(tensor)
        waiting = [value for key, value in vars(tensor).items() if key in ("SCB", "quant_state")]
        while waiting:
            thing = waiting.pop()
            if isinstance(thing, torch.Tensor):
                hold(thing)
            elif hasattr(thing, "__dict__"):
                waiting += vars(thing).values()
    return sum(storages.values())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_estimated_is_what_is_there(family, name, way):
    folder = family(name)
    ahead = outlook(plan_of(folder, **WAYS[way]), folder)
    loaded = load_pico(folder, **WAYS[way])
    resident = loaded.resident
    assert ahead.weights == resident.estimated == resident.weights == sum(block.bytes for block in ahead.blocks)
    assert resident.weights == bytes_by_hand(loaded.model)
    assert ahead.parameters == resident.parameters == counted(folder)
    before = [(m.name, m.kind, m.dtype, m.parameters, m.bytes, m.note) for m in ahead.modules]
    assert before == [(m.name, m.kind, m.dtype, m.parameters, m.bytes, m.note) for m in resident.modules]
    assert sum(by_dtype(ahead.modules).values()) == total(resident.modules)
    assert by_dtype(ahead.modules) == by_dtype(resident.modules)
    assert by_device(resident.modules) == {"cpu": resident.weights}


@cache
def counted(folder):
    """The parameters of a model as transformers counts them, without a studio."""
    from transformers import AutoModelForCausalLM

    return sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())


# What is said of a module


def look(folder, **fields):
    return {module.name: module for module in outlook(plan_of(folder, **fields), folder).modules}


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.NF4])
@pytest.mark.parametrize("name", ["mixtral", "qwen3 moe"])
def test_fused_experts_are_left_alone_and_say_so(family, name, precision):
    modules = look(family(name), precision=precision)
    experts = [module for module in modules.values() if module.name.endswith(".experts")]
    assert len(experts) == 2
    assert {module.note for module in experts} == {"fused experts: bitsandbytes quantizes linear layers only"}
    assert {module.dtype for module in experts} == {"bfloat16"}
    assert [module.name for module in modules.values() if module.note and module not in experts] == ["lm_head"]


def test_the_head_says_why_it_was_left_alone_and_layers_that_were_not_say_nothing(family):
    modules = look(family("qwen2"), precision=Precision.NF4)
    assert [(name, module.note) for name, module in modules.items() if module.note] == [
        ("lm_head", "the head, which chooses the tokens, loses most")
    ]
    assert not any(module.note for module in look(family("mixtral"), precision=Precision.BF16).values())


def test_a_kept_layer_of_gpt2_says_so_though_it_is_no_linear_layer(family):
    modules = look(family("gpt2"), precision=Precision.INT8, quantization=Quantization(keep="c_attn"))
    kept = modules["transformer.h.0.attn.c_attn"]
    assert (kept.kind, kept.note) == ("Conv1D", "named among those to keep")
    assert modules["transformer.h.0.attn.c_proj"].kind == "Linear8bitLt"


# Arithmetic


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (64, 64), (75, 37), (512, 65)])
@pytest.mark.parametrize("double_quant", [True, False])
def test_the_formula_is_what_bitsandbytes_holds(shape, double_quant):
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    linear = Linear4bit(shape[1], shape[0], bias=False, compress_statistics=double_quant, quant_type="nf4").to("cpu")
    assert total(measured(linear, {})) == four_bit_bytes(shape[0] * shape[1], double_quant=double_quant)
    eight = Linear8bitLt(shape[1], shape[0], bias=False, has_fp16_weights=False).to("cpu")
    assert total(measured(eight, {})) == int8_bytes(*shape) == bytes_by_hand(eight)


def test_views_of_one_storage_are_counted_once_and_whole():
    flat = torch.zeros(100)
    module = torch.nn.ParameterList([torch.nn.Parameter(flat[:30].detach()), torch.nn.Parameter(flat[:10].detach())])
    assert total(measured(module, {})) == 400 == bytes_by_hand(module)


def test_sums_are_told_largest_first():
    modules = [
        ModuleWeights("a", "Linear", "int8", 1, 5, "cpu"),
        ModuleWeights("b", "Linear", "nf4", 1, 7, "disk"),
        ModuleWeights("c", "Linear", "int8", 1, 1, "disk"),
    ]
    assert list(by_dtype(modules).items()) == [("nf4", 7), ("int8", 6)]
    assert list(by_device(modules).items()) == [("disk", 8), ("cpu", 5)]
    assert total(modules) == 13
