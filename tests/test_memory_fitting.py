"""What fits where, what would make it fit, and what it takes on disk."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from functools import cache

import pytest
from memory_shapes import PUBLISHED, TINY

from studio import compute
from studio.errors import InputError
from studio.memory import (
    DEVICES,
    THIS,
    Question,
    curve,
    device,
    disk_needs,
    estimate,
    fit,
    largest,
    make_fit,
    read_facts,
    room,
)
from studio.memory.fitting import Change

facts_of = cache(lambda name: read_facts((TINY | PUBLISHED)[name]))
L4, T4 = DEVICES["l4"], DEVICES["t4"]


# Devices


def test_every_device_says_where_its_numbers_are_from():
    assert len(DEVICES) == 18
    for each in DEVICES.values():
        assert each.source
        assert 0 < each.context + room(each) < each.usable
        assert each.fp8 <= (each.bf16 or each.kind != "cuda")
    assert {key for key, each in DEVICES.items() if not each.nominal} == {
        *("t4", "a100-40", "a100-80", "h200", "rtx4090", "rtx5090")
    }


def test_old_cards_have_no_bf16_and_new_ones_a_larger_workspace():
    assert not T4.bf16
    assert DEVICES["a100-80"].bf16
    assert DEVICES["h100"].workspace > DEVICES["a100-80"].workspace
    assert [DEVICES[key].fp8 for key in ("a100-80", "l4", "h100")] == [False, True, True]


def test_this_machine_is_measured():
    here = device(THIS)
    assert here.kind == compute.machine().device
    assert not here.nominal
    assert here.usable <= compute.machine().memory * 1.01
    assert 0 < here.context < here.usable


@pytest.mark.parametrize("key", ["", "t5", "T4", "../etc"])
def test_a_device_that_is_not_in_the_table_is_refused(key):
    with pytest.raises(InputError, match="table"):
        device(key)


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.5, "fits"), (0.9, "fits"), (0.91, "tight"), (0.96, "tight"), (0.97, "probably not"), (1.01, "no")],
)
def test_the_verdict_counts_what_the_driver_takes(share, verdict):
    assert fit(int(share * L4.usable) - L4.context, L4) == verdict
    assert fit(room(L4), L4) == "fits"
    assert fit(room(L4) + 10_000_000, L4) == "tight"


def test_a_published_run_that_completed_is_not_refused_and_one_that_did_not_is():
    a100 = DEVICES["a100-80"]
    assert fit(72_434_837_504, a100) in ("fits", "tight")  # Mistral-7B, all of it, completed
    assert fit(round(79.7 * 2**30), a100) == "no"


# Limits and curves


@pytest.mark.parametrize("asked", [Question(), Question(precision="nf4", loss="chunked"), Question(task="generate")])
@pytest.mark.parametrize("axis", ["context", "batch"])
def test_the_largest_that_fits_does_and_the_next_does_not(axis, asked):
    facts = facts_of("llama-3.1-8b")
    most = largest(facts, asked, L4, axis)
    assert most > 0
    assert estimate(facts, replace(asked, **{axis: most}), L4).peak <= room(L4)
    assert estimate(facts, replace(asked, **{axis: most + 1}), L4).peak > room(L4)


def test_where_nothing_fits_the_largest_is_none_and_a_bound_is_not_passed():
    assert largest(facts_of("llama-3.1-8b"), Question(method="full"), T4, "batch") == 0
    bound = next(field.metadata["max"] for field in fields(Question) if field.name == "batch")
    assert largest(facts_of("mamba2"), Question(task="generate", context=2), DEVICES["b200"], "batch") <= bound


def test_a_curve_rises_and_has_its_parts():
    points = curve(facts_of("llama-3.1-8b"), Question(), "context", [512, 1024, 4096])
    assert [point.value for point in points] == [512, 1024, 4096]
    assert points[0].peak < points[1].peak < points[2].peak
    assert all(point.peak == sum(part.bytes for part in point.parts) for point in points)


# Make it fit


def test_what_fits_is_left_as_it_is():
    asked = Question(precision="nf4")
    found = make_fit(facts_of("llama-3.2-1b"), asked, L4)
    assert (found.changes, found.question, found.verdict) == ((), asked, "fits")


@pytest.mark.parametrize(
    ("name", "asked", "key", "ids"),
    [
        ("llama-3.1-8b", Question(method="full"), "t4", ["lora-nf4"]),
        ("llama-3.1-8b", Question(batch=2), "l4", ["chunked-loss"]),
        ("llama-3.1-8b", Question(batch=8, checkpointing=False), "l4", ["checkpointing", "smaller-batch"]),
        ("llama-3.1-8b", Question(batch=4), "a100-40", []),
        ("llama-3.1-8b", Question(task="generate", context=2048), "t4", ["int8"]),
        ("llama-3.1-8b", Question(task="generate", context=131_072), "l4", ["shorter-context"]),
        ("llama-3.2-1b", Question(method="full", batch=6), "rtx3090", ["chunked-loss"]),
    ],
)
def test_the_fewest_changes_are_found(name, asked, key, ids):
    found = make_fit(facts_of(name), asked, DEVICES[key])
    assert [change.id for change in found.changes] == ids
    assert found.verdict == "fits"
    assert estimate(facts_of(name), found.question, DEVICES[key]).peak == found.estimate.peak <= room(DEVICES[key])


def test_what_the_changes_save_adds_up():
    asked = Question(batch=8, checkpointing=False)
    before = estimate(facts_of("llama-3.1-8b"), asked, L4).peak
    found = make_fit(facts_of("llama-3.1-8b"), asked, L4)
    assert before - sum(change.saved for change in found.changes) == found.estimate.peak
    for change in found.changes:
        assert change.price
        assert change.source
        assert change.saved > 0
    assert asdict(found)["changes"][0]["values"]


def test_no_single_change_would_have_done():
    asked = Question(batch=8, checkpointing=False)
    found = make_fit(facts_of("llama-3.1-8b"), asked, L4)
    for change in found.changes:
        alone = replace(asked, **dict(change.values))
        assert estimate(facts_of("llama-3.1-8b"), alone, L4).peak > room(L4)


def test_a_smaller_batch_keeps_what_is_learned_at_once():
    asked = Question(batch=12, accumulation=2, loss="chunked", precision="nf4", rank=8)
    found = make_fit(facts_of("llama-3.1-8b"), asked, T4)
    assert "smaller-batch" in [change.id for change in found.changes]
    assert found.question.batch * found.question.accumulation == 24


def test_where_nothing_helps_the_question_stays_as_it_was():
    asked = Question(task="generate", context=2048, precision="bf16")
    found = make_fit(facts_of("mixtral-8x7b"), asked, T4)  # 15 GB of main memory do not hold the rest either
    assert found.changes == ()
    assert found.verdict == "no"
    assert found.question == asked


def test_layers_in_main_memory_are_the_last_resort_and_have_a_price():
    facts = facts_of("mixtral-8x7b")
    (change,) = make_fit(facts, Question(task="generate", context=2048), L4).changes
    assert change.id == "offload"
    assert "6 GB/s" in change.price
    assert "OPT-30B" in change.source
    fewer = Question(task="generate", context=2048, offload=dict(change.values)["offload"] - 2)
    assert estimate(facts, fewer, L4).peak > room(L4)
    assert [c.id for c in make_fit(facts_of("llama-3.1-8b"), Question(task="generate"), T4).changes] == ["int8"]


def test_changes_are_fields_of_the_question():
    names = {field.name for field in fields(Question)}
    found = make_fit(facts_of("llama-3.1-8b"), Question(method="full"), T4)
    assert {name for change in found.changes for name, _ in change.values} <= names
    assert isinstance(found.changes[0], Change)


# Disk


def test_an_adapter_is_small_on_disk_and_a_merge_is_a_model():
    facts = facts_of("llama-3.1-8b")
    needs = disk_needs(facts, Question(), download=16_060_000_000, kept=3)
    assert needs.merged == 2 * facts.parameters
    assert needs.adapter == 4 * estimate(facts, Question()).trainable
    assert needs.checkpoint == pytest.approx(3 * needs.adapter, rel=0.001)
    assert needs.checkpoints == 4 * needs.checkpoint
    assert needs.total == needs.download + needs.adapter + needs.merged + needs.checkpoints


def test_full_training_keeps_whole_models():
    needs = disk_needs(facts_of("llama-3.2-1b"), Question(method="full"), kept=2)
    assert (needs.adapter, needs.merged) == (0, 0)
    assert needs.checkpoint == pytest.approx(6 * facts_of("llama-3.2-1b").parameters, rel=0.001)
    assert disk_needs(facts_of("llama-3.2-1b"), Question(method="full"), kept=0).checkpoints == 0


def test_generating_needs_the_download_alone():
    assert disk_needs(facts_of("llama"), Question(task="generate"), download=7).total == 7
