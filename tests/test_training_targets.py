"""What of a model can have an adapter is told from its shapes alone, and is what PEFT then does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from training_shapes import SHAPES, made, skeleton

from studio import training
from studio.checkpoint import read_header
from studio.errors import InputError
from studio.loading.plan import LoadPlan
from studio.loading.skeleton import build_skeleton
from studio.models import STARTER, Precision


def named(targets):
    return {group.name: group for group in targets.groups}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_told_from_a_skeleton_is_what_peft_adapts(shape):
    from pico import byte_tokenizer

    targets = training.targets_of(skeleton(shape))
    adapted = training.adapt(made(shape), training.TrainingSettings(rank=2), byte_tokenizer())
    assert sorted(adapted.names) == sorted(path for group in targets.chosen() for path in group.paths)
    assert adapted.trainable == targets.parameters("all-linear", 2)


@pytest.mark.parametrize("precision", [Precision.NF4, Precision.INT8])
def test_a_quantized_skeleton_says_what_it_says_in_sixteen_bit(precision):
    from transformers import AutoConfig

    config = AutoConfig.for_model("llama", **SHAPES["llama"])
    plan = LoadPlan(STARTER, Precision.BF16)
    wide, packed = (build_skeleton(config, replace(plan, precision=held)) for held in (plan.precision, precision))
    assert training.targets_of(packed.model) == training.targets_of(wide.model)


def test_every_group_says_its_shapes_and_what_an_adapter_costs():
    groups = named(training.targets_of(skeleton("llama")))
    k_proj = groups["k_proj"]
    assert (k_proj.kind, k_proj.count, k_proj.sizes, k_proj.weights) == ("linear", 2, (((16, 32), 2),), 1024)
    assert k_proj.parameters(4) == 2 * 4 * (16 + 32)
    assert k_proj.parameters(4, dora=True) == 2 * (4 * (16 + 32) + 16)


def test_the_bytes_are_those_of_the_file(tmp_path):
    from pico import byte_tokenizer

    model = made("llama")
    targets = training.targets_of(model)
    for method in ("lora", "dora"):
        settings = training.TrainingSettings(rank=4, method=method, targets="q_proj, v_proj")
        adapted = training.adapt(made("llama"), settings, byte_tokenizer())
        training.save_adapter(adapted, tmp_path)
        header = read_header(tmp_path / "adapter_model.safetensors")
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        assert targets.bytes(settings.targets, 4, dora=method == "dora") == max(ends)


def test_a_head_that_shares_its_weight_is_refused_with_the_reason():
    targets = training.targets_of(skeleton("llama"))
    for name in ("lm_head", "embed_tokens"):
        assert "share one weight" in named(targets)[name].refused
        with pytest.raises(InputError, match="share one weight") as caught:
            targets.chosen(f"q_proj, {name}")
        assert caught.value.hint
    apart = named(training.targets_of(skeleton("llama", tie_word_embeddings=False)))
    assert not apart["lm_head"].refused
    assert not apart["lm_head"].usual


def test_experts_and_the_router_are_told_from_linear_layers():
    groups = named(training.targets_of(skeleton("gpt_oss")))
    assert (groups["experts.down_proj"].kind, groups["experts.down_proj"].usual) == ("experts", True)
    assert (groups["router"].kind, groups["router"].usual) == ("router", False)
    assert groups["experts.gate_up_proj"].parameters(2) == 2 * 2 * 4 * (32 + 128)


def test_a_name_that_peft_would_put_on_the_experts_is_refused():
    targets = training.targets_of(skeleton("deepseek_v3"))
    with pytest.raises(InputError, match="fused experts"):
        targets.chosen("down_proj")


def test_the_output_of_mamba_is_refused():
    with pytest.raises(InputError, match="Mamba"):
        training.targets_of(skeleton("mamba")).chosen("out_proj")


def test_an_unknown_name_is_met_with_those_that_are_close():
    targets = training.targets_of(skeleton("llama"))
    with pytest.raises(InputError, match="'q_prj'") as caught:
        targets.chosen("q_prj")
    assert caught.value.hint.startswith("Did you mean q_proj")
    with pytest.raises(InputError) as caught:
        targets.chosen("zzz")
    assert "q_proj, k_proj" in caught.value.hint


@pytest.mark.parametrize(
    ("wish", "paths"),
    [
        ("layers.1.self_attn.q_proj", ["model.layers.1.self_attn.q_proj"]),
        ("layers.0.self_attn.*", [f"model.layers.0.self_attn.{name}_proj" for name in "qkvo"]),
        ("q_proj, v_proj", [f"model.layers.{n}.self_attn.{name}_proj" for name in "qv" for n in (0, 1)]),
    ],
)
def test_a_part_of_the_layers_can_be_named_and_is_what_is_adapted(wish, paths):
    from pico import byte_tokenizer

    targets = training.targets_of(skeleton("llama"))
    assert [path for group in targets.chosen(wish) for path in group.paths] == paths
    adapted = training.adapt(made("llama"), training.TrainingSettings(rank=2, targets=wish), byte_tokenizer())
    assert sorted(adapted.names) == sorted(paths)
    assert adapted.trainable == targets.parameters(wish, 2)
