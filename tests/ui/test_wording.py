"""Events and numbers in the words of the page."""

from __future__ import annotations

import pytest

from studio.errors import InputError
from studio.events import Phase, Progress, Waiting
from studio.generation import Reply, StopReason
from studio.ui import wording


@pytest.mark.parametrize(
    ("bytes_", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (7_873_024, "7.9 MB"), (123_456_789, "123 MB"), (2.5e12, "2.50 TB")],
)
def test_a_size_is_said_in_the_unit_that_fits(bytes_: float, words: str) -> None:
    assert wording.size(bytes_) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (200, "3 min 20 s")])
def test_a_duration_is_said_as_people_do(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(("number", "words"), [(26_944, "26.9 K"), (3_900_000, "3.9 M"), (7_620_000_000, "7.62 B")])
def test_parameters_are_counted_as_people_do(number: float, words: str) -> None:
    assert wording.count(number) == words


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_words(phase: Phase) -> None:
    assert "…" in wording.progress(Progress(phase))


def test_a_download_says_how_much_how_fast_and_how_long_it_still_takes() -> None:
    words = wording.progress(Progress(Phase.DOWNLOAD, 30_000_000, 120_000_000), seconds=10)
    assert "30.0 MB of 120 MB · 3.0 MB/s · 30 s left" in words
    assert 'value="0.250"' in words


def test_waiting_says_for_what_and_who_else_is_in_line() -> None:
    words = wording.progress(Waiting(3, "answering", 12.0))
    assert "somebody else is answering for 12 s and 2 more in line" in words


@pytest.mark.parametrize("stop", list(StopReason))
def test_every_end_of_a_reply_has_words(stop: StopReason) -> None:
    reply = Reply("text", 10, 21, 0.5, 2.5, stop, 7, 512)
    words = wording.reply_facts(reply)
    for fact in (
        "<b>21</b> tokens",
        "<b>10</b> tokens/s",
        "<b>500 ms</b> to the first token",
        "31 of 512",
        "<b>7</b> seed",
    ):
        assert fact in words


def test_foreign_text_is_escaped_wherever_it_is_shown() -> None:
    bad = "<script>alert(1)</script>"
    shown = [
        wording.problem(InputError(bad, bad)),
        wording.note(bad),
        wording.done(bad),
        wording.progress(Waiting(1, bad, 1.0)),
    ]
    assert not [text for text in shown if "<script" in text]
