"""Advice on a fine-tuning: each rule fires for its reason, with its number, and is silent once it was followed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from training_shapes import skeleton

from studio import advice, training
from studio.advice import Wish
from studio.compute import Machine
from studio.models import Precision
from studio.training import TrainingSettings

AMPERE = Machine("cuda", "A100", 80 * 10**9, has_bf16=True)
TURING = Machine("cuda", "T4", 16 * 10**9, has_bf16=False)
CPU = Machine("cpu", "a CPU", 32 * 10**9, has_bf16=False)
ROWS = training.Amount(1000, 200_000, ((50, 150), (99, 600), (100, 900)))

targets_of = cache(lambda shape: training.targets_of(skeleton(shape)))


def told(machine=CPU, precision=Precision.BF16, shape="llama", proof=None, amount=ROWS, **settings):
    wish = Wish(TrainingSettings(**settings), targets_of(shape), precision, machine, amount, proof)
    return {rule.id: rule for rule in advice.on_training(wish)}


def test_a_run_that_is_set_up_well_gets_no_advice():
    assert told() == {}
    assert told(AMPERE, liger=True) == {}
    assert told(method="full") == {}


@pytest.mark.parametrize(
    ("id_", "fires", "undone", "says"),
    [
        ("lora-rank", {"rank": 64, "alpha": 64}, {"rslora": True}, "scaled by 8"),
        ("target-modules", {"targets": "q_proj, v_proj"}, {"targets": "all-linear"}, "MB"),
        ("dora-overhead", {"method": "dora"}, {"method": "lora"}, "27 %"),
        ("tied-embeddings", {"targets": "q_proj, lm_head"}, {"targets": "q_proj"}, "embed_tokens and lm_head"),
        ("tied-embeddings", {"whole_modules": "lm_head"}, {"whole_modules": ""}, "8,448 parameters"),
        ("four-bit-backprop", {"precision": Precision.NF4}, {"precision": Precision.BF16}, "before the run"),
        ("mixed-precision", {"machine": AMPERE, "compute": "fp32"}, {"compute": "auto"}, "half the room"),
        ("mixed-precision", {"machine": AMPERE, "compute": "fp16"}, {"compute": "auto"}, "scaled loss"),
        ("mixed-precision", {"machine": TURING, "compute": "bf16"}, {"compute": "auto"}, "T4"),
        ("batch-size", {"batch_tokens": 65_536}, {"batch_tokens": 2048}, "9 steps"),
        ("batch-size", {"batch_tokens": 512, "accumulation": 4}, {"batch_tokens": 1024}, "900 tokens"),
        ("gradient-checkpointing", {"checkpointing": "on"}, {"checkpointing": "auto"}, "0.78"),
        ("liger-kernel", {"machine": AMPERE}, {"liger": True}, "20 %"),
        ("liger-kernel", {"liger": True}, {"liger": False}, "a CPU"),
        ("liger-kernel", {"liger": True, "machine": AMPERE, "shape": "opt"}, {"liger": False}, "for opt"),
    ],
)
def test_each_rule_fires_where_it_matters_and_is_silent_once_it_was_followed(id_, fires, undone, says):
    rule = told(**fires)[id_]
    assert says in rule.why
    assert rule.source
    assert id_ not in told(**{**fires, **undone})


def test_the_sizes_of_both_choices_are_those_of_the_model():
    rule = told(targets="q_proj, v_proj", rank=4)["target-modules"]
    targets = targets_of("llama")
    assert f"{targets.parameters('q_proj, v_proj', 4):,} parameters" in rule.why
    assert f"{targets.parameters('all-linear', 4):,}" in rule.why


def test_an_adapter_that_is_larger_than_its_data_is_warned_of():
    few = replace(ROWS, tokens=1000)
    rule = told(rank=64, rslora=True, amount=few)["lora-rank"]
    assert (rule.severity, "1,000 tokens" in rule.why) == ("warning", True)
    assert "lora-rank" not in told(rank=8, rslora=True, amount=few)


def test_a_proof_is_told_with_its_figure():
    proof = training.Proof(("a", "b"), 0.006, 0.03)
    assert "2 layers" in told(precision=Precision.NF4, proof=proof)["four-bit-backprop"].why
    assert "0.60%" in told(precision=Precision.NF4, proof=proof)["four-bit-backprop"].why


def test_an_adapter_of_the_type_bone_is_pointed_to_its_successor():
    (rule,) = advice.on_adapter("BONE")
    assert (rule.id, "MiSS" in rule.why) == ("bone-deprecated", True)
    assert advice.on_adapter("LORA") == []
