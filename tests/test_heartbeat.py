"""Blocking work on a thread: it beats, it hands on what was said, and it leaves nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from studio.heartbeat import heartbeat, patiently

SOON = 10.0  # seconds that no wait in here comes near to, unless something is broken


def told(said: list[str]) -> Iterator[str]:
    yield " ".join(said) or "beat"


def drain(beats):
    events = []
    while True:
        try:
            events.append(next(beats))
        except StopIteration as end:
            return events, end.value


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("studio-work")]


def test_it_beats_while_work_blocks():
    go = threading.Event()
    beats = heartbeat(lambda say, stop: go.wait(SOON), told, every=0.02)
    start = time.monotonic()
    assert [next(beats) for _ in range(5)] == ["beat"] * 5
    assert 5 * 0.02 <= time.monotonic() - start < 5
    go.set()
    assert drain(beats)[1] is True


def test_what_was_said_arrives_in_order_and_whole():
    def work(say, stop):
        for number in range(500):
            say(str(number))
            if number % 100 == 0:
                time.sleep(0.01)
        return "result"

    events, result = drain(heartbeat(work, told, every=0.005))
    assert " ".join(e for e in events if e != "beat").split() == [str(number) for number in range(500)]
    assert result == "result"


@pytest.mark.parametrize("tries", range(20))
def test_the_last_words_are_not_lost_when_work_ends_at_once(tries):
    events, result = drain(heartbeat(lambda say, stop: say("last words"), told, every=5))
    assert [e for e in events if e != "beat"] == ["last words"]
    assert result is None


def test_silent_work_that_ends_at_once_ends_at_once():
    start = time.monotonic()
    assert drain(heartbeat(lambda say, stop: 7, told, every=SOON))[1] == 7
    assert time.monotonic() - start < 5


def test_what_work_raises_comes_out_after_what_it_said():
    def work(say, stop):
        say("before")
        raise ZeroDivisionError

    beats = heartbeat(work, told, every=5)
    assert next(beats) == "before"
    with pytest.raises(ZeroDivisionError):
        drain(beats)
    assert not threads()


def test_closing_stops_the_work_and_waits_for_its_thread():
    ended = []

    def work(say, stop):
        assert stop.wait(SOON)
        time.sleep(0.05)
        ended.append(True)
        raise RuntimeError("nobody's concern")

    beats = heartbeat(work, told, every=0.01)
    next(beats)
    assert threads()
    beats.close()
    assert ended == [True]
    assert not threads()


def test_a_listener_that_fails_stops_the_work_too():
    def deaf(said):
        raise KeyError("deaf")
        yield

    with pytest.raises(KeyError):
        next(heartbeat(lambda say, stop: stop.wait(SOON), deaf, every=0.01))
    assert not threads()


def test_a_beat_that_was_never_asked_for_starts_no_thread():
    heartbeat(lambda say, stop: say("never"), told, every=0.01).close()
    assert not threads()


def test_each_beat_may_be_asked_for_by_another_thread():
    go = threading.Event()
    beats = heartbeat(lambda say, stop: go.wait(SOON), told, every=0.01)
    got = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: got.append(next(beats)))
        thread.start()
        thread.join(SOON)
    assert got == ["beat"] * 3
    go.set()
    assert drain(beats)[1] is True


def test_patience_says_nothing_of_quick_work_and_tells_of_slow_work():
    assert drain(patiently(lambda _stop: time.sleep(0.05) or "quick", "slow", after=SOON)) == ([], "quick")
    waited = threading.Event()
    work = patiently(lambda _stop: waited.wait(SOON) and "done", "slow", after=0.01)
    assert next(work) == "slow"
    waited.set()
    events, result = drain(work)
    assert result == "done"
    assert set(events) <= {"slow"}
