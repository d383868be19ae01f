"""Advice on what work takes: it fires where a number of the estimate says so, with that number, and not elsewhere."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from memory_shapes import PUBLISHED

from studio import advice, memory
from studio.memory import DEVICES, Question
from studio.models import Precision

facts_of = cache(lambda: memory.read_facts(PUBLISHED["llama-3.1-8b"]))
CALM = Question(context=512)


def told(device=None, **changes):
    question = replace(CALM, **changes)
    place = DEVICES[device] if device else None
    fitting = memory.make_fit(facts_of(), question, place) if place else None
    answer = memory.estimate(facts_of(), question, place)
    return {rule.id: rule for rule in advice.on_memory(answer, place, fitting)}


def test_work_that_is_set_up_well_gets_no_advice():
    assert told() == {}
    assert told("a100-80") == {}
    assert told("a100-80", task="generate") == {}


@pytest.mark.parametrize(
    ("id_", "device", "changes", "undone"),
    [
        ("gradient-checkpointing", None, {"context": 4096, "checkpointing": False}, {"checkpointing": True}),
        ("liger-kernel", None, {"context": 16_384}, {"loss": "chunked"}),
        ("mixed-precision", None, {"precision": Precision.FP32}, {"precision": Precision.BF16}),
        ("batch-size", "h200", {"accumulation": 8}, {"accumulation": 1}),
        ("quantization-selection", "a100-80", {"precision": Precision.NF4}, {"precision": Precision.BF16}),
        ("device-map", "l4", {"task": "generate", "offload": 8}, {"offload": 0}),
    ],
)
def test_each_rule_fires_where_it_matters_and_is_silent_once_it_was_followed(id_, device, changes, undone):
    rule = told(device, **changes)[id_]
    assert any(unit in rule.why for unit in ("GB", "%"))
    assert rule.source
    assert id_ not in told(device, **changes | undone)


def test_sixteen_bit_is_wished_in_the_kind_that_the_device_has():
    small = memory.read_facts(PUBLISHED["llama-3.2-1b"])
    question = replace(CALM, precision=Precision.NF4)
    for key, wish in (("t4", Precision.FP16), ("l4", Precision.BF16)):
        answer = memory.estimate(small, question, DEVICES[key])
        found = {rule.id: rule for rule in advice.on_memory(answer, DEVICES[key])}
        assert found["quantization-selection"].precision is wish
