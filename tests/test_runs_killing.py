"""Whatever is killed, whenever: the run goes on with the same losses, or can be deleted, and says how it stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from random import Random

from run_steps import at_rest, killed_at_random, losses, made, state, until, worked_off, worker_of

from studio import runs
from studio.runs import State, journal
from studio.runs.starting import begin
from studio.runs.working import carry_out
from studio.training import Stepped

LONG = {"most_steps": 30, "save_every": 1, "evaluate_every": 10}
"""A checkpoint every step: much of the time is spent on writing them."""


def test_a_worker_that_is_killed_at_any_moment_goes_on_with_the_same_losses(pico, tmp_path):
    whole, killed = made(pico, tmp_path, **LONG), made(pico, tmp_path, **LONG)
    worked_off(whole)
    assert killed_at_random(killed, Random(4), 3) >= 1
    found = runs.of(killed).standing
    if found.state is not State.FINISHED:
        assert found.state is State.DIED
        assert found.message
        assert found.hint
        worked_off(killed)
    assert state(killed) is State.FINISHED
    assert losses(killed) == losses(whole)
    names = {each.name for each in runs.of(killed).folder.iterdir()}
    assert names == {each.name for each in runs.of(whole).folder.iterdir()} | {"log.txt"}
    runs.delete(killed)


def test_a_run_outlives_whoever_started_it(pico, tmp_path):
    id_ = made(pico, tmp_path)
    script = f"from studio import runs; import time; runs.start({id_!r}, token=False); print('on', flush=True)"
    server = subprocess.Popen(
        [sys.executable, "-c", f"{script}; time.sleep(600)"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert server.stdout.readline() == b"on\n"
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    server.stdout.close()
    assert state(id_).is_alive
    assert at_rest(id_) is State.FINISHED


def test_a_run_that_died_can_be_deleted(pico, tmp_path):
    id_ = made(pico, tmp_path)
    folder = runs.of(id_).folder
    runs.start(id_, token=False)
    until(lambda: journal.last(folder, "started"))
    # All of the group: nothing is left that could be at it.
    os.killpg(worker_of(id_), signal.SIGKILL)
    assert at_rest(id_) is State.DIED
    runs.delete(id_)
    assert not folder.exists()


def test_a_run_that_is_made_or_deleted_and_killed_meanwhile_is_listed_and_can_be_deleted(tmp_path):
    script = """
import os, sys
from pathlib import Path
from studio import runs
from studio.loading import LoadPlan
from studio.models import STARTER
from studio.runs import document, directory
from studio.training import DataSource, TrainingRun
run = TrainingRun(LoadPlan(STARTER), (DataSource("persona"),))
if sys.argv[1] == "made":
    document.write = lambda *_: os.kill(os.getpid(), 9)
id_ = runs.create(run)
directory.shutil.rmtree = lambda *_: os.kill(os.getpid(), 9)
runs.delete(id_)
"""
    for moment in ("made", "deleted"):
        done = subprocess.run([sys.executable, "-c", script, moment], check=False, timeout=120)
        assert done.returncode == -signal.SIGKILL
        (left,) = runs.listing()
        assert isinstance(left, runs.Broken)
        runs.delete(left.id)
        assert runs.listing() == ()


def test_a_page_that_closes_what_it_follows_leaves_the_run_alone(pico, tmp_path):
    id_ = made(pico, tmp_path, most_steps=3)
    folder = runs.of(id_).folder
    with closing(carry_out(folder, begin(folder), token=False)) as events:
        for event in events:
            if isinstance(event, Stepped):
                with closing(runs.follow(id_)) as news:
                    assert next(news).standing.state is State.RUNNING
    assert state(id_) is State.FINISHED
