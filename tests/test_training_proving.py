"""Gradients through quantized weights are right on this machine, or the run does not begin."""

from __future__ import annotations

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes import functional
from pico import byte_tokenizer, save_pico

from studio import four_bit, training
from studio.errors import Damaged, StudioError, Unsupported
from studio.training.proving import dequantized

EVERY = tuple((rows, tokens) for rows in (1, 2, 4) for tokens in (1, 3, 16, 128))
FORMATS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "nf4, double, bf16": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    },
    "int8": {"load_in_8bit": True},
}
ERROR = {"nf4": 1e-5, "nf4, double, bf16": 3e-2, "int8": 5e-2}

needs_kernel = pytest.mark.skipif(
    not getattr(functional, "has_avx512bf16", bool)(), reason="the fast kernel needs a CPU with AVX512-BF16"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pico(tmp_path_factory.mktemp("proving"), hidden_size=64, intermediate_size=128, initializer_range=0.15)


def load(folder, form, *, guarded=True):
    """A quantized model, with the guard of the studio or as bitsandbytes leaves it."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(**FORMATS[form])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=how).eval()
    if guarded:
        four_bit.guard(model)
    return model


def adapted(model):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(model, config)


def exact(model):
    """A quantized model with the weights as they read in fp32, in layers of torch."""
    for name, layer in list(model.named_modules()):
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt"):
            plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
            plain.weight = torch.nn.Parameter(dequantized(layer).clone(), requires_grad=False)
            model.set_submodule(name, plain)
    return model


def gradients(model, ids, *, checkpointing=False):
    (model.gradient_checkpointing_enable if checkpointing else model.gradient_checkpointing_disable)()
    model.train()
    model.zero_grad()
    logits = model(ids, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def apart(found, expected):
    assert found.keys() == expected.keys()
    whole = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    # Attention to a single token has no gradient, and rounding is all there is of it.
    return max(
        float((found[name] - expected[name]).norm() / max(expected[name].norm(), 1e-3 * whole)) for name in found
    )


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_of_the_studio_learns_what_its_weights_in_fp32_would(form, folder):
    ours, reference = adapted(load(folder, form)), adapted(exact(load(folder, form)))
    for rows, tokens in EVERY:
        ids = torch.randint(5, 200, (rows, tokens), generator=torch.Generator().manual_seed(tokens))
        expected = gradients(reference, ids)
        for checkpointing in (False, True):
            with torch.no_grad():
                ours.eval()(ids)
            assert apart(gradients(ours, ids, checkpointing=checkpointing), expected) < 5 * ERROR[form]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("ran", [False, True])
def test_the_check_passes_a_model_of_the_studio_in_every_shape(form, ran, folder):
    model = training.adapt(load(folder, form), training.TrainingSettings(rank=4), byte_tokenizer()).model
    if ran:
        with torch.no_grad():
            model.eval()(torch.arange(10, 26)[None])
    proof = training.check_gradients(model, EVERY)
    # q and o, k and v, gate and up, down
    assert [name.rpartition(".")[2] for name in proof.layers] == ["q_proj", "k_proj", "gate_proj", "down_proj"]
    assert 0 <= proof.error < ERROR[form]
    assert proof.error <= proof.within


def test_a_model_that_is_not_quantized_has_nothing_to_check(pico):
    from pico import load_pico

    assert training.check_gradients(load_pico(pico).model) == training.Proof((), 0.0, 1e-4)


@needs_kernel
@pytest.mark.parametrize("ran", [False, True])
def test_plain_layers_that_an_evaluation_packs_are_caught(ran, folder):
    model = load(folder, "nf4", guarded=False)
    ids = torch.arange(10, 26)[None]
    if ran:
        for layer in model.modules():
            if isinstance(layer, bnb.nn.Linear4bit):
                layer.compute_dtype = torch.bfloat16
        with torch.no_grad():
            model(ids)
    with pytest.raises(Damaged if ran else Unsupported, match="wrong") as caught:
        training.check_gradients(adapted(model))
    assert caught.value.hint


@needs_kernel
def test_what_is_caught_is_wrong_indeed(folder):
    model = load(folder, "nf4, double, bf16", guarded=False)
    ids = torch.arange(10, 26)[None]
    expected = gradients(adapted(exact(load(folder, "nf4, double, bf16"))), ids)
    with torch.no_grad():
        model(ids)
    assert apart(gradients(adapted(model), ids), expected) > 0.5


@pytest.mark.parametrize("form", FORMATS)
def test_a_kernel_that_computes_something_else_is_caught(form, folder, monkeypatch):
    model = load(folder, form)
    name = "matmul" if form == "int8" else "matmul_4bit"
    true = getattr(bnb, name)
    monkeypatch.setattr(bnb, name, lambda *arguments, **options: true(*arguments, **options) * 1.1)
    with pytest.raises(StudioError, match="10% wrong"):
        training.check_gradients(model)


@needs_kernel
def test_the_check_leaves_the_model_as_it_is(folder):
    model = load(folder, "nf4, double, bf16", guarded=False)
    state = torch.get_rng_state()
    with pytest.raises(StudioError):
        training.check_gradients(model)
    states = [getattr(parameter, "quant_state", None) for parameter in model.parameters()]
    assert not any(getattr(held, "packing_format_for_cpu", False) for held in states)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
