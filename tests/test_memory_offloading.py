"""Layers in main memory: what stays on the device, what does not, and what is said about it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from memory_shapes import PUBLISHED, TINY

from studio import advice
from studio.errors import InputError, Unsupported
from studio.loading import LoadPlan
from studio.loading.placing import blocks_of
from studio.loading.skeleton import build_skeleton
from studio.memory import BYTES_PER_SECOND, DEVICES, Question, Stored, estimate, make_fit, read_facts
from studio.memory.fake_model import config_of
from studio.memory.step import step_of
from studio.models import ModelRef, Precision

facts_of = cache(lambda name: read_facts((TINY | PUBLISHED)[name]))
L4, T4 = DEVICES["l4"], DEVICES["t4"]
ASKED = Question(task="generate", context=2048)


def notes_of(answer):
    return {note.id: note.message for note in answer.notes}


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "qwen3-0.6b"])
def test_what_is_set_aside_is_what_loading_would_set_aside(name):
    skeleton = build_skeleton(config_of(PUBLISHED[name]), LoadPlan(ModelRef("hub", "a/b"), Precision.BF16))
    blocks = blocks_of(skeleton.model, skeleton.modules)
    last = [block.bytes for block in blocks if ".layers." in block.name][-5:]
    aside = estimate(facts_of(name), replace(ASKED, offload=5), L4)
    assert aside.offloaded == pytest.approx(sum(last), rel=0.001)


def test_the_device_holds_the_rest_and_one_module_that_computes():
    whole = estimate(facts_of("llama-3.1-8b"), ASKED, L4)
    split = estimate(facts_of("llama-3.1-8b"), replace(ASKED, offload=8), L4)
    assert split.of("weights") + split.offloaded == whole.of("weights")
    assert split.of("cache") == whole.of("cache")
    visiting = 2 * 4096 * 14_336  # the widest matrix of a layer in bf16
    assert split.peak == whole.peak - split.offloaded + visiting
    assert split.peak == sum(part.bytes for part in split.parts)


def test_more_layers_than_there_are_is_all_of_them():
    every = estimate(facts_of("llama"), replace(ASKED, offload=3), L4)
    assert estimate(facts_of("llama"), replace(ASKED, offload=200), L4).offloaded == every.offloaded
    assert every.of("weights") > 0  # the embedding and the head stay


def test_the_cost_is_said_and_is_that_of_the_published_run():
    aside = estimate(facts_of("llama-3.1-8b"), replace(ASKED, offload=16), L4)
    assert f"about {aside.offloaded / 6e9:.2f} s each" in notes_of(aside)["offload"]
    assert pytest.approx(2.37, rel=0.02) == 14.1e9 / BYTES_PER_SECOND


def test_main_memory_that_is_too_small_is_said():
    facts = facts_of("mixtral-8x7b")
    assert "offload-too-much" in notes_of(estimate(facts, replace(ASKED, offload=32), T4))
    assert "offload-too-much" not in notes_of(estimate(facts, replace(ASKED, offload=32), L4))
    assert "offload-too-much" not in notes_of(estimate(facts, replace(ASKED, offload=4), T4))


@pytest.mark.parametrize("key", ["cpu-space", "apple-64"])
def test_where_main_memory_computes_nothing_is_set_aside(key):
    asked = estimate(facts_of("llama"), replace(ASKED, offload=2), DEVICES[key])
    assert (asked.offloaded, asked.peak) == (0, estimate(facts_of("llama"), ASKED, DEVICES[key]).peak)
    assert "offload-idle" in notes_of(asked)


def test_training_does_not_know_of_it():
    plain, asked = (estimate(facts_of("llama"), Question(offload=layers), L4) for layers in (0, 2))
    assert (plain.parts, asked.offloaded) == (asked.parts, 0)


@pytest.mark.parametrize("wrong", [{"precision": "nf4"}, {"precision": "int8"}, {"offload": -1}, {"offload": 10**6}])
def test_what_cannot_be_set_aside_cannot_be_asked(wrong):
    with pytest.raises(InputError, match=r"brought in|Offload"):
        Question(**{"task": "generate", "offload": 1, **wrong})


def test_what_was_quantized_before_and_what_has_no_layers_is_refused():
    gptq = read_facts(TINY["llama"] | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}})
    headers = read_facts({"model_type": "nobody_knows"}, Stored(10, 40, 20))
    two = replace(ASKED, devices=2, strategy="tensor")
    for facts, asked in ((gptq, ASKED), (headers, ASKED), (facts_of("llama"), two)):
        with pytest.raises(Unsupported) as raised:
            estimate(facts, replace(asked, offload=1), L4)
        assert raised.value.hint
    with pytest.raises(Unsupported, match="main memory"):
        step_of(replace(ASKED, offload=1), {})


def test_advice_says_what_goes_where_and_that_training_cannot():
    facts = facts_of("mixtral-8x7b")
    fitting = make_fit(facts, ASKED, L4)
    (rule,) = (r for r in advice.on_memory(estimate(facts, ASKED, L4), L4, fitting) if r.id == "device-map")
    assert f"{fitting.estimate.offloaded / 1e9:.2f} GB of weights would lie in main memory" in rule.why
    split = estimate(facts, replace(ASKED, offload=30), L4)
    (rule,) = (r for r in advice.on_memory(split, L4) if r.id == "device-map")
    assert f"the device holds {split.peak / 1e9:.2f} GB" in rule.why
    training = Question(targets="q_proj")
    way = make_fit(facts, training, T4)
    (rule,) = (r for r in advice.on_memory(estimate(facts, training, T4), T4, way) if r.id == "device-map")
    assert "accelerate brings them in to generate" in rule.why
