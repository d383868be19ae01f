"""Two processes that learn one run: what each of them gets, and that together they learn what one learns alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy
import psutil
import pytest
from run_steps import HANG, at_rest, losses, made, state, until, worked_off
from safetensors.torch import load_file

from studio import runs
from studio.errors import InputError
from studio.runs import State
from studio.training import Began, Saved, Together, TrainingSettings
from studio.training.batches import Batches, Share

EVEN = {"dropout": 0.0, "accumulation": 2}
NEAR = 1e-5
"""How far sums that were added up in another order may be apart."""
# Writes down how many processes there are and what the model is wrapped in, and then does what the command does.
WATCHED = """
import os, sys
from torch import distributed
from studio.cli import main
from studio.training import trainer

learner, folder = trainer._trainer(), sys.argv[1]
step = learner.training_step

def seen(self, model, *inputs, **told):
    with open(f"{folder}/seen-{os.environ['RANK']}", "w") as file:
        print(type(model).__name__, type(model.module).__name__, distributed.get_world_size(), file=file)
    return step(self, model, *inputs, **told)

learner.training_step = seen
sys.exit(main(["train", folder]))
"""


@pytest.mark.parametrize(("accumulation", "size"), [(2, 2), (4, 2), (3, 3), (1, 1), (6, 3)])
def test_the_parts_of_a_step_are_all_of_it_and_as_many_for_each(accumulation: int, size: int) -> None:
    batches = Batches(numpy.arange(5, 60), 64, seed=3)
    shares = [Share(batches, accumulation, rank=rank, size=size) for rank in range(size)]
    parts = [list(share) for share in shares]
    assert {len(part) for part in parts} == {len(share) for share in shares}
    each = accumulation // size
    for step, begin in enumerate(range(0, len(batches), accumulation)):
        whole = list(batches)[begin : begin + accumulation]
        found = [batch for part in parts for batch in part[step * each : (step + 1) * each] if batch]
        assert sorted(found) == sorted(whole)


def test_a_step_that_cannot_be_divided_is_refused() -> None:
    Together(0, 2).check(TrainingSettings(accumulation=4))
    with pytest.raises(InputError, match="accumulation is 3"):
        Together(0, 2).check(TrainingSettings(accumulation=3))


def by_two(id_: str, script: Path) -> subprocess.Popen[str]:
    """The run, begun by torchrun in two processes."""
    script.write_text(WATCHED)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    return subprocess.Popen(
        [sys.executable, *command, str(runs.of(id_).folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )


def assert_near(one: str, other: str) -> None:
    """Both learnt the same, but for how sums are rounded."""
    assert losses(one) == pytest.approx(losses(other), rel=NEAR)
    ours, theirs = (load_file(runs.of(id_).folder / "adapter" / "adapter_model.safetensors") for id_ in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() <= NEAR


def test_two_processes_learn_what_one_learns(pico, tmp_path):
    alone, both = made(pico, tmp_path, **EVEN), made(pico, tmp_path, **EVEN)
    worked_off(alone)
    process = by_two(both, tmp_path / "watched.py")
    said, _ = process.communicate(timeout=HANG)
    assert process.returncode == 0, said
    assert state(both) is State.FINISHED
    folder = runs.of(both).folder
    for rank in range(2):
        assert (folder / f"seen-{rank}").read_text().split() == ["DistributedDataParallel", "Scored", "2"]
    (began,) = [told.event for told in runs.events(folder) if isinstance(told.event, Began)]
    assert began.processes == 2
    assert_near(both, alone)


def test_two_processes_that_are_killed_are_gone_on_with_by_one(pico, tmp_path):
    alone, both = made(pico, tmp_path, most_steps=40, **EVEN), made(pico, tmp_path, most_steps=40, **EVEN)
    worked_off(alone)
    process = by_two(both, tmp_path / "watched.py")
    folder = runs.of(both).folder
    until(lambda: process.poll() is not None or any(isinstance(told.event, Saved) for told in runs.events(folder)))
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.communicate()
    assert at_rest(both) is State.DIED
    worked_off(both)
    assert_near(both, alone)
