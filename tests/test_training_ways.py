"""Every method, optimizer and schedule that can be chosen trains, and does what it is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest
import training_steps as steps
from pico import load_pico

from studio.errors import InputError
from studio.training import Evaluated, Stepped, trainer
from studio.training.batches import Batches
from studio.training.readying import ready


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return steps.lesson(tmp_path_factory.mktemp("lesson"))


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adafactor"},
        {"optimizer": "sgd"},
        {"optimizer": "adamw 8-bit"},
        {"schedule": "warm-up, stable, decay", "warmup": 0.2},
        {"schedule": "cosine with a floor"},
        {"compute": "bf16"},
        {"weight_decay": 0.1, "clip": 0.0, "lora_plus": 8.0},
        {"packing": True},
        {"method": "dora", "checkpointing": "on"},
    ],
    ids=str,
)
def test_every_way_to_train_goes_down(pico, lesson, tmp_path, options):
    run = steps.run_of(pico, **{"epochs": 6.0, "batch_tokens": 480, "learning_rate": 2e-2, "rank": 8} | options)
    events = list(steps.train(pico, lesson, run, tmp_path))
    looks = steps.of_kind(events, Evaluated)
    assert min(look.loss for look in looks) < looks[0].loss - (0.0 if options.get("optimizer") == "sgd" else 0.02)


def test_a_whole_model_is_trained_and_loads_again(pico, lesson, tmp_path):
    run = steps.run_of(pico, method="full", epochs=8.0, batch_tokens=480, learning_rate=1e-2)
    events = list(steps.train(pico, lesson, run, tmp_path))
    learnt = steps.result(events)
    assert learnt.folder == tmp_path / "model"
    again = load_pico(learnt.folder)
    assert steps.loss_of(again.model, lesson.held_out) == pytest.approx(learnt.held_out_loss, rel=1e-5)
    assert learnt.held_out_loss < steps.of_kind(events, Evaluated)[0].loss - 0.5
    assert again.model.config.use_cache


def test_the_schedules_are_those_that_they_are_called(pico, lesson, tmp_path):
    rates = {}
    for name in ("cosine", "linear", "constant", "cosine with a floor", "warm-up, stable, decay"):
        run = steps.run_of(pico, schedule=name, warmup=0.2, epochs=2.0, batch_tokens=96)  # ten steps
        events = list(steps.train(pico, replace(lesson, held_out=None), run, tmp_path / name))
        rates[name] = [round(each.learning_rate / 1e-2, 2) for each in steps.of_kind(events, Stepped)]
    assert {tuple(each[:3]) for each in rates.values()} == {(0.0, 0.5, 1.0)}
    assert rates["constant"][2:] == [1.0] * 8
    assert rates["linear"][-1] == pytest.approx(1 / 8, abs=0.01)
    assert rates["cosine"][-1] == pytest.approx(0.04, abs=0.01)
    assert rates["cosine with a floor"][-1] == pytest.approx(0.1 + 0.9 * 0.038, abs=0.01)
    assert rates["warm-up, stable, decay"][2:9] == [1.0] * 7
    assert rates["warm-up, stable, decay"][-1] == 0.5


def test_with_lora_plus_the_b_matrices_learn_faster(pico, tmp_path):
    settings = steps.run_of(pico, lora_plus=16.0, weight_decay=0.1).settings
    loaded = load_pico(pico)
    made = ready(loaded.model, loaded.tokenizer, settings)
    told: Any = (None, settings, trainer.arguments(settings, tmp_path, 4, fp16=False), None)
    learner = trainer.build(made, Batches(numpy.array([3]), 9, seed=0), *told)
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in learner.create_optimizer().param_groups for p in group["params"]}
    assert {rate for name, rate in rates.items() if "lora_B" in name} == {16 * 0.01}
    assert {rate for name, rate in rates.items() if "lora_A" in name} == {0.01}
    assert len(rates) == len([p for p in made.model.parameters() if p.requires_grad])


def test_a_tracker_that_is_not_installed_is_refused(pico, lesson, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="trackio is not installed here"):
        list(steps.train(pico, lesson, steps.run_of(pico, report_to="trackio"), tmp_path))
