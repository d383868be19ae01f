"""Advice fires where it matters, says its number and its source, and is silent otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio import advice, inspection
from studio.compute import Machine, Room
from studio.loading import Block, LoadPlan, Outlook
from studio.memory import ModuleWeights
from studio.models import STARTER, Precision

CPU = Machine("cpu", "a CPU", 32 * 10**9, has_bf16=True)
OLD_CPU = Machine("cpu", "an old CPU", 32 * 10**9, has_bf16=False)
AMPERE = Machine("cuda", "A100", 80 * 10**9, has_bf16=True)
TURING = Machine("cuda", "T4", 16 * 10**9, has_bf16=False)

SIZES = {Precision.FP32: 32, Precision.BF16: 16, Precision.FP16: 16, Precision.INT8: 9, Precision.NF4: 5}


def ahead(precision, *, free=100, modules=None, blocks=()):
    """An outlook on 8 billion weights, in gigabytes."""
    held = modules or (ModuleWeights("all", "Linear", "bfloat16", 8 * 10**9, SIZES[precision] * 10**9),)
    return Outlook(
        plan=LoadPlan(STARTER, precision),
        why="",
        parameters=8 * 10**9,
        modules=tuple(held),
        blocks=tuple(blocks),
        rooms=(Room("cuda:0", free * 10**9), Room("cpu", 64 * 10**9)),
        alternatives=tuple((each, size * 10**9) for each, size in SIZES.items()),
    )


def told(outlook, machine=AMPERE):
    return {rule.id: rule for rule in advice.on_loading(outlook, machine)}


def test_a_plan_that_suits_its_machine_gets_no_advice():
    assert told(ahead(Precision.BF16)) == {}


@pytest.mark.parametrize(("free", "wish"), [(12, Precision.INT8), (6, Precision.NF4)])
def test_a_model_that_does_not_fit_is_pointed_to_the_mildest_quantization_that_does(free, wish):
    found = told(ahead(Precision.BF16, free=free))["quantization-selection"]
    assert (found.severity, found.precision) == ("warning", wish)
    assert f"{SIZES[wish]}.00 GB" in found.why


def test_where_nothing_fits_no_precision_is_promised():
    assert "quantization-selection" not in told(ahead(Precision.BF16, free=2))


def test_quantizing_without_need_is_said():
    found = told(ahead(Precision.NF4))["quantization-selection"]
    assert found.precision is Precision.BF16
    assert "16.00 GB of 100.00 GB" in found.why
    assert "quantization-selection" not in told(ahead(Precision.NF4, free=12))


@pytest.mark.parametrize(
    ("precision", "machine", "wish"),
    [
        (Precision.FP16, CPU, Precision.BF16),
        (Precision.FP16, OLD_CPU, Precision.FP32),
        (Precision.FP16, AMPERE, Precision.BF16),
        (Precision.FP16, TURING, None),
        (Precision.BF16, TURING, Precision.FP16),
        (Precision.BF16, OLD_CPU, Precision.FP32),
        (Precision.FP32, CPU, None),
    ],
)
def test_a_precision_that_does_not_suit_the_device_is_named_with_one_that_does(precision, machine, wish):
    found = told(ahead(precision), machine).get("mixed-precision")
    assert (found.precision if found else None) is wish


def test_what_lies_off_the_main_device_is_counted():
    blocks = [Block("a", 3 * 10**9, "cuda:0"), Block("b", 2 * 10**9, "cpu"), Block("c", 10**9, "disk")]
    found = told(ahead(Precision.BF16, blocks=blocks))["device-map"]
    assert "3.00 GB lie on cpu and disk" in found.why
    assert "device-map" not in told(ahead(Precision.BF16, blocks=blocks[:1]))


def test_experts_that_stay_in_16_bit_are_no_surprise():
    experts = ModuleWeights("experts", "Experts", "bfloat16", 7 * 10**9, 14 * 10**9, note="fused experts: …")
    rest = ModuleWeights("rest", "Linear4bit", "nf4", 10**9, 10**9)
    found = advice.on_loading(ahead(Precision.NF4, modules=(experts, rest)), AMPERE)
    assert any("93% of what it takes are fused experts" in rule.why for rule in found)


def test_what_preparing_for_training_would_add_is_the_bytes_of_what_is_not_quantized():
    head = ModuleWeights("head", "Linear", "bfloat16", 10**9, 2 * 10**9)
    rest = ModuleWeights("rest", "Linear4bit", "nf4", 7 * 10**9, 4 * 10**9)
    assert "2.00 GB more" in told(ahead(Precision.NF4, modules=(head, rest)))["kbit-preparation"].why


def test_files_give_advice_too(pico):
    inside = inspection.inspect_folder(pico)
    assert advice.on_checkpoint(inside) == []
    slow = replace(inside, tokenizer=replace(inside.tokenizer, fast=False))
    (fast,) = advice.on_checkpoint(slow)
    assert fast.id == "fast-tokenizer"
    assert "three times as slow" in fast.why
    assert "same ids: 2.5 to 3.2 times" in fast.source
    both = replace(inside, unsafe=("pytorch_model.bin",))
    assert [(rule.id, rule.severity) for rule in advice.on_checkpoint(both)] == [("safetensors", "note")]


def test_a_model_of_pickles_alone_is_pointed_to_the_conversion(pico):
    inside = inspection.inspect_folder(pico)
    files = tuple(replace(file, kind="pickle") if file.kind == "weights" else file for file in inside.files)
    (rule,) = advice.on_checkpoint(replace(inside, files=files, unsafe=("pytorch_model.bin",)))
    assert rule.severity == "warning"
    assert "Convert it" in rule.why


def test_every_piece_of_advice_names_its_source():
    outlooks = [ahead(precision, free=free) for precision in SIZES for free in (6, 12, 100)]
    rules = [rule for outlook in outlooks for machine in (CPU, TURING) for rule in advice.on_loading(outlook, machine)]
    assert len({rule.id for rule in rules}) >= 3
    assert all(rule.why and rule.source for rule in rules)
