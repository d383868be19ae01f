"""A run that was stopped, killed or interrupted goes on as if nothing had been."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import training_steps as steps
from pico import load_pico
from safetensors.torch import load_file

from studio import training
from studio.errors import InputError
from studio.events import Finished, Phase, Progress
from studio.training import Began, Evaluated, Stepped, Stop, Stopped, Warned, newest_checkpoint

LENGTHS = numpy.random.default_rng(1).integers(8, 60, 40).tolist()
HARD = {"dropout": 0.1, "accumulation": 2, "epochs": 2.0, "save_every": 1, "evaluate_every": 3, "neftune": 5.0}
"""Everything that draws random numbers or spans several batches: 14 steps, 7 an epoch."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("rows")
    return steps.prepared(steps.examples(folder, LENGTHS), steps.examples(folder, LENGTHS[:8], seed=3))


@pytest.fixture(scope="module")
def whole(pico: Path, data: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """A run that nothing came in the way of: its events and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return list(steps.train(pico, data, steps.run_of(pico, **HARD), folder)), folder


def learnt(events: list[Any]) -> list[tuple[Any, ...]]:
    """What must not differ by a bit."""
    return [
        *((e.step, e.loss, e.learning_rate, e.gradient, e.tokens) for e in events if isinstance(e, Stepped)),
        *((e.step, e.loss, e.best) for e in events if isinstance(e, Evaluated)),
    ]


def same_adapter(one: Path, other: Path) -> bool:
    left, right = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    return left.keys() == right.keys() and all(tensor.equal(right[name]) for name, tensor in left.items())


def killed_at(step: int, events: Any) -> list[Any]:
    """The events up to a checkpoint, behind which the run is closed, as a killed process leaves it."""
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, training.Saved) and event.step == step:
            break
    events.close()
    return seen


@pytest.mark.parametrize("step", [3, 7, 9])  # within an epoch, at its end, within the next
def test_a_run_that_was_killed_goes_on_bit_for_bit(pico, data, whole, tmp_path, step):
    killed_at(step, steps.train(pico, data, steps.run_of(pico, **HARD), tmp_path))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    at = int(newest.name.removeprefix("step-"))
    rest = list(steps.train(pico, data, steps.run_of(pico, **HARD), tmp_path))
    assert steps.of_kind(rest, Began)[0].step == at >= step
    assert [each for each in learnt(whole[0]) if each[0] > at] == learnt(rest)
    assert same_adapter(whole[1], tmp_path)
    assert rest[-1].result.tokens == whole[0][-1].result.tokens


def test_a_run_that_is_asked_to_stop_ends_after_the_step_at_hand_with_a_checkpoint(pico, data, whole, tmp_path):
    run = steps.run_of(pico, **HARD | {"save_every": 5})

    def wish() -> Stop | None:
        return Stop.CHECKPOINT if (tmp_path / "checkpoints" / "step-5").exists() else None

    events = list(steps.train(pico, data, run, tmp_path, wish=wish))
    assert events[-1] == Stopped(6, "step-6")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-6"
    assert not (tmp_path / "adapter").exists()
    rest = list(steps.train(pico, data, run, tmp_path))
    assert [each for each in learnt(whole[0]) if each[0] > 6] == learnt(rest)
    assert same_adapter(whole[1], tmp_path)


def test_a_wish_to_stop_at_the_last_step_comes_too_late(pico, data, tmp_path):
    def wish() -> Stop | None:
        return Stop.CHECKPOINT if (tmp_path / "checkpoints" / "step-1").exists() else None

    run = steps.run_of(pico, most_steps=2, save_every=1)
    events = list(steps.train(pico, data, run, tmp_path, wish=wish))
    assert isinstance(events[-1], Finished)
    assert events[-1].result.steps == 2


def test_a_run_that_ended_and_lost_its_result_makes_it_again_without_a_step(pico, data, tmp_path):
    run = steps.run_of(pico, most_steps=3, save_every=1, keep_best=False)
    events = list(steps.train(pico, data, run, tmp_path))
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    # As if the last step had been saved too.
    longer = steps.run_of(pico, most_steps=3, save_every=1, keep_best=False)
    shutil.rmtree(tmp_path / "adapter")
    again = list(steps.train(pico, data, longer, tmp_path))
    assert [each for each in learnt(events) if each[0] == 3] == learnt(again)
    after = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(tensor.equal(after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("how", ["wish", "close"])
def test_now_is_within_a_step(pico, tmp_path, how):
    # One step of 400 batches takes far longer than the test would wait.
    data = steps.prepared(steps.examples(tmp_path, [120] * 400))
    asked: list[float] = []

    def wish() -> Stop | None:
        return Stop.NOW if asked and how == "wish" else None

    loaded = load_pico(pico)
    run = steps.run_of(pico, accumulation=400, epochs=50.0, checkpointing="on")
    work = training.train(loaded.model, loaded.tokenizer, data, run, tmp_path / "run", wish=wish)
    last: Any = None
    for event in work:
        if isinstance(event, Began):
            asked.append(time.monotonic())
            if how == "close":
                break
        last = event
    work.close()
    assert time.monotonic() - asked[0] < 10  # the 50 steps take minutes
    if how == "wish":
        assert last == Stopped(0, None)
    assert not any(len(module._forward_pre_hooks) for module in loaded.model.modules())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 2e-2}, "learning rate (0.01, now 0.02)"),
        ({"epochs": 3.0}, "epochs (2.0, now 3.0)"),
        ({"seed": 5}, "seed (0, now 5)"),
    ],
)
def test_a_changed_setting_is_named_and_nothing_is_lost(pico, data, stopped, change, named):
    with pytest.raises(InputError, match="at step 3") as raised:
        list(steps.train(pico, data, steps.run_of(pico, **HARD | change), stopped))
    assert named in raised.value.message
    assert newest_checkpoint(stopped) is not None


@pytest.fixture(scope="module")
def stopped(pico: Path, data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has a checkpoint of step 3 and no later one."""
    folder = tmp_path_factory.mktemp("stopped")

    def wish() -> Stop | None:
        return Stop.CHECKPOINT if (folder / "checkpoints" / "step-2").exists() else None

    list(steps.train(pico, data, steps.run_of(pico, **HARD), folder, wish=wish))
    return folder


def test_changed_rows_are_refused(pico, data, stopped):
    other = steps.prepared(data.learn, data.held_out, fingerprint="other")
    with pytest.raises(InputError, match="changed: the data\\."):
        list(steps.train(pico, other, steps.run_of(pico, **HARD), stopped))


def test_what_changes_nothing_that_is_learnt_may_change(pico, data, whole, stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    run = steps.run_of(pico, **HARD | {"save_every": 4, "checkpointing": "on", "checkpoints": 1})
    rest = list(steps.train(pico, data, run, folder))
    assert [each for each in learnt(whole[0]) if each[0] > 3] == learnt(rest)
    assert len(list((folder / "checkpoints").iterdir())) == 1


def test_a_broken_checkpoint_is_passed_over_and_told_of(pico, data, whole, stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    optimizer = folder / "checkpoints" / "step-3" / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    rest = list(steps.train(pico, data, steps.run_of(pico, **HARD), folder))
    warned = steps.of_kind(rest, Warned)
    assert [(each.id, "step-3" in each.message, "step-2" in each.message) for each in warned] == [
        ("broken-checkpoint", True, True)
    ]
    assert [each for each in learnt(whole[0]) if each[0] > 2] == learnt(rest)
    assert same_adapter(whole[1], folder)


def test_somebody_who_waits_hears_that_it_goes_on(pico, data, tmp_path):
    loaded = load_pico(pico)
    run = steps.run_of(pico, most_steps=2)
    work = training.train(loaded.model, loaded.tokenizer, data, run, tmp_path, wish=lambda: None)
    said = [event for event in work if isinstance(event, Progress)]
    assert said
    assert {event.phase for event in said} == {Phase.TRAIN}
