"""What goes where: every block in one place, no device over its limit, and a refusal only where there is no way."""

from __future__ import annotations

import itertools
import random

import pytest
from pico import save_pico

from studio import compute
from studio.compute import Room
from studio.errors import DoesNotFit, InputError
from studio.loading import Block, LoadPlan, Placement, Quantization, outlook
from studio.loading.placing import device_map, place
from studio.models import ModelRef, Precision

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential", "one device", "cpu")


def model(*sizes):
    return [Block(f"layer.{number}", size) for number, size in enumerate(sizes)]


def machine(*gpus, cpu):
    return [*(Room(f"cuda:{number}", free) for number, free in enumerate(gpus)), Room("cpu", cpu)]


def where(placed):
    """The devices in order, as g0 g1 c d."""
    return " ".join(block.device.replace("cuda:", "g").replace("cpu", "c").replace("disk", "d") for block in placed)


@pytest.mark.parametrize(
    ("strategy", "gpus", "expected"),
    [
        ("sequential", (40, 100), "g0 g0 g0 g0 g1 g1"),
        ("sequential", (1000,), "g0 g0 g0 g0 g0 g0"),
        ("auto", (1000, 1000), "g0 g0 g0 g1 g1 g1"),
        ("balanced", (1000, 1000, 1000, 1000), "g0 g0 g1 g1 g2 g2"),
        ("balanced", (20, 1000), "g0 g0 g1 g1 g1 g1"),
        ("balanced", (60, 9, 30), "g0 g0 g0 g2 g2 g2"),
        ("balanced_low_0", (1000, 1000, 1000), "g1 g1 g1 g2 g2 g2"),
        ("balanced_low_0", (1000, 20, 20), "g0 g0 g1 g1 g2 g2"),
        ("balanced_low_0", (1000,), "g0 g0 g0 g0 g0 g0"),
        ("one device", (60, 1000), "g0 g0 g0 g0 g0 g0"),
        ("cpu", (1000, 1000), "c c c c c c"),
        ("auto", (), "c c c c c c"),
    ],
)
def test_a_strategy_does_what_its_name_says(strategy, gpus, expected):
    placed = place(model(*[10] * 6), machine(*gpus, cpu=60), Placement(strategy))
    assert where(placed) == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_device_takes_exactly_what_it_has_and_not_a_byte_more(strategy):
    only = machine(60, cpu=60) if strategy == "one device" else machine(cpu=60)
    assert len({block.device for block in place(model(10, 20, 30), only, Placement(strategy))}) == 1
    short = [Room(room.device, 59) for room in only]
    with pytest.raises(DoesNotFit, match=r"has 0\.00 GB"):
        place(model(10, 20, 30), short[:1], Placement(strategy))


def test_equal_shares_do_not_stand_in_the_way_of_a_place():
    """A share that the small GPUs cannot take is taken by the large one, before anything goes to the CPU."""
    assert where(place(model(*[10] * 9), machine(10, 80, 1, cpu=500), Placement("balanced"))) == "g0" + " g1" * 8


def test_what_lies_on_the_cpu_leaves_room_on_the_gpu_that_it_is_brought_to():
    placed = place(model(10, 10, 25, 10), machine(50, cpu=100), Placement())
    assert where(placed) == "g0 g0 c c"
    assert where(place(model(10, 10, 10), machine(cpu=25), Placement(disk=True))) == "c d d"
    assert where(place(model(10, 10, 10), machine(25, cpu=10), Placement(disk=True))) == "g0 c d"


def test_a_gpu_too_small_for_one_block_is_left_out():
    assert where(place(model(10, 10, 30), machine(25, cpu=50), Placement())) == "c c c"
    assert where(place(model(10, 10, 30), machine(5, 40, cpu=50), Placement())) == "g1 c c"


def test_a_block_that_is_larger_than_every_device_cannot_be_read_from_the_disk_either():
    with pytest.raises(DoesNotFit, match=r"largest part of the model takes 0\.05 GB at once, and cuda:0 has 0\.04 GB"):
        place(model(10**7, 5 * 10**7), machine(4 * 10**7, cpu=4 * 10**7), Placement(disk=True))


def test_the_refusal_tells_what_is_free_and_not_what_was_shared_out():
    with pytest.raises(DoesNotFit) as caught:
        place(model(*[10**9] * 9), machine(3 * 10**9, 2 * 10**9, cpu=10**9), Placement(limits="1=1.5GB"))
    assert caught.value.message == (
        "The weights take 9.00 GB, and cuda:0 has 3.00 GB, cuda:1 has 1.50 GB, cpu has 1.00 GB for them."
    )


def test_blocks_that_share_their_weights_lie_together():
    tied = [Block("embedding", 30), *model(10, 10, 10), Block("head", 0, beside="embedding")]
    assert where(place(tied, machine(45, 45, cpu=0), Placement())) == "g0 g1 g1 g1 g0"
    assert where(place(tied, machine(cpu=69), Placement(disk=True))) == "c c c c c"
    assert where(place(tied, machine(cpu=59), Placement(disk=True))) == "d d d d d"
    small = [Block("embedding", 20), *model(10, 10, 10), Block("head", 0, beside="embedding")]
    assert where(place(small, machine(cpu=45), Placement(disk=True))) == "c d d d c"
    with_bias = [Block("embedding", 30), *model(10, 10), Block("head", 5, beside="embedding")]
    assert where(place(with_bias, machine(34, 55, cpu=0), Placement("sequential"))) == "g1 g1 g1 g1"


def test_one_place_is_told_in_one_word():
    assert device_map(place(model(1, 2), machine(cpu=9), Placement())) == {"": "cpu"}
    assert device_map(place(model(1, 2), machine(1, 2, cpu=9), Placement())) == {
        "layer.0": "cuda:0",
        "layer.1": "cuda:1",
    }


# By chance


def fits_somehow(sizes, rooms):
    """Whether blocks in this order can lie on devices in this order: every cut is tried."""
    cuts = itertools.combinations_with_replacement(range(len(sizes) + 1), len(rooms) - 1)
    for cut in cuts:
        edges = (0, *cut, len(sizes))
        if all(sum(sizes[a:b]) <= room.free for (a, b), room in zip(itertools.pairwise(edges), rooms, strict=True)):
            return True
    return False


def test_any_model_on_any_machine_is_placed_well_or_refused_rightly():
    chance = random.Random(3)
    refused = offloaded = 0
    for _ in range(600):
        sizes = [chance.randint(0, 20) for _ in range(chance.randint(1, 7))]
        rooms = machine(*(chance.randint(0, 60) for _ in range(chance.choice((0, 1, 2, 4)))), cpu=chance.randint(0, 60))
        wish = Placement(chance.choice(STRATEGIES), disk=chance.random() < 0.3)
        allowed = {"cpu": rooms[-1:], "one device": rooms[:1]}.get(wish.strategy, rooms)
        gpus = [room for room in allowed if room.device != "cpu"]
        try:
            placed = place(model(*sizes), rooms, wish)
        except DoesNotFit:
            refused += 1
            # Without a device that computes alone, what lies elsewhere needs room for the largest on the first.
            assert not (gpus and fits_somehow(sizes, gpus))
            assert sum(sizes) > allowed[-1].free
            assert not wish.disk or max(sizes) > max(room.free for room in allowed)
            continue
        assert [(block.name, block.bytes) for block in placed] == [(b.name, b.bytes) for b in model(*sizes)]
        order = [*(room.device for room in allowed), "disk"]
        steps = [order.index(block.device) for block in placed]
        assert steps == sorted(steps)
        assert wish.disk or "disk" not in where(placed)
        held = {room.device: sum(b.bytes for b in placed if b.device == room.device) for room in allowed}
        assert all(held[room.device] <= room.free for room in allowed)
        used = {block.device for block in placed}
        if "disk" in used or ("cpu" in used and used - {"cpu"}):
            offloaded += 1
            assert not (gpus and fits_somehow(sizes, gpus))
            reserved = [room for room in allowed if room.free - held[room.device] >= max(sizes)]
            assert reserved
            assert order.index(reserved[0].device) <= steps[0]
    assert refused > 50
    assert offloaded > 50


def test_equal_shares_are_the_smallest_there_are():
    chance = random.Random(4)
    for _ in range(100):
        sizes = [chance.randint(1, 20) for _ in range(chance.randint(2, 7))]
        placed = place(model(*sizes), machine(500, 500, 500, cpu=0), Placement("balanced"))
        most = max(sum(b.bytes for b in placed if b.device == f"cuda:{n}") for n in range(3))
        assert fits_somehow(sizes, machine(most, most, cpu=most))
        assert not fits_somehow(sizes, machine(most - 1, most - 1, cpu=most - 1))


# What a person writes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("cpu=8 GB", {"cpu": 8 * 10**9}),
        (" cuda:0=20GB ,CPU = 1.5 g,", {"cuda:0": 20 * 10**9, "cpu": 15 * 10**8}),
        ("0=1M, cuda1: 2 kB, mps=.5GB", {"cuda:0": 10**6, "cuda:1": 2000, "mps": 5 * 10**8}),
        ("cpu=1GiB, cuda:0=2 MiB, cuda:1=1TB", {"cpu": 2**30, "cuda:0": 2**21, "cuda:1": 10**12}),
        ("cpu=0.1GB", {"cpu": 10**8}),
        ("cpu=0 GB", {"cpu": 0}),
    ],
)
def test_limits_are_read_as_people_write_them(text, expected):
    assert Placement(limits=text).limit_of == expected


@pytest.mark.parametrize(
    "text", ["8 GB", "cpu=8", "cpu=. GB", "cpu=1.2.3GB", "cpu=-1GB", "tpu=1GB", "cpu=1GB;0=1GB", "cpu=eight GB",
             "cpu=" + "9" * 400 + "GB", "cpu=1e9GB", "cuda:=1GB", "cpu=nan GB", "cpu=1 XB", "cpu=1GB\ncpu=1GB"],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(text):
    with pytest.raises(InputError, match="is not the limit of a device"):
        Placement(limits=text)


def test_a_strategy_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match="Strategy is 'best'"):
        Placement("best")


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"no cuda:3\. It has cuda:0, cpu"):
        place(model(1), machine(9, cpu=9), Placement(limits="3=1GB"))


# A real model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_pico(tmp_path_factory.mktemp("placing"), num_hidden_layers=8, tie_word_embeddings=False)


def give(monkeypatch, *gpus, cpu):
    rooms = [Room(room.device, room.free + 300_000_000) for room in machine(*gpus, cpu=cpu)]
    monkeypatch.setattr(compute, "rooms", lambda: rooms)


def look(folder, **fields):
    return outlook(
        LoadPlan(**{"model": ModelRef("folder", str(folder)), "precision": Precision.BF16, **fields}), folder
    )


@pytest.mark.parametrize(
    ("gpus", "cpu", "disk"),
    [((50_000, 200_000), 0, False), ((90_000, 120_000), 0, False), ((70_000, 60_000), 120_000, False),
     ((60_000,), 50_000, True), ((), 100_000, True)],
)  # fmt: skip
def test_layers_go_where_accelerate_would_put_them(llama, gpus, cpu, disk, monkeypatch):
    import torch
    from accelerate.utils import modeling
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        meta = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(llama), dtype=torch.bfloat16)
    give(monkeypatch, *gpus, cpu=cpu)
    blocks = look(llama, placement=Placement("sequential", disk=disk)).blocks
    limits = {**dict(enumerate(gpus)), "cpu": cpu}
    largest = max(block.bytes for block in blocks)
    if not cpu:
        # accelerate keeps room for the largest layer on the first GPU even where nothing has to be brought to it.
        limits[0] += largest
    if gpus and disk:
        # And on the CPU, which what comes from the disk only passes.
        limits["cpu"] += largest
    monkeypatch.setattr(modeling, "get_max_memory", lambda given: given)  # which forgets GPUs that are not there
    theirs = modeling.infer_auto_device_map(meta, limits, no_split_module_classes=meta._no_split_modules)
    layers = [f"model.layers.{number}" for number in range(8)]
    named = {f"cuda:{number}": number for number in range(len(gpus))}
    assert [named.get(b.device, b.device) for b in blocks if b.name in layers] == [theirs[name] for name in layers]


def test_a_tied_head_lies_with_the_embedding(pico, monkeypatch):
    give(monkeypatch, 70_000, 70_000, cpu=0)
    placed = {block.name: block.device for block in look(pico).blocks}
    assert placed["model.layers.0"] != placed["model.layers.1"]
    assert placed["lm_head"] == placed["model.embed_tokens"] == "cuda:0"


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantized_layers_are_spread_over_gpus_and_not_onto_the_cpu_unasked(llama, monkeypatch, precision):
    give(monkeypatch, 80_000, 80_000, cpu=0)
    ahead = look(llama, precision=Precision(precision))
    assert ahead.misfit is None
    assert {block.device for block in ahead.blocks} == {"cuda:0", "cuda:1"}
    give(monkeypatch, 80_000, cpu=900_000)
    ahead = look(llama, precision=Precision(precision))
    assert f"{precision} weights that find no room" in ahead.misfit.message
    assert "Turn on CPU offload" in ahead.misfit.hint
    asked = look(llama, precision=Precision(precision), quantization=Quantization(cpu_offload=True))
    assert asked.misfit is None
