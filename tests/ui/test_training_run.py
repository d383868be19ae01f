"""A run on the page, handler by handler: what is drawn of what it said, and how it is stopped, compared and found."""

from __future__ import annotations

import pytest

from studio import runs
from studio.events import Finished, Phase, Progress
from studio.loading import LoadPlan
from studio.models import STARTER
from studio.runs import Failed, Started, Told
from studio.runs.journal import Journal
from studio.runs.state import held, wished
from studio.training import (
    Began,
    DataSource,
    Evaluated,
    Learnt,
    Sampled,
    Stepped,
    Stop,
    Stopped,
    TrainingRun,
    TrainingSettings,
)
from studio.ui import history_panel, run_log, run_panel, run_story, run_view
from studio.ui.run_panel import Seen
from studio.ui.run_story import story
from studio.ui.training_tab import LABEL

HOSTILE = "<img src=x onerror=alert(1)>"


def stepped(step, loss=2.0, total=100):
    return Stepped(step, total, step / 10, loss, 1e-4, 0.5, 64, 1.0, 10**8)


def began(step=0, total=100):
    return Began(step, total, 50, 5, 1234, "fp32", "cpu")


def told(*events):
    return tuple(Told(1000.0 + at, event) for at, event in enumerate(events))


def a_run(*events, name="", **settings):
    """A run that said this."""
    plan = TrainingRun(LoadPlan(STARTER), (DataSource("persona"),), settings=TrainingSettings(**settings))
    id_ = runs.create(plan, name=name)
    say(id_, *events)
    return id_


def say(id_, *events):
    folder = runs.of(id_).folder
    with held(folder), Journal(folder) as book:
        for event in events:
            book.add(event)


def follow(run, seen, showing=LABEL):
    return run_panel.follow(run=run, seen=seen, showing=showing, label=LABEL)


# What its events come to


def test_what_is_done_again_after_a_stop_counts_once():
    first = [began(), stepped(1), stepped(2), Evaluated(2, 1.5, best=True), Sampled(2, "Who?", "I"), stepped(3)]
    found = story(told(Started(), *first, Stopped(3, "step-1"), Started(), began(1), stepped(2, 1.0)))
    assert [(step.step, step.loss) for step in found.steps] == [(1, 2.0), (2, 1.0)]
    assert found.looks == []
    assert found.samples == []
    assert (found.step, found.total) == (2, 100)


def test_the_phases_are_those_before_the_first_step_each_with_its_time():
    said = told(Started(), Progress(Phase.READ_ROWS, 1, 2), Progress(Phase.READ_ROWS, 2, 2), Progress(Phase.READ, 1, 4))
    assert [(stage.phase, stage.seconds) for stage in story(said).stages] == [(Phase.READ_ROWS, 2.0), (Phase.READ, 0.0)]
    learning = told(*(each.event for each in said), began(), Progress(Phase.MEASURE, 1, 2))
    assert [stage.phase for stage in story(learning).stages] == [Phase.READ_ROWS, Phase.READ]


def test_samples_are_those_of_the_last_time_it_was_asked_up_to_a_step():
    found = story(told(began(), Sampled(0, "Who?", "zero"), Sampled(10, "Who?", "ten"), Sampled(20, "Who?", "twenty")))
    assert [sample.reply for step in (0, 9, 15, 99) for sample in found.samples_at(step)] == [
        "zero",
        "zero",
        "ten",
        "twenty",
    ]
    assert "zero" in run_view.samples(found, 15)  # what it said before stands beside


def test_a_curve_of_many_steps_keeps_its_ends_and_its_mean():
    pairs = [(step, float(step)) for step in range(1, 10_001)]
    thin = run_story.thinned(pairs)
    assert len(thin) <= run_story.POINTS
    assert thin[-1][0] == 10_000
    assert sum(value for _, value in thin) / len(thin) == pytest.approx(5000.5, rel=0.01)
    assert run_story.thinned([]) == []


def test_nothing_that_a_run_says_is_html():
    id_ = a_run(began(), Sampled(0, HOSTILE, HOSTILE), Failed("Oops", HOSTILE, HOSTILE), name=HOSTILE)
    drawn = run_panel.opened(run=id_)
    listed = history_panel.listed(run=id_)
    for shown in (drawn["head"], drawn["samples"], drawn["log"], listed["table"]):
        assert "<img" not in shown
        assert "&lt;img" in shown


def test_the_log_has_a_line_for_every_kind_of_event():
    members = {getattr(kind, "__origin__", kind) for kind in runs.RunEvent.__args__}
    assert members == set(run_log._WORDS)


# Following it


def test_a_run_is_followed_from_where_it_was_read_and_only_while_somebody_looks():
    id_ = a_run(Started(), began(), stepped(1))
    first = follow(id_, None)
    assert "1 of 100" in first["head"]
    assert follow(id_, first["seen"], showing="Generate") == {}
    assert follow(id_, first["seen"]) == {}
    say(id_, stepped(2))
    second = follow(id_, first["seen"])
    assert second["seen"].offset > first["seen"].offset
    assert len(second["loss"]["value"]) == 2
    assert follow(None, None) == {}


def test_while_it_is_alive_it_can_be_stopped_in_two_ways_and_the_wish_reaches_it():
    id_ = a_run(Started(), began(), stepped(1))
    folder = runs.of(id_).folder
    assert "not at work" in run_panel.stop_now(run=id_)["note"]
    with held(folder):
        shown = follow(id_, None)
        assert (shown["stop"]["visible"], shown["resume"]["visible"]) == (True, False)
        assert run_panel.ask_how()["ways"]["visible"]
        assert "keeps a checkpoint" in run_panel.stop_and_keep(run=id_)["note"]
        assert wished(folder) is Stop.CHECKPOINT
        run_panel.stop_now(run=id_)
        assert wished(folder) is Stop.NOW
        assert "stopping" in follow(id_, None)["head"]


def test_a_failed_run_says_what_happened_and_what_to_do_and_can_be_tried_again():
    id_ = a_run(Started(), began(), stepped(1), Failed("DoesNotFit", "The disk is full.", "Free some space."))
    shown = run_panel.opened(run=id_)
    assert "The disk is full." in shown["head"]
    assert "Free some space." in shown["head"]
    assert shown["resume"]["visible"]
    assert not shown["stop"]["visible"]


def test_a_run_that_broke_off_says_that_it_can_go_on():
    shown = run_panel.opened(run=a_run(Started(), began(), stepped(1)))
    assert "broke off at step 1 of 100" in shown["head"]
    assert shown["resume"]["visible"]


def test_a_damaged_run_and_none_at_all_leave_no_old_curves():
    id_ = a_run(Started())
    (runs.of(id_).folder / "run.yaml").write_text("plan: [")
    for run in (id_, None):
        shown = run_panel.opened(run=run)
        assert shown["loss"]["visible"] is False
        assert shown["head"]


def test_the_slider_moves_when_the_model_was_asked_again_and_not_on_every_step():
    id_ = a_run(Started(), began(), Sampled(0, "Who?", "I"), stepped(1))
    first = follow(id_, None)
    say(id_, stepped(2))
    second = follow(id_, first["seen"])
    assert "step" not in second
    say(id_, Sampled(2, "Who?", "Arr"))
    third = follow(id_, second["seen"])
    assert third["step"]["value"] == 2
    assert "Arr" in third["samples"]
    assert "before" not in run_panel.step_chosen(seen=third["seen"], step=0)["samples"]


def test_a_page_opens_on_the_run_that_is_at_work_or_else_on_the_last():
    assert run_panel.newest() is None
    older, newer = a_run(Started(), name="older"), a_run(name="newer")
    with held(runs.of(older).folder):
        assert run_panel.newest() == older
    assert run_panel.newest() in (older, newer)


def test_the_curve_of_held_out_rows_stands_beside_the_other():
    found = story(told(began(), Evaluated(0, 3.0, best=False), stepped(1), Evaluated(1, 2.5, best=True)))
    plot = run_view.loss_plot(found)
    assert sorted(set(plot["value"]["Rows"])) == ["held out", "learnt"]
    assert plot["x_lim"] == [0, 100]
    # The plot takes its colours from its first rows: not before there are both.
    assert not run_view.loss_plot(story(told(began(), Evaluated(0, 3.0, best=False))))["visible"]


# All of them


def test_runs_are_listed_renamed_and_deleted():
    id_ = a_run(
        Started(), began(), Evaluated(0, 2.5, best=False), stepped(1), Evaluated(1, 1.234, best=True), name="first"
    )
    assert "2.500 → 1.234" in history_panel.listed(run=id_)["table"]
    assert "is called second" in history_panel.renamed(chosen=id_, name=" second ")["note"]
    assert history_panel.run_chosen(chosen=id_)["name"] == "second"
    assert "no name for a run" in history_panel.renamed(chosen=id_, name=" ")["note"]
    with held(runs.of(id_).folder):
        assert "at work" in history_panel.deleted(chosen=id_)["note"]
    assert history_panel.deleted(chosen=id_)["run"] is None
    assert "no run yet" in history_panel.listed(run=None)["table"]


def test_two_runs_are_compared_by_what_differs_and_by_both_curves():
    one = a_run(began(), stepped(1, 2.0), name="one", rank=8)
    other = a_run(began(), stepped(1, 1.0), name="other", rank=32)
    shown = history_panel.compared(chosen=one, other=other)
    assert "Rank" in shown["differences"]
    assert "Alpha" not in shown["differences"]
    assert sorted(shown["curves"]["value"]["Run"]) == ["one", "other"]
    assert "asked to do the same" in history_panel.compared(chosen=one, other=one)["differences"]
    assert one not in [id_ for _, id_ in history_panel.run_chosen(chosen=one)["other"]["choices"]]
    assert history_panel.compared(chosen=one, other=history_panel.NOBODY)["differences"] == ""


def test_a_finished_run_shows_what_came_of_it_and_one_without_an_adapter_offers_none(tmp_path):
    learnt = Learnt(tmp_path, 100, 1.5, 1.25, 1234, 999, 12.5, 10**9)
    said = [began(), Evaluated(0, 2.5, best=False), stepped(100), Finished(learnt)]
    id_ = a_run(Started(), *said)
    shown = run_panel.opened(run=id_)
    assert "2.500 → 1.250" in shown["result"]
    assert not shown["result_buttons"]["visible"]
    folder = runs.of(id_).folder / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    assert run_panel.opened(run=id_)["result_buttons"]["visible"]
    assert follow(id_, Seen(id_))["resume"]["visible"] is False
