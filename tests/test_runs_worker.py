"""The worker of a run: a process of its own that waits for its turn, and whose every end is told."""

from __future__ import annotations

import json
import os
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pico import change_json
from run_steps import at_rest, losses, made, small_run, state, until, worked_off, worker_of

from studio import jobs, runs, training
from studio.errors import Busy, DoesNotFit, InputError, StudioError
from studio.events import Finished, Waiting
from studio.jobs import training as work
from studio.loading import LoadPlan
from studio.models import STARTER, Precision
from studio.runs import Failed, Started, State, forecast
from studio.runs.starting import begin
from studio.runs.state import TURN, held, queue_up, take_hold, wish
from studio.runs.turns import turn
from studio.runs.working import carry_out
from studio.training import Began, Stepped, Stop, Stopped

SECRET = "hf_nobody_may_read_this"


def test_a_run_is_worked_off_in_a_process_of_its_own_that_keeps_the_token_to_itself(pico, tmp_path):
    id_ = made(pico, tmp_path)
    folder = runs.of(id_).folder
    runs.start(id_, token=SECRET)
    assert state(id_) in (State.QUEUED, State.PREPARING)
    worker = worker_of(id_)
    assert os.getsid(worker) == worker != os.getsid(0)
    for place in ("cmdline", "environ"):
        assert SECRET.encode() not in Path(f"/proc/{worker}/{place}").read_bytes()
    with pytest.raises(InputError, match="at work already"):
        runs.start(id_, token=False)
    with pytest.raises(Busy):
        runs.delete(id_)
    seen = {news.standing.state for news in runs.follow(id_)}
    assert seen >= {State.PREPARING, State.RUNNING, State.FINISHED}
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    told = [each.event for each in runs.events(folder)]
    assert isinstance(told[0], Started)
    assert isinstance(told[-1], Finished)
    assert [event.step for event in told if isinstance(event, Stepped)] == list(range(1, 13))
    found = forecast.read(folder)
    assert told[-1].result.peak > found.measured > found.predicted > 0
    assert "step 12/12" in (folder / "log.txt").read_text()
    for file in folder.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()
    with pytest.raises(InputError, match="is finished"):
        runs.start(id_, token=False)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(pico, tmp_path):
    whole, cut = made(pico, tmp_path), made(pico, tmp_path)
    worked_off(whole)
    folder = runs.of(cut).folder
    with closing(carry_out(folder, begin(folder), token=False)) as events:
        for event in events:
            if isinstance(event, Stepped) and event.step == 5:
                runs.ask_to_stop(cut)
                assert state(cut) is State.STOPPING
    assert isinstance(event, Stopped)
    assert state(cut) is State.STOPPED
    assert event.checkpoint == f"step-{event.step}"
    again = worked_off(cut)
    assert next(each for each in again if isinstance(each, Began)).step == event.step
    assert losses(cut) == losses(whole)
    assert state(cut) is State.FINISHED


def test_a_run_that_is_asked_to_stop_before_it_learns_ends_before_it_learns(pico, tmp_path):
    id_ = made(pico, tmp_path)
    folder = runs.of(id_).folder
    events = []
    with closing(carry_out(folder, begin(folder), token=False)) as work_:
        for event in work_:
            events.append(event)
            if isinstance(event, Started):
                runs.ask_to_stop(id_)
    assert events[-1] == Stopped(0, None)
    assert not any(isinstance(event, Began) for event in events)
    assert state(id_) is State.STOPPED
    with pytest.raises(InputError, match="nothing to stop"):
        runs.ask_to_stop(id_)


def test_stopping_at_once_keeps_the_last_checkpoint(pico, tmp_path):
    id_ = made(pico, tmp_path)
    folder = runs.of(id_).folder
    with closing(carry_out(folder, begin(folder), token=False)) as events:
        for event in events:
            if isinstance(event, Stepped) and event.step == 5:
                runs.ask_to_stop(id_, Stop.NOW)
    assert event.checkpoint in ("step-3", "step-6")
    assert state(id_) is State.STOPPED


def test_a_run_of_rows_that_cannot_be_read_fails_and_says_why(pico, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"colour": 1}\n{"colour": 2}\n')
    id_ = runs.create(small_run(pico), [file])
    with pytest.raises(StudioError) as caught:
        worked_off(id_)
    found = runs.of(id_).standing
    assert (found.state, found.message, found.hint) == (State.FAILED, caught.value.message, caught.value.hint)
    assert found.message
    assert found.hint
    (runs.of(id_).folder / "data" / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    worked_off(id_)
    assert state(id_) is State.FINISHED


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ZeroDivisionError("one over nothing"), StudioError, "ZeroDivisionError: one over nothing"),
        (
            RuntimeError("can't allocate memory: you tried to allocate 8000000000 bytes."),
            DoesNotFit,
            "8.00 GB was needed",
        ),
        (MemoryError(), DoesNotFit, "more was needed at once"),
    ],
)
def test_whatever_goes_wrong_is_the_last_word(pico, tmp_path, monkeypatch, caplog, error, kind, words):
    def broken(*_arguments, **_options):
        raise error
        yield

    monkeypatch.setattr(training, "train", broken)
    id_ = made(pico, tmp_path)
    with pytest.raises(kind, match=words):
        worked_off(id_)
    found = runs.of(id_).standing
    assert found.state is State.FAILED
    assert words in found.message
    assert found.hint
    told = runs.events(runs.of(id_).folder)[-1].event
    assert isinstance(told, Failed)
    assert told.kind == kind.__name__
    if kind is StudioError:
        assert "in broken" in caplog.text, "where it was goes to the log"


def fill_up(disk, events):
    """Leave no room on a disk after the fourth step."""
    with closing(events):
        for event in events:
            if isinstance(event, Stepped) and event.step == 4:
                with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                    while filler.write(b"x" * 4096):
                        pass


def test_a_disk_that_fills_up_ends_the_run_and_leaves_it_to_go_on(pico, tmp_path, small_disk, monkeypatch):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(small_disk))
    id_ = made(pico, tmp_path)
    folder = runs.of(id_).folder
    with pytest.raises(DoesNotFit, match=r"disk"):
        fill_up(small_disk, carry_out(folder, begin(folder), token=False))
    assert runs.of(id_).standing.state in (State.FAILED, State.DIED)
    assert "disk" in runs.of(id_).standing.message
    (small_disk / "filler").unlink()
    worked_off(id_)
    assert state(id_) is State.FINISHED
    runs.delete(id_)


# The line


def in_line(folder, events, name):
    """A worker that waits for its turn, keeps it until the event is set, and says what happened."""

    def wait():
        with turn(folder, name, give_up=lambda: (folder / "wish").exists()) as place:
            for waiting in (iterator := _results(place)):
                events.append((name, waiting.ahead, waiting.busy_with))
            if iterator.result:
                (folder / TURN).unlink()
                events.append((name, "begins"))
                leave.wait(60)
                events.append((name, "ends"))
        os.close(lock)

    lock, leave = take_hold(folder), threading.Event()
    queue_up(folder)
    thread = threading.Thread(target=wait)
    thread.start()
    return thread, leave


class _results:
    def __init__(self, generator):
        self._generator = generator

    def __iter__(self):
        self.result = yield from self._generator


def test_workers_have_their_turns_in_the_order_they_came_and_whoever_gives_up_leaves_the_line(pico, tmp_path):
    folders = [runs.of(made(pico, tmp_path, name=name)).folder for name in "abcd"]
    events = []
    first, leave_first = in_line(folders[0], events, "a")
    until(lambda: ("a", "begins") in events)
    second, leave_second = in_line(folders[1], events, "b")
    third, leave_third = in_line(folders[2], events, "c")
    fourth, _ = in_line(folders[3], events, "d")
    until(lambda: len(events) >= 4)
    assert runs.standing(folders[1]).state is State.QUEUED
    assert ("b", 1, "a") in events
    assert ("c", 2, "a") in events
    assert ("d", 3, "a") in events
    wish(folders[3], Stop.CHECKPOINT)
    fourth.join(60)
    assert ("d", "begins") not in events
    leave_first.set()
    until(lambda: ("b", "begins") in events)
    assert ("c", "begins") not in events
    leave_second.set()
    leave_third.set()
    for thread in (first, second, third):
        thread.join(60)
    order = [event for event in events if len(event) == 2]
    assert order == [(name, word) for name in "abc" for word in ("begins", "ends")]


def test_a_worker_in_line_that_dies_lets_the_others_by(pico, tmp_path):
    dead, alive = (runs.of(made(pico, tmp_path)).folder for _ in range(2))
    with held(dead):
        queue_up(dead)
    events = []
    thread, leave = in_line(alive, events, "alive")
    until(lambda: ("alive", "begins") in events)
    leave.set()
    thread.join(60)


def test_runs_that_waited_when_the_machine_went_down_are_started_again(pico, tmp_path):
    ids = [made(pico, tmp_path, name=name) for name in ("first", "second", "stopped")]
    for id_ in ids:
        folder = runs.of(id_).folder
        with held(folder):
            queue_up(folder)
    runs.ask_to_stop(ids[2])
    assert state(ids[2]) is State.STOPPED
    with turn(tmp_path, "busy", give_up=lambda: False) as place:
        assert list(place) == []
        assert runs.wake(token=False) == tuple(ids[:2])
        assert [state(id_) for id_ in ids[:2]] == [State.QUEUED] * 2
        assert runs.wake(token=False) == ()
        for id_ in ids[:2]:
            until(lambda id_=id_: runs.events(runs.of(id_).folder))
            runs.ask_to_stop(id_)
        assert [at_rest(id_) for id_ in ids[:2]] == [State.STOPPED] * 2
    told = [each.event for each in runs.events(runs.of(ids[0]).folder)]
    assert isinstance(told[0], Waiting)
    assert told[0].busy_with == "busy"
    assert told[1:] == [Stopped(0, None)]


# What a run takes, and what is left open


def test_what_was_left_open_is_written_down_when_it_is_known(tmp_path):
    run = small_run(tmp_path)
    run = replace(run, plan=LoadPlan(STARTER))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    id_ = runs.create(replace(run, settings=replace(run.settings, most_steps=1)), [tmp_path / "rows.jsonl"])
    worked_off(id_)
    assert runs.of(id_).document.run.plan.precision in (Precision.FP32, Precision.BF16)


def test_room_is_what_is_predicted_against_what_is_free(pico):
    *_, last = work.room_for(small_run(pico), token=False)
    room = last.result
    assert room.fits
    assert 10**5 < room.needed < 10**9
    assert (room.held, room.model) == (0, "")
    large = replace(room, needed=room.free + 5, held=10)
    assert not large.fits
    assert large.fits_after_unloading
    assert not replace(large, held=4).fits_after_unloading


def test_the_model_in_memory_is_named_where_room_is_asked_for(pico):
    plan = small_run(pico).plan
    list(jobs.load(plan, token=False))
    try:
        *_, last = work.room_for(small_run(pico), token=False)
        assert last.result.model == str(pico)
        assert last.result.held > 100_000
    finally:
        list(jobs.unload())


def test_a_strange_file_as_estimate_is_none(tmp_path):
    assert forecast.read(tmp_path) is None
    (tmp_path / "estimate.json").write_text("[]")
    assert forecast.read(tmp_path) is None
    forecast.write(tmp_path, forecast.Forecast(5))
    change_json(tmp_path / "estimate.json", measured=6)
    assert forecast.read(tmp_path) == forecast.Forecast(5, measured=6)
    assert json.loads((tmp_path / "estimate.json").read_text())["why"] == ""
