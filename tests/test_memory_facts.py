"""A model without its weights: its parameters, tensors, adapters and layers are those of the real one."""

from __future__ import annotations

from functools import cache
from math import prod

import pytest
import torch
from memory_shapes import PUBLISHED, TINY, config, real_model

from studio.errors import InputError, Unsupported
from studio.loading import LoadPlan
from studio.loading import Quantization as Wish
from studio.loading.skeleton import build_skeleton
from studio.memory import Question, Stored, is_typed, parameters_by_module, read_facts, typed_config
from studio.memory.adapters import adapter_shapes
from studio.memory.standing import held_weights, stand
from studio.models import ModelRef, Precision

facts_of = cache(lambda name: read_facts((TINY | PUBLISHED)[name]))


@pytest.mark.parametrize("name", TINY)
def test_parameters_are_those_of_the_real_model(name):
    model = real_model(TINY[name])
    assert facts_of(name).parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameters_by_module(facts_of(name)).values()) == facts_of(name).parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("llama-3.1-8b", 8_030_261_248), ("qwen3-0.6b", 596_049_920), ("mixtral-8x7b", 46_702_792_704)],
)
def test_parameters_are_those_that_are_published(name, parameters):
    assert facts_of(name).parameters == parameters


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("precision", [p for p in Precision if p is not Precision.STORED])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "mixtral", "gemma3", "deepseek_v3", "qwen3_next"])
def test_weights_are_to_the_byte_those_that_loading_counts(name, precision, double_quant):
    from transformers import AutoConfig

    fields = {key: value for key, value in TINY[name].items() if key != "model_type"}
    built = AutoConfig.for_model(TINY[name]["model_type"], **fields)
    plan = LoadPlan(ModelRef("hub", "a/b"), precision, quantization=Wish(double_quant=double_quant))
    question = Question(task="generate", precision=precision, double_quant=double_quant)
    assert held_weights(facts_of(name), question) == build_skeleton(built, plan).bytes


def test_sizes_and_layers_are_told():
    facts = facts_of("deepseek_v3")
    assert [(layer.kind, layer.count) for layer in facts.layers] == [("latent", 3)]
    assert (facts.experts, facts.experts_per_token, facts.depth) == (8, 2, 3)
    kinds = {layer.kind: layer.count for layer in facts_of("qwen3_next").layers}
    assert kinds == {"linear": 3, "full": 1}
    assert {layer.kind for layer in facts_of("falcon_h1").layers} == {"hybrid"}
    llama = facts_of("llama-3.2-1b")
    assert (llama.hidden, llama.heads, llama.kv_heads, llama.head_dim) == (2048, 32, 8, 64)
    assert (llama.vocabulary, llama.context, llama.tied) == (128_256, 131_072, True)


# Adapters


def by_peft(shape, **options):
    """What PEFT makes of a model on the meta device."""
    import peft

    with torch.device("meta"):
        model = real_model(shape, dtype=torch.bfloat16)
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options))
    return sorted(tuple(p.shape) for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("rank", [1, 8, 13])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "mixtral", "qwen3_moe", "deepseek_v3"])
def test_an_adapter_on_all_linear_modules_is_what_peft_makes(name, rank):
    ours = adapter_shapes(facts_of(name), Question(rank=rank))
    assert sorted(shape for shape, count in ours for _ in range(count)) == by_peft(
        TINY[name], r=rank, target_modules="all-linear"
    )


@pytest.mark.parametrize(
    ("name", "targets", "dora"),
    [("llama", "q_proj, v_proj", False), ("llama", "mlp.down_proj", True), ("gpt2", "c_attn", True)],
)
def test_an_adapter_on_named_modules_is_what_peft_makes(name, targets, dora):
    question = Question(targets=targets, method="dora" if dora else "lora", rank=4)
    ours = adapter_shapes(facts_of(name), question)
    expected = by_peft(TINY[name], r=4, target_modules=targets.split(", "), use_dora=dora)
    assert sorted(shape for shape, count in ours for _ in range(count)) == expected


@pytest.mark.parametrize("method", ["adalora", "ia3", "vera", "loha", "lokr", "oft"])
def test_other_methods_are_counted_by_peft(method):
    targets = "q_proj, v_proj" if method == "vera" else "k_proj, v_proj, down_proj"
    shapes = adapter_shapes(facts_of("llama"), Question(method=method, targets=targets, rank=4))
    assert 0 < sum(prod(shape) * count for shape, count in shapes) < 0.3 * facts_of("llama").parameters


@pytest.mark.parametrize("wrong", [{"targets": "c_attn"}, {"targets": "embed_tokens"}, {"method": "boft"}])
def test_an_adapter_that_cannot_be_says_why(wrong):
    with pytest.raises(Unsupported) as raised:
        adapter_shapes(facts_of("llama"), Question(**wrong))
    assert raised.value.hint


# What is trained


def test_adapters_are_held_as_peft_holds_them():
    llama, trl = facts_of("llama"), "trl 1.16"
    for question, size in [
        (Question(), 4),
        (Question(precision="nf4"), 4),
        (Question(precision="nf4", profile=trl), 2),
        (Question(profile=trl), 4),
        (Question(adapter_dtype="bf16"), 2),
    ]:
        standing = stand(llama, question)
        assert standing.adapters == standing.gradients == size * standing.trainable


def test_full_training_holds_a_gradient_of_every_weight():
    standing = stand(facts_of("llama"), Question(method="full"))
    assert standing.trainable == facts_of("llama").parameters
    assert standing.gradients == 2 * standing.trainable
    assert standing.adapters == 0


def test_kbit_preparation_adds_two_bytes_to_what_is_not_quantized():
    facts = facts_of("llama-3.1-8b")
    plain = held_weights(facts, Question(precision="nf4"))
    prepared = Question(precision="nf4", kbit_preparation="on")
    left = sum(tensor.parameters for tensor in facts.tensors if not tensor.quantizes)
    assert held_weights(facts, prepared) - plain == 2 * left == 2_101_878_784
    assert [note.id for note in stand(facts, prepared).notes] == ["kbit-fp32"]


# Models that are not whole, not known or not sensible


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({}, "no architecture"),
        ({"model_type": "nobody_knows"}, "nobody_knows"),
        ({"model_type": "nobody_knows", "auto_map": {"AutoConfig": "x.Y"}}, "own code"),
        ({"model_type": "llama", "hidden_size": -5}, "cannot build"),
        ({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 0}, "cannot build"),
        ({"model_type": "llama", "num_hidden_layers": 10**9}, "1,000,000,000"),
        ({"model_type": "llama", "hidden_size": "wide"}, "cannot build"),
        ({"model_type": 7}, "no architecture"),
    ],
)
def test_a_config_that_makes_no_model_says_why_and_headers_help(broken, word):
    with pytest.raises(Unsupported, match=word) as raised:
        read_facts(broken)
    assert raised.value.hint
    facts = read_facts(broken, Stored(parameters=1000, bytes=4000, loaded=2000))
    assert (facts.covers, facts.parameters, [note.id for note in facts.notes]) == ("headers", 1000, ["headers-only"])
    assert held_weights(facts, Question(task="generate", precision="fp32")) == 4000
    assert held_weights(facts, Question(task="generate")) == 2000


def test_sizes_that_a_config_does_not_give_are_said_to_be_assumed():
    notes = read_facts({"model_type": "gpt2"}).notes
    assert [note.id for note in notes] == ["sizes-assumed"]
    assert not facts_of("llama").notes


def test_headers_that_disagree_are_said():
    facts = read_facts(TINY["llama"], Stored(10**6, 4 * 10**6, 2 * 10**6))
    assert "headers-differ" in [note.id for note in facts.notes]
    agreeing = read_facts(TINY["llama"], Stored(facts.parameters, 1, 1))
    assert not agreeing.notes


@pytest.mark.parametrize(
    ("shape", "covers"),
    [
        (config(model_type="bert", hidden_size=32, num_hidden_layers=2, num_attention_heads=2), "encoder"),
        (config(model_type="t5", d_model=32, num_layers=2, num_heads=2, d_ff=64), "encoder-decoder"),
        (config(model_type="bart", d_model=32, encoder_layers=2, decoder_layers=2), "encoder-decoder"),
    ],
)
def test_what_is_no_decoder_is_said_plainly(shape, covers):
    facts = read_facts(shape)
    assert facts.covers == covers
    assert covers in [note.id for note in facts.notes]
    assert facts.parameters > 10_000


def test_of_a_model_that_sees_the_text_part_and_the_rest_are_told():
    text = dict(TINY["gemma3"], model_type="gemma3_text")
    vision = config(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28)
    facts = read_facts(config(model_type="gemma3", text_config=text, vision_config={**vision, "patch_size": 14}))
    assert facts.covers == "text and vision"
    assert {layer.kind for layer in facts.layers} == {"sliding", "full"}
    assert "text-and-rest" in [note.id for note in facts.notes]


# Numbers typed by hand


@pytest.mark.parametrize("text", ["8B, 12 layers", "350M", "70B", "1.5T", "3B, 28 layers, hidden 3072", "30M"])
def test_a_typed_size_becomes_a_model_with_as_many_parameters(text):
    made, notes = typed_config(text)
    size = float(text.split(",")[0][:-1]) * {"M": 1e6, "B": 1e9, "T": 1e12}[text.split(",")[0][-1]]
    if made["num_hidden_layers"] < 30:
        assert read_facts(made).parameters == pytest.approx(size, rel=0.01)
    assert notes[0].id == "typed"
    assert is_typed(text)


def test_a_typed_8b_looks_like_one():
    made, _ = typed_config("8B, 32 layers, hidden 4096, kv heads 8, vocab 128256")
    assert 14_000 < made["intermediate_size"] < 14_600


@pytest.mark.parametrize(
    "text",
    ["", "many", "8B, 32 apples", "0B", "-3B", "8B, 0 layers", "8B, 1 layer, hidden 64", "9999999B", "layers 32, 8B",
     "8B, 32 layers, hidden 4096, intermediate 100", "1M, hidden 4096"],
)  # fmt: skip
def test_typed_nonsense_is_refused_by_name(text):
    with pytest.raises(InputError) as raised:
        typed_config(text)
    assert raised.value.hint


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "starter", "./8B", "gpt2", "8B/model"])
def test_the_name_of_a_model_is_no_size(name):
    assert not is_typed(name)
