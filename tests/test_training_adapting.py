"""A model is made ready to train in every way that is offered, and what is saved gives the trained model again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_steps import IDS, error, learn, logits, reloaded, settings
from pico import byte_tokenizer, change_json, load_pico, save_pico
from training_shapes import made

from studio import training
from studio.errors import InputError
from studio.models import Precision
from studio.training import adapt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose weights are large enough that what is learnt, and what is rounded, shows."""
    return save_pico(
        tmp_path_factory.mktemp("base") / "pico", hidden_size=64, intermediate_size=128, initializer_range=0.2
    )


WAYS = {
    "plain": {},
    "rank-stabilized": {"rslora": True},
    "dora": {"method": "dora"},
    "gaussian": {"start": "gaussian"},
    "pissa": {"start": "pissa"},
    "pissa, rank-stabilized": {"start": "pissa", "rslora": True},
    "olora": {"start": "olora"},
    "whole norm": {"whole_modules": "norm"},
    "whole head, tied": {"whole_modules": "lm_head"},
    "new tokens": {"new_tokens": "<think> </think>"},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_base_and_what_was_saved_are_the_trained_model(way, folder, tmp_path):
    loaded = load_pico(folder)
    before = logits(loaded.model)
    adapted = adapt(loaded.model, settings(**WAYS[way]), loaded.tokenizer)
    vocabulary = before.shape[-1]
    start = logits(adapted.model)[..., :vocabulary]
    assert error(start, before) < 1e-5  # whatever it begins with changes nothing at first
    learn(adapted.model)
    after = logits(adapted.model)
    assert error(after[..., :vocabulary], before) > 1e-2
    training.save_adapter(adapted, tmp_path)
    fresh = load_pico(folder).model
    if after.shape[-1] > vocabulary:
        fresh.resize_token_embeddings(after.shape[-1])
    assert error(logits(reloaded(fresh, tmp_path)), after) < 1e-5


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_begins_in_the_base_is_wrong_where_it_is_saved_as_it_is(start, folder, tmp_path):
    # So the conversion on saving is needed, and the test above would notice if it were left out.
    adapted = adapt(load_pico(folder).model, settings(start=start), byte_tokenizer())
    learn(adapted.model)
    adapted.model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    change_json(tmp_path / "adapter_config.json", init_lora_weights=True)
    assert error(logits(reloaded(load_pico(folder).model, tmp_path)), logits(adapted.model)) > 0.05


@pytest.mark.parametrize("shape", ["gpt2", "qwen2", "mixtral", "gpt_oss", "qwen2_moe"])
def test_other_architectures_are_saved_and_loaded_alike(shape, tmp_path):
    adapted = adapt(made(shape), settings(), byte_tokenizer())
    learn(adapted.model)
    training.save_adapter(adapted, tmp_path)
    after = logits(adapted.model)
    assert error(after, logits(made(shape))) > 1e-2
    assert error(logits(reloaded(made(shape), tmp_path)), after) < 1e-5


def test_new_tokens_of_an_untied_model_are_learnt_at_both_ends(tmp_path):
    tokenizer = byte_tokenizer()
    adapted = adapt(made("qwen2"), settings(new_tokens="<a> <b>"), tokenizer)
    rows = [name for name, p in adapted.model.named_parameters() if p.requires_grad and "trainable_tokens" in name]
    assert len(rows) == 2
    assert tokenizer.convert_tokens_to_ids("<b>") == len(tokenizer) - 1
    assert len(tokenizer("x<a>")["input_ids"]) == 2


def test_room_that_a_vocabulary_has_is_used_before_it_grows():
    model, tokenizer = made("llama"), byte_tokenizer()
    assert len(tokenizer) < 264
    adapt(model, settings(new_tokens="<a>"), tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == 264
    many = settings(new_tokens=" ".join(f"<{n}>" for n in range(10)))
    model, tokenizer = made("llama"), byte_tokenizer()
    adapt(model, many, tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) > 264


def test_a_full_fine_tuning_trains_everything_and_has_no_adapter(folder):
    model = load_pico(folder).model
    adapted = adapt(model, settings(method="full"), byte_tokenizer())
    assert adapted.model is model
    assert adapted.trainable == sum(parameter.numel() for parameter in model.parameters())
    assert adapted.names == adapted.notes == ()
    low = load_pico(folder, precision=Precision.BF16).model
    assert [note.id for note in adapt(low, settings(method="full"), byte_tokenizer()).notes] == ["mixed-precision"]


@pytest.mark.parametrize(
    ("precision", "method"), [(Precision.NF4, "lora"), (Precision.NF4, "dora"), (Precision.INT8, "lora")]
)
def test_adapters_on_a_quantized_base_are_fp32_and_the_base_stays_what_it_was(precision, method, folder, tmp_path):
    model = load_pico(folder, precision=precision).model
    before = logits(model)
    adapted = adapt(model, settings(method=method), byte_tokenizer())
    assert [note.id for note in adapted.notes] == ["kbit-preparation"]
    trained = {name: p for name, p in adapted.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert {p.dtype for name, p in adapted.model.named_parameters() if "norm" in name} == {torch.float32}
    assert error(logits(adapted.model), before) < 0.05
    learn(adapted.model)
    training.save_adapter(adapted, tmp_path)
    again = adapt(load_pico(folder, precision=precision).model, settings(adapter=str(tmp_path)), byte_tokenizer())
    assert error(logits(again.model), logits(adapted.model)) < 1e-5


def test_loftq_begins_nearer_to_the_weights_before_they_were_quantized(folder):
    exact, found = logits(load_pico(folder).model), []
    for changes in ({}, {"start": "loftq"}, {"start": "loftq", "alpha": 64}):
        model = load_pico(folder, precision=Precision.NF4).model
        found.append(logits(adapt(model, settings(rank=16, **changes), byte_tokenizer()).model))
    assert error(found[1], exact) < 0.95 * error(found[0], exact)
    assert error(found[1], found[2]) < 0.02  # whatever alpha is


def test_eva_begins_with_the_directions_of_the_data(folder):
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": IDS}
    found = []
    for start in ("eva", "default"):
        model = load_pico(folder).model
        before = logits(model)
        adapted = adapt(model, settings(start=start), byte_tokenizer(), batches=[batch])
        assert error(logits(adapted.model), before) < 1e-5
        found.append(adapted)
    layers = [each.model.get_submodule(f"base_model.model.{found[0].names[0]}") for each in found]
    eva, default = (layer.lora_A["default"].weight for layer in layers)
    assert torch.allclose(eva @ eva.T, torch.eye(4), atol=1e-3)  # principal directions are orthogonal
    assert not torch.allclose(default @ default.T, torch.eye(4), atol=1e-1)
    assert found[0].trainable == found[1].trainable
    with pytest.raises(InputError, match="EVA"):
        adapt(load_pico(folder).model, settings(start="eva"), byte_tokenizer())


def test_the_same_seed_begins_alike_and_leaves_the_generator_alone(folder):
    state = torch.get_rng_state()
    first, second, other = (
        adapt(load_pico(folder).model, settings(seed=seed), byte_tokenizer()).model.state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    name = next(name for name in first if "lora_A" in name)
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize(
    ("changes", "precision", "says"),
    [
        ({"targets": "lm_head"}, None, "share one weight"),
        ({"targets": "qproj"}, None, "'qproj'"),
        ({"whole_modules": "nrom"}, None, "'nrom'"),
        ({"whole_modules": "q_proj"}, None, "trained whole and to have an adapter"),
        ({"whole_modules": "mlp"}, None, "trained whole and to have an adapter"),
        ({"whole_modules": "q_proj", "targets": "v_proj"}, Precision.NF4, "is quantized"),
        ({"method": "full"}, Precision.INT8, "Quantized weights"),
        ({"start": "pissa"}, Precision.NF4, "change the base"),
        ({"start": "pissa", "method": "dora"}, None, "put back on saving"),
        ({"start": "pissa", "rank": 64}, None, "directions"),
        ({"start": "loftq"}, None, "LoftQ"),
        ({"start": "loftq"}, Precision.INT8, "LoftQ"),
        ({"method": "dora"}, Precision.INT8, "second step"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_changed(changes, precision, says, folder):
    model = load_pico(folder, precision=precision or Precision.FP32).model
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(InputError, match=says) as caught:
        adapt(model, settings(**changes), byte_tokenizer())
    assert caught.value.hint
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.parametrize("changes", [{"method": "dora"}, {"dropout": 0.1}, {"start": "pissa", "rank": 2}])
def test_what_fused_experts_do_not_know_is_refused(changes):
    with pytest.raises(InputError, match=r"experts\.gate_up_proj"):
        adapt(made("mixtral"), settings(**changes), byte_tokenizer())


def test_what_begins_in_the_base_begins_alike_each_time(folder):
    # So a run that is resumed finds the base that it left.
    first, second = (adapt(load_pico(folder).model, settings(start="pissa"), byte_tokenizer()) for _ in range(2))
    assert all(torch.equal(first.first[name], second.first[name]) for name in first.first)
    assert torch.equal(logits(first.model), logits(second.model))


def test_a_module_that_is_trained_whole_is_that_one_and_no_other_of_a_like_name(folder):
    # PEFT takes "norm" for the end of input_layernorm as well.
    adapted = adapt(load_pico(folder).model, settings(whole_modules="norm"), byte_tokenizer())
    trained = [name for name, p in adapted.model.named_parameters() if p.requires_grad and "norm" in name]
    assert len(trained) == 1
    assert ".model.norm." in trained[0]


def test_a_quantized_mixture_of_experts_keeps_its_experts_and_is_told_so(tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    made("mixtral").save_pretrained(tmp_path)
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, quantization_config=how)
    adapted = adapt(model, settings(targets="q_proj, v_proj"), byte_tokenizer())
    assert "experts" in adapted.notes[0].message
    held = {p.dtype for name, p in adapted.model.named_parameters() if "experts" in name or "norm" in name}
    assert held == {torch.bfloat16}
    learn(adapted.model)


def test_a_rank_above_the_size_of_the_modules_is_said(folder):
    adapted = adapt(load_pico(folder).model, settings(rank=128), byte_tokenizer())
    assert [(note.id, note.severity) for note in adapted.notes] == [("lora-rank", "warning")]
