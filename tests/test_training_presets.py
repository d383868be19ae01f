"""Three ways to begin, computed: a table of models, data and machines."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from memory_shapes import PUBLISHED

from studio import compute, dataset, memory, training
from studio.checkpoint import read_json
from studio.compute import Machine
from studio.errors import InputError
from studio.memory import DEVICES, THIS, Device
from studio.models import Precision
from studio.training import pace

GIB = 1 << 30
LAPTOP = Device(THIS, "a laptop", "cpu", 16 * GIB, GIB, 0, False, False, False, "test")
STARTER = Path(__file__).parent.parent / "assets" / "starter_model"
PERSONA = training.Amount(762, 60_338, ((50, 67), (90, 140), (95, 148), (99, 153), (100, 162)))
ORDERS = training.Amount(700, 48_804, ((50, 70), (90, 74), (95, 75), (99, 77), (100, 78)))
ALPACA = training.Amount(52_000, 11_500_000, ((50, 173), (90, 420), (95, 470), (99, 560), (100, 2900)))


@cache
def facts(name):
    return memory.read_facts(read_json(STARTER / "config.json") if name == "starter" else PUBLISHED[name])


def found(name, amount=PERSONA, device=LAPTOP, precision=Precision.BF16, **more):
    return training.presets(facts(name), precision, amount, device, **{"cores": 2, **more})


def test_the_starter_learns_as_it_was_measured():
    balanced = found("starter")["balanced"]
    settings = balanced.settings
    assert (settings.learning_rate, settings.rank, settings.alpha, settings.epochs) == (3e-3, 16, 32, 13.0)
    assert (settings.batch_tokens, settings.accumulation, settings.checkpointing) == (1024, 1, "off")
    assert settings.dropout == 0.05
    assert (balanced.preparation.limit, balanced.preparation.most_rows) == (160, 0)
    assert balanced.seconds == pytest.approx(148 / 8 * 13, rel=0.15)
    assert (
        13 < found("starter", ORDERS)["balanced"].settings.epochs < found("starter", ORDERS)["thorough"].settings.epochs
    )


def test_a_small_mixture_of_experts_gets_no_dropout_which_peft_refuses_there():
    small = replace(facts("starter"), experts=4)
    made = training.presets(small, Precision.FP32, PERSONA, LAPTOP, cores=2)
    assert {preset.settings.dropout for preset in made.values()} == {0.0}


@pytest.mark.parametrize(
    ("name", "precision", "device", "rate", "checkpointing"),
    [
        ("starter", Precision.FP32, LAPTOP, 3e-3, "off"),
        ("qwen3-0.6b", Precision.BF16, LAPTOP, 5e-4, "off"),
        ("llama-3.2-1b", Precision.BF16, DEVICES["t4"], 2e-4, "on"),
        ("llama-3.1-8b", Precision.NF4, DEVICES["t4"], 2e-4, "on"),
        ("llama-3.1-8b", Precision.BF16, DEVICES["h200"], 2e-4, "off"),
        ("llama-3.1-70b", Precision.NF4, DEVICES["a100-80"], 1e-4, "on"),
    ],
)
def test_size_and_machine_decide(name, precision, device, rate, checkpointing):
    settings = found(name, ALPACA, device, precision)["balanced"].settings
    assert settings.learning_rate == rate
    assert settings.checkpointing == checkpointing


@pytest.mark.parametrize(
    ("name", "amount", "device"),
    product(["starter", "qwen3-0.6b", "llama-3.1-8b"], [PERSONA, ORDERS, ALPACA], [LAPTOP, DEVICES["h200"]]),
)
def test_the_three_are_in_order_and_say_why(name, amount, device):
    quick, balanced, thorough = found(name, amount, device, Precision.NF4).values()
    for less, more in ((quick, balanced), (balanced, thorough)):
        assert less.settings.rank < more.settings.rank
        assert less.settings.epochs <= more.settings.epochs
        assert less.preparation.limit <= more.preparation.limit
        assert (less.seconds or 0) <= (more.seconds or 0)
    assert all(len(preset.why) == 4 and all(map(str.strip, preset.why)) for preset in (quick, balanced, thorough))


@pytest.mark.parametrize(
    ("name", "precision", "device"),
    product(
        ["qwen3-0.6b", "llama-3.2-1b", "llama-3.1-8b"],
        [Precision.BF16, Precision.NF4],
        [DEVICES["t4"], DEVICES["l4"], DEVICES["h200"]],
    ),
)
def test_what_is_proposed_fits_by_the_estimate(name, precision, device):
    for preset in found(name, ALPACA, device, precision).values():
        settings, limit = preset.settings, preset.preparation.limit
        question = memory.Question(
            precision=precision,
            rank=settings.rank,
            context=limit,
            batch=max(1, settings.batch_tokens // limit),
            loss="chunked",
            checkpointing=settings.checkpointing == "on",
            kbit_preparation="on" if precision.quantizes else "off",
            autocast="bf16" if device.bf16 else "none",
        )
        fits = memory.estimate(facts(name), question, device).peak <= memory.room(device)
        assert fits or "does not fit" in preset.why[3]
        assert settings.batch_tokens >= limit


def test_what_does_not_fit_at_all_is_said():
    assert "does not fit" in found("llama-3.1-70b", ALPACA, DEVICES["t4"])["balanced"].why[3]


def test_a_few_rows_that_are_far_longer_than_the_others_are_cut_even_when_thorough():
    assert found("llama-3.1-8b", ALPACA, DEVICES["h200"])["thorough"].preparation.limit == 576
    even = replace(ALPACA, percentiles=((99, 560), (100, 900)))
    assert found("llama-3.1-8b", even, DEVICES["h200"])["thorough"].preparation.limit == 928


def test_no_row_is_longer_than_the_model_reads():
    long = training.Amount(100, 900_000, ((99, 9000), (100, 9500)))
    assert found("starter", long)["balanced"].preparation.limit == 1024


def test_quick_looks_at_a_part_of_many_rows():
    quick = found("starter", ALPACA)["quick"]
    assert quick.preparation.most_rows == 2000
    assert quick.seconds < 0.1 * found("starter", ALPACA)["balanced"].seconds


def test_seconds_are_those_of_a_measured_speed_or_of_the_cpu_or_unknown():
    assert found("starter", speed=1000.0)["balanced"].seconds == pytest.approx(60_338 * 13 / 1000)
    assert found("starter", cores=4)["balanced"].seconds == pytest.approx(found("starter")["balanced"].seconds / 2)
    assert found("llama-3.1-8b", device=DEVICES["h200"])["balanced"].seconds is None


def test_an_architecture_that_memory_does_not_know_gets_careful_ones():
    unknown = replace(facts("llama-3.1-8b"), heads=0)
    settings = training.presets(unknown, Precision.BF16, ALPACA, DEVICES["h200"], cores=8)["balanced"].settings
    assert (settings.batch_tokens, settings.accumulation, settings.checkpointing) == (2048, 4, "auto")


def test_rows_that_were_measured_and_rows_that_were_made_give_the_amount(tmp_path):
    from array import array

    lengths = dataset.Lengths(array("i", [3, -1, 5]), 3, 8, ((50, 3), (100, 5)), (), (), 1, (), 0, ())
    assert training.amount_of(lengths) == training.Amount(2, 8, ((50, 3), (100, 5)))
    examples = dataset.Examples(tmp_path / "x.arrow", 2, 8, 4, 5)
    made = dataset.Prepared(examples, None, 3, (), 0, 0, 0, ((100, 5),), 0.0, "")
    assert training.amount_of(made) == training.Amount(2, 8, ((100, 5),))


class TestComputesIn:
    """What training computes in."""

    CPU = Machine("cpu", "a CPU", 32 * 10**9, has_bf16=True)
    OLD_CPU = Machine("cpu", "an old CPU", 32 * 10**9, has_bf16=False)
    AMPERE = Machine("cuda", "A100", 80 * 10**9, has_bf16=True)
    TURING = Machine("cuda", "T4", 16 * 10**9, has_bf16=False)

    @pytest.fixture
    def on(self, monkeypatch, loaded):
        def asked(machine, wish="auto", gain=2.0):
            monkeypatch.setattr(compute, "machine", lambda: machine)
            monkeypatch.setattr(pace, "bf16_gain", lambda _width: gain)
            return training.computes_in(loaded.model, training.TrainingSettings(compute=wish))

        return asked

    @pytest.mark.parametrize(
        ("machine", "gain", "dtype"),
        [
            (AMPERE, 0.0, "bf16"),
            (OLD_CPU, 9.0, "fp32"),
            (CPU, 2.0, "bf16"),
            (CPU, 1.05, "fp32"),
            (CPU, 0.5, "fp32"),
        ],
    )
    def test_auto_is_what_the_machine_is_faster_in(self, on, machine, gain, dtype):
        chosen = on(machine, gain=gain)
        assert chosen.dtype == dtype
        assert chosen.why
        assert chosen.autocast == (dtype != "fp32")

    def test_an_older_card_scales_its_loss(self, on, loaded):
        assert on(self.TURING).scales
        assert on(self.TURING, "fp16").dtype == "fp16"

    @pytest.mark.parametrize(("machine", "wish"), [(CPU, "fp16"), (TURING, "bf16")])
    def test_what_a_machine_cannot_do_is_refused(self, on, machine, wish):
        with pytest.raises(InputError) as caught:
            on(machine, wish)
        assert caught.value.hint

    def test_what_was_chosen_is_done(self, on):
        assert on(self.CPU, "fp32").dtype == "fp32"
        assert on(self.OLD_CPU, "bf16").dtype == "bf16"

    def test_it_is_really_tried_and_once(self):
        pace.bf16_gain.cache_clear()
        first = pace.bf16_gain(64)
        assert 0 < first < 1000
        assert pace.bf16_gain(64) is first
