"""A checkpoint is whole or not there, whatever the disk does meanwhile."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import training_steps as steps

from studio.errors import Damaged, DoesNotFit
from studio.events import Finished
from studio.training import Saved, Stop, Stopped, Warned, checkpoints, course, finishing, newest_checkpoint
from studio.training.interrupting import Interrupted


def nothing() -> None:
    """Nobody stops it."""


def made(place: Path, step: int, content: str = "content") -> Path:
    return checkpoints.write(place, step, lambda folder: write_two(folder, content), check=nothing)


def write_two(folder: Path, content: str) -> None:
    (folder / "one").write_text(content)
    (folder / "two").write_text(content * 2)


def test_the_newest_whole_checkpoint_is_found_by_its_number(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step in (2, 10, 9):
        made(tmp_path / "checkpoints", step)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-10"


def cut(folder: Path) -> None:
    (folder / "two").write_text("content")


def flip(folder: Path) -> None:
    (folder / "one").write_text("Content")


def lose(folder: Path) -> None:
    (folder / "one").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": {}}')


def break_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1, 2")


@pytest.mark.parametrize("harm", [cut, flip, lose, lose_the_manifest, empty_the_manifest, break_the_manifest])
def test_a_checkpoint_that_is_not_as_it_was_written_is_passed_over(tmp_path, harm):
    older, newer = made(tmp_path, 1), made(tmp_path, 2)
    harm(newer)
    assert checkpoints.find(tmp_path) == checkpoints.Found(older, (newer,))


def test_one_of_the_same_step_is_replaced(tmp_path):
    made(tmp_path, 1, "before")
    assert (made(tmp_path, 1, "after") / "one").read_text() == "after"
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-1"]


def test_what_is_half_written_when_it_is_given_up_is_gone(tmp_path):
    made(tmp_path, 1)

    def check() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        checkpoints.write(tmp_path, 2, lambda folder: write_two(folder, "x"), check=check)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-1"]


def test_only_the_newest_stay_and_what_killed_writers_left_goes(tmp_path):
    for step in range(1, 6):
        made(tmp_path, step)
    shutil.copytree(tmp_path / "step-1", tmp_path / "step-6.part")
    shutil.copytree(tmp_path / "step-1", tmp_path / "step-1.old")
    assert checkpoints.find(tmp_path).newest == tmp_path / "step-5"
    checkpoints.rotate(tmp_path / "step-5", keep=2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-4", "step-5"]


def test_a_broken_one_of_a_later_step_does_not_take_the_place_of_a_whole_one(tmp_path):
    for step in (1, 2, 9):
        made(tmp_path, step)
    flip(tmp_path / "step-9")
    checkpoints.rotate(made(tmp_path, 3), keep=2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-2", "step-3"]


def test_weights_go_there_and_back_bit_for_bit(tmp_path):
    model: Any = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, dtype=torch.bfloat16))
    model[0].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpoints.save_weights(model, tmp_path / "weights")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    checkpoints.load_weights(model, tmp_path / "weights")
    after = model.state_dict()
    assert [name for name in before if not before[name].equal(after[name])] == ["0.bias"]  # it is not trained


def test_weights_of_another_run_are_refused_by_name(tmp_path):
    checkpoints.save_weights(torch.nn.Linear(2, 2), tmp_path / "weights")  # type: ignore[arg-type]
    with pytest.raises(Damaged, match="such as bias"):
        checkpoints.load_weights(torch.nn.Linear(2, 2, bias=False), tmp_path / "weights")  # type: ignore[arg-type]


@contextmanager
def full(most: int) -> Iterator[None]:
    """A disk that takes no file larger than this: the kernel refuses the write, whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def by_python(folder: Path) -> None:
    (folder / "large").write_bytes(bytes(100_000))


def by_torch(folder: Path) -> None:
    torch.save(torch.zeros(25_000), folder / "large")


def by_safetensors(folder: Path) -> None:
    checkpoints.save_weights(torch.nn.Linear(100, 100), folder / "large")  # type: ignore[arg-type]


@pytest.mark.parametrize("fill", [by_python, by_torch, by_safetensors])
def test_a_disk_that_is_full_leaves_no_half_checkpoint(tmp_path, fill):
    older = made(tmp_path, 1)
    with full(10_000), pytest.raises(DoesNotFit, match="The disk did not take") as raised:
        checkpoints.write(tmp_path, 2, fill, check=nothing)
    assert raised.value.hint
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-1"]
    assert checkpoints.find(tmp_path).newest == older


def test_an_error_that_is_not_of_the_disk_stays_what_it_is(tmp_path):
    def fill(folder: Path) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        checkpoints.write(tmp_path, 1, fill, check=nothing)


@pytest.fixture
def full_at_step_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full while the checkpoint of step 4 is written."""
    save_state = course.save_state

    def save(trainer: Any, folder: Path, randoms: Any) -> None:
        if trainer.state.global_step == 4:
            with full(10_000):
                save_state(trainer, folder, randoms)
        save_state(trainer, folder, randoms)

    monkeypatch.setattr(course, "save_state", save)


def test_training_goes_on_when_a_checkpoint_cannot_be_written_and_says_so(pico, tmp_path, full_at_step_4):
    data = steps.prepared(steps.examples(tmp_path, [20] * 24))
    events = list(steps.train(pico, data, steps.run_of(pico, save_every=2, batch_tokens=64), tmp_path / "run"))
    warned = steps.of_kind(events, Warned)
    assert [each.id for each in warned] == ["checkpoint-not-written"]
    assert "The one of step-2 stays." in warned[0].message
    assert [each.step for each in steps.of_kind(events, Saved)] == [2, 6]
    assert isinstance(events[-1], Finished)
    assert sorted(folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-2", "step-6"]


def test_a_stop_whose_checkpoint_finds_no_room_names_the_one_that_is_left(pico, tmp_path, full_at_step_4):
    data = steps.prepared(steps.examples(tmp_path, [20] * 24))

    def wish() -> Stop | None:
        return Stop.CHECKPOINT if (tmp_path / "run" / "checkpoints" / "step-3").exists() else None

    run = steps.run_of(pico, save_every=3, batch_tokens=64)
    events = list(steps.train(pico, data, run, tmp_path / "run", wish=wish))
    assert events[-1] == Stopped(4, "step-3")
    assert [each.id for each in steps.of_kind(events, Warned)] == ["checkpoint-not-written"]


def test_a_result_that_finds_no_room_leaves_the_checkpoints(pico, tmp_path, monkeypatch):
    data = steps.prepared(steps.examples(tmp_path, [20] * 24))
    write = finishing._write_adapter

    def write_full(*arguments: Any) -> None:
        with full(10_000):
            write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "_write_adapter", write_full)
        with pytest.raises(DoesNotFit, match="The disk did not take"):
            list(steps.train(pico, data, steps.run_of(pico, save_every=2, batch_tokens=64), tmp_path / "run"))
    assert sorted(folder.name for folder in (tmp_path / "run").iterdir()) == ["checkpoints"]
    events = list(steps.train(pico, data, steps.run_of(pico, save_every=2, batch_tokens=64), tmp_path / "run"))
    assert isinstance(events[-1], Finished)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
