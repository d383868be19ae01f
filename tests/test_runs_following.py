"""What a run said: written as it happens, read back as it was, and followed from any point."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from pathlib import Path

import pytest

from studio import runs
from studio.errors import DoesNotFit
from studio.events import Finished, Phase, Progress, Waiting
from studio.loading import LoadPlan
from studio.models import STARTER
from studio.runs import Failed, Started, State, journal, standing
from studio.runs.journal import Journal
from studio.runs.state import held, queue_up, wish
from studio.runs.summing import compare, curve, seconds_left, summary
from studio.training import (
    Began,
    DataSource,
    Evaluated,
    Learnt,
    Sampled,
    Saved,
    Stepped,
    Stop,
    Stopped,
    TrainingRun,
    TrainingSettings,
    Warned,
    telling,
)

RUN = TrainingRun(LoadPlan(STARTER), (DataSource("persona"),))
BEGAN = Began(0, 100, 50, 5, 1234, "fp32", "cpu")
LEARNT = Learnt(Path("/some/where"), 100, 1.5, 1.25, 1234, 999, 12.5, 10**9)
EVERY = [
    Progress(Phase.DOWNLOAD, 3, 7),
    Progress(Phase.WARM_UP),
    Waiting(2, "another", 1.5),
    Started(),
    BEGAN,
    Evaluated(0, 2.5, best=False),
    Sampled(0, "Who?", 'I said "event": "finished" – é 😀\n\u2028\x00'),
    Saved(1, "step-1", 4096),
    Warned("tied", "warning", "Beware.", "Do this."),
    Stopped(7, "step-7"),
    Failed("DoesNotFit", "Too much.", "Less."),
    Finished(LEARNT),
]


def stepped(step, loss=2.0, seconds=1.0):
    return Stepped(step, 100, step / 10, loss, 1e-4, 0.5, 64, seconds, 10**8)


@pytest.fixture
def id_():
    return runs.create(RUN)


@pytest.fixture
def folder(id_):
    return runs.of(id_).folder


def write(folder, *events):
    with Journal(folder) as book:
        for event in events:
            book.add(event)


def told(folder):
    return [each.event for each in runs.events(folder)]


def test_every_event_reads_back_as_it_was(folder):
    write(folder, *EVERY, stepped(1))
    assert told(folder) == [*EVERY, stepped(1)]
    kinds = {kind for kind in vars(telling).values() if dataclasses.is_dataclass(kind)}
    assert kinds <= {type(event) for event in told(folder)}


def test_a_loss_that_is_no_number_reads_back(folder):
    write(folder, stepped(1, math.nan), stepped(2, math.inf))
    first, second = told(folder)
    assert math.isnan(first.loss)
    assert second.loss == math.inf


def test_a_half_last_line_is_ignored_and_taken_away_by_the_next_worker(folder):
    write(folder, stepped(1))
    file = folder / "events.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    assert told(folder) == [stepped(1)]
    assert journal.last(folder, "stepped").event == stepped(1)
    write(folder, stepped(2))
    assert told(folder) == [stepped(1), stepped(2)]
    assert file.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("line", ["nonsense", "[]", "3", '{"at": 1}', '{"at": 1, "event": "later", "x": 1}', "\xff"])
def test_a_line_that_nobody_understands_is_left_out(folder, line):
    write(folder, stepped(1))
    with (folder / "events.jsonl").open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    write(folder, stepped(2))
    assert told(folder) == [stepped(1), stepped(2)]


def test_progress_without_news_is_not_written_down(folder):
    beats = [Progress(Phase.DOWNLOAD, done, 1000) for done in range(1001)]
    write(folder, *beats, Progress(Phase.READ), Progress(Phase.READ), stepped(1), Progress(Phase.READ))
    said = told(folder)
    assert said[0] == beats[0]
    assert beats[-1] in said
    assert len(said) < 50
    assert said[-3:] == [Progress(Phase.READ), stepped(1), Progress(Phase.READ)]


def test_the_end_of_a_long_file_is_read_from_its_end(folder, monkeypatch):
    monkeypatch.setattr(journal, "_BLOCK", 512)
    events = [Evaluated(0, 3.0, best=False), *(stepped(step) for step in range(1, 60))]
    write(folder, *events, Sampled(3, "p", "x" * 3000))
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    assert list(journal.backwards(folder)) == lines[::-1]
    assert journal.last(folder, "evaluated").event == events[0]
    assert journal.last(folder, "stepped", "evaluated").event == stepped(59)
    assert journal.last(folder, "saved") is None


def test_a_full_disk_is_said_and_leaves_whole_lines(small_disk):
    write(small_disk, stepped(1))
    (small_disk / "filler").write_bytes(b"x" * 4_000_000)
    with pytest.raises(DoesNotFit, match="is full"):
        write(small_disk, *(stepped(step) for step in range(2, 10_000)))
    assert told(small_disk)[0] == stepped(1)
    assert (small_disk / "events.jsonl").read_bytes().endswith(b"\n")
    (small_disk / "filler").unlink()
    write(small_disk, stepped(10_000))
    assert told(small_disk)[-1] == stepped(10_000)


# How it stands


@pytest.mark.parametrize(
    ("events", "at_work", "left"),
    [
        ([], State.PREPARING, State.NEW),
        ([Started(), Progress(Phase.READ)], State.PREPARING, State.DIED),
        ([Started(), BEGAN, stepped(1)], State.RUNNING, State.DIED),
        ([Started(), BEGAN, stepped(1), Stopped(1, "step-1"), Started()], State.PREPARING, State.DIED),
        ([Started(), BEGAN, stepped(1), Stopped(1, "step-1")], State.RUNNING, State.STOPPED),
        ([Started(), Failed("X", "Bad.", "Good.")], State.PREPARING, State.FAILED),
        ([Started(), BEGAN, Finished(LEARNT)], State.RUNNING, State.FINISHED),
        ([Started(), BEGAN, EVERY[6]], State.RUNNING, State.DIED),
    ],
)
def test_how_a_run_stands_follows_from_its_lock_and_its_last_words(folder, events, at_work, left):
    write(folder, *events)
    assert standing(folder).state is left
    with held(folder):
        assert standing(folder).state is at_work
        wish(folder, Stop.CHECKPOINT)
        assert standing(folder).state is State.STOPPING


def test_what_went_wrong_is_said(folder):
    write(folder, Started(), Failed("X", "Bad.", "Good."))
    assert (standing(folder).message, standing(folder).hint) == ("Bad.", "Good.")
    write(folder, Started())
    assert standing(folder).message == "The worker process ended without a word: killed, or out of memory."
    assert standing(folder).hint


def test_a_place_in_the_line_without_a_worker_is_a_death(folder):
    with held(folder):
        queue_up(folder)
        assert standing(folder).state is State.QUEUED
    assert standing(folder).state is State.DIED


def test_an_older_wish_is_void_when_a_run_is_begun_again(folder):
    with held(folder):
        wish(folder, Stop.NOW)
        queue_up(folder)
        assert standing(folder).state is State.QUEUED


# Following


def test_following_gives_what_is_new_from_any_point_and_ends_with_the_worker(id_, folder):
    write(folder, Started(), BEGAN)
    done = threading.Event()

    def work():
        with held(folder), Journal(folder) as book:
            done.wait(30)
            for step in range(1, 6):
                book.add(stepped(step))
                time.sleep(0.1)
            book.add(Stopped(5, "step-5"))

    worker = threading.Thread(target=work)
    worker.start()
    while not runs.standing(folder).state.is_alive:
        time.sleep(0.01)
    news = runs.follow(id_)
    first = next(news)
    assert [each.event for each in first.told] == [Started(), BEGAN]
    assert first.standing.state is State.RUNNING
    assert next(news).told == ()
    done.set()
    rest = list(news)
    worker.join()
    assert [each.event for one in rest for each in one.told] == [
        *(stepped(step) for step in range(1, 6)),
        Stopped(5, "step-5"),
    ]
    assert len([one for one in rest if one.told]) > 1
    assert rest[-1].standing.state is State.STOPPED
    again = list(runs.follow(id_, after=first.offset))
    assert len(again) == 1
    assert next(each.event for each in again[0].told) == stepped(1)
    assert next(runs.follow(id_, after=rest[-1].offset)).told == ()


def test_a_line_in_the_middle_of_being_written_comes_later(id_, folder):
    write(folder, stepped(1))
    line = journal.as_line(runs.Told(1.0, stepped(2)))
    with held(folder), (folder / "events.jsonl").open("ab", buffering=0) as file:
        file.write(line[:20])
        news = runs.follow(id_)
        assert [each.event for each in next(news).told] == [stepped(1)]
        assert next(news).told == ()
        file.write(line[20:])
        assert [each.event for each in next(news).told] == [stepped(2)]
        news.close()


# In a list, and beside each other


def test_a_run_is_summed_up_in_a_line(id_, folder):
    empty = summary(runs.of(id_))
    assert (empty.step, empty.total, empty.loss, empty.started, empty.seconds_left) == (0, 0, None, None, None)
    assert (empty.model, empty.data) == ("starter", "persona")
    assert empty.bytes >= (folder / "run.yaml").stat().st_size
    write(folder, Started(), BEGAN, Evaluated(0, 3.0, best=False), stepped(1, 2.5), stepped(2, 2.25))
    found = summary(runs.of(id_))
    assert (found.step, found.total, found.loss, found.held_out_loss) == (2, 100, 2.25, 3.0)
    assert found.seconds_left is None
    with held(folder):
        assert summary(runs.of(id_)).seconds_left > 0
    write(folder, Finished(LEARNT))
    assert (summary(runs.of(id_)).step, summary(runs.of(id_)).state) == (2, State.FINISHED)


def timed(*steps):
    return [runs.Told(at, stepped(step, seconds=seconds)) for at, step, seconds in steps]


def test_the_time_that_is_left_is_that_of_the_steps_and_of_what_is_between_them():
    # One second a step, and every second one is followed by a look of two seconds.
    at, events = 0.0, []
    for step in range(1, 11):
        at += 1.0 + (2.0 if step % 2 == 0 else 0.0)
        events.append((at, step, 1.0))
    left = seconds_left(timed(*events))
    assert left == pytest.approx(90 * (1 + 10 / 9))


def test_the_time_that_is_left_settles_though_one_step_was_slow():
    events = [(float(step), step, 1.0) for step in range(1, 21)]
    before = seconds_left(timed(*events))
    slow = seconds_left(timed(*events, (520.0, 21, 500.0)))
    assert before == pytest.approx(80)
    assert slow == pytest.approx(79, rel=0.01)


def test_steps_that_were_done_again_count_once(folder):
    write(folder, BEGAN, *(stepped(step, 3.0) for step in range(1, 6)), Evaluated(5, 2.0, best=True))
    write(folder, Started(), Began(3, 100, 50, 5, 1, "fp32", "cpu"), stepped(4, 2.5))
    assert curve(folder).learnt == ((1, 3.0), (2, 3.0), (3, 3.0), (4, 2.5))
    assert curve(folder).held_out == ()


def test_two_runs_are_compared_by_what_differs(id_, folder):
    other = runs.create(dataclasses.replace(RUN, settings=TrainingSettings(rank=32), prompts=("Hi",)), name="Other")
    write(folder, stepped(1, 3.0))
    found = compare(id_, other)
    assert [(each.field, each.one, each.other) for each in found.differences] == [
        ("settings.rank", 16, 32),
        ("prompts", [], ["Hi"]),
    ]
    assert found.one.learnt == ((1, 3.0),)
    assert found.other.learnt == ()
