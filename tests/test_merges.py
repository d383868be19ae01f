"""Merges as jobs: worked off by a process of their own, proven, stopped, killed, and never finished by half."""

from __future__ import annotations

import os
import shutil
from contextlib import closing

import pytest
from merge_steps import at_rest, kill, ordered, state, worked_off
from run_steps import made as made_run
from run_steps import until
from run_steps import worked_off as run_off

from studio import merges, merging, runs
from studio.errors import Busy, InputError, StudioError
from studio.events import Finished, Phase, Progress, Waiting
from studio.merges.adapters import adapter_of, made, run_behind
from studio.merges.starting import begin
from studio.merges.working import carry_out
from studio.merging.outcome import merged_models, not_proven
from studio.models import STARTER, ModelRef, Precision
from studio.runs import State, turns
from studio.runs.starting import begin as begin_run
from studio.runs.state import TURN, held
from studio.settings import STARTER_FOLDER, Settings
from studio.training import Stopped


def names(folder):
    return sorted(each.name for each in folder.iterdir())


def until_proven(events):
    """Go on until the merge is whole and its proof begins."""
    merged = False
    for event in events:
        phase = getattr(event, "phase", None)
        if merged and phase is not Phase.MERGE:
            return
        merged = phase is Phase.MERGE
    raise AssertionError("no proof began")


def test_a_worker_merges_and_proves_and_everyone_may_follow(pico, tmp_path):
    order = ordered(pico, tmp_path, prompts=("Say one.",))
    id_ = merges.create(order)
    assert state(id_) is State.NEW
    assert merges.of(id_).order == order
    merges.start(id_, token=False)
    with closing(merges.follow(id_)) as news:
        seen = list(news)
    assert [each.standing.state.is_alive for each in seen[:-1]] == [True] * (len(seen) - 1)
    told = [each.event for news in seen for each in news.told]
    assert {Phase.MERGE, Phase.MEASURE} <= {event.phase for event in told if isinstance(event, Progress)}
    found = merges.of(id_)
    assert found.standing.state is State.FINISHED
    assert found.outcome == told[-1].result
    assert (found.outcome.folder, found.outcome.passed, found.outcome.failed) == (order.output, True, ())
    assert names(tmp_path) == ["adapter", "merged"]
    proof = merging.read_proof(order.output)
    assert proof.passed
    assert proof.whole
    assert "5 prompts" in proof.covered
    assert merges.listing() == (found,)
    with pytest.raises(InputError, match="finished"):
        merges.start(id_, token=False)
    with pytest.raises(InputError, match="not at work"):
        merges.ask_to_stop(id_)


def test_a_merge_that_is_killed_says_so_leaves_nothing_that_looks_finished_and_can_be_done_again(pico, tmp_path):
    order = ordered(pico, tmp_path)
    id_ = merges.create(order)
    merges.start(id_, token=False)
    until(lambda: not_proven(order.output).exists())
    kill(id_)
    found = merges.of(id_)
    assert found.standing.state is State.DIED
    assert "No merged model was left" in found.standing.message
    assert found.standing.hint
    assert found.outcome is None
    assert not order.output.exists()
    with closing(merges.follow(id_)) as news:
        assert list(news)[-1].standing == found.standing
    merges.start(id_, token=False)
    assert at_rest(id_) is State.FINISHED
    assert names(tmp_path) == ["adapter", "merged"]


def test_a_merge_that_is_stopped_leaves_nothing(pico, tmp_path):
    order = ordered(pico, tmp_path)
    id_ = merges.create(order)
    merges.start(id_, token=False)
    until(lambda: not_proven(order.output).exists())
    merges.ask_to_stop(id_)
    assert at_rest(id_) is State.STOPPED
    assert names(tmp_path) == ["adapter"]
    with held(merges.of(id_).folder), pytest.raises(Busy, match="at work"):
        merges.delete(id_)
    merges.delete(id_)
    assert merges.listing() == ()


def test_whoever_closes_a_merge_stops_it(pico, tmp_path):
    id_ = merges.create(ordered(pico, tmp_path))
    folder = merges.of(id_).folder
    with closing(carry_out(folder, begin(folder), token=False)) as events:
        until_proven(events)
        assert names(tmp_path) == ["adapter", "merged.not-proven"]
    assert state(id_) is State.STOPPED
    assert names(tmp_path) == ["adapter"]


def test_a_merge_whose_proof_fails_is_called_not_proven(pico, tmp_path):
    base = shutil.copytree(pico, tmp_path / "base")
    order = ordered(base, tmp_path)
    id_ = merges.create(order)
    folder = merges.of(id_).folder
    with closing(carry_out(folder, begin(folder), token=False)) as events:
        until_proven(events)
        weights = base / "model.safetensors"  # the proof finds another base than the merge did
        content = bytearray(weights.read_bytes())
        content[-2000:-1000] = bytes(1000)
        weights.write_bytes(content)
        last = list(events)[-1]
    assert isinstance(last, Finished)
    assert last.result.passed is False
    assert "other weights" in last.result.failed or "adapted weights" in last.result.failed
    assert last.result.folder == not_proven(order.output)
    assert not order.output.exists()
    assert not merging.read_proof(last.result.folder).passed
    assert merges.of(id_).outcome == last.result
    merges.delete(id_)
    assert names(tmp_path) == ["adapter", "base"]


def test_a_proof_that_cannot_be_done_leaves_the_work_under_that_name(pico, tmp_path):
    base = shutil.copytree(pico, tmp_path / "base")
    order = ordered(base, tmp_path)
    id_ = merges.create(order)
    folder = merges.of(id_).folder
    with closing(carry_out(folder, begin(folder), token=False)) as events:
        until_proven(events)
        shutil.rmtree(tmp_path / "adapter")
        last = list(events)[-1]
    assert last.result.passed is False
    assert "could not be proven" in last.result.covered
    assert names(tmp_path) == ["base", "merged.not-proven"]


def test_what_cannot_be_merged_fails_with_its_reason_and_leaves_nothing(pico, tmp_path):
    order = ordered(pico, tmp_path)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    id_ = merges.create(order)
    with pytest.raises(StudioError, match=r"adapter_model\.safetensors"):
        worked_off(id_)
    found = merges.of(id_).standing
    assert found.state is State.FAILED
    assert "adapter_model.safetensors" in found.message
    assert names(tmp_path) == ["adapter"]


def test_without_a_proof_it_is_said_that_there_is_none(pico, tmp_path):
    order = ordered(pico, tmp_path, prove=False)
    last = worked_off(merges.create(order))[-1]
    assert last.result.passed is None
    assert merging.read_proof(order.output) is None
    assert names(tmp_path) == ["adapter", "merged"]


@pytest.mark.parametrize("precision", [Precision.NF4, Precision.INT8])
def test_a_merge_onto_the_quantized_base_is_proven_against_that_one(tmp_path, precision):
    order = ordered(STARTER_FOLDER, tmp_path, dtype="bf16", onto="dequantized", precision=precision)
    outcome = worked_off(merges.create(order))[-1].result
    assert outcome.passed
    assert "other weights" not in outcome.failed
    assert names(tmp_path) == ["adapter", "merged"]
    original = merging.ProofQuestion(STARTER_FOLDER, tmp_path / "adapter", order.output, Precision.BF16, free_bytes=0)
    assert not list(merging.prove(original))[-1].result.passed  # it is another base than the one in the folder


def test_a_merge_back_into_few_bits_is_not_said_to_be_proven(tmp_path):
    order = ordered(STARTER_FOLDER, tmp_path, dtype="bf16", onto="quantized", precision=Precision.NF4)
    outcome = worked_off(merges.create(order))[-1].result
    assert outcome.passed is None
    assert "not proven" in outcome.covered
    with pytest.raises(InputError, match="quantizes nothing"):
        ordered(STARTER_FOLDER, tmp_path, precision=Precision.BF16)


def test_a_merge_waits_in_one_line_with_the_runs(pico, tmp_path):
    order = ordered(pico, tmp_path)
    other = runs.of(made_run(pico, tmp_path)).folder
    with turns.turn(other, "Learning", give_up=lambda: False) as place:
        assert list(place) == []  # at once: nobody is there
        id_ = merges.create(order)
        merges.start(id_, token=False)
        until(lambda: any(isinstance(each.event, Waiting) for each in runs.events(merges.of(id_).folder)))
        assert state(id_) is State.QUEUED
        (waiting,) = (each.event for each in runs.events(merges.of(id_).folder) if isinstance(each.event, Waiting))
        assert waiting.busy_with == "Learning"
        third = runs.of(made_run(pico, tmp_path)).folder
        lock = begin_run(third)
        with turns.turn(third, "Third", give_up=lambda: False) as place:
            assert next(place).ahead == 2  # the one at work, and the merge that came before
        os.close(lock)
        merges.ask_to_stop(id_)
        assert at_rest(id_) is State.STOPPED
    assert not (merges.of(id_).folder / TURN).exists()
    assert names(tmp_path) == ["adapter", "rows.jsonl"]


def test_the_adapter_of_a_run_is_found_and_proven_on_the_rows_that_were_held_out(pico, tmp_path):
    assert made() == ()
    run = made_run(pico, tmp_path, most_steps=3)
    with pytest.raises(InputError, match="made no adapter"):
        adapter_of(run)
    run_off(run)
    (found,) = made()
    assert (found.run, found.name) == (run, "Small")
    adapter = adapter_of(run)
    assert run_behind(adapter) == run
    assert run_behind(ModelRef("hub", "a/b")) == ""
    order = ordered(pico, tmp_path, adapter=adapter, run=run, output=Settings.from_env().workspace / "models" / "m")
    assert worked_off(merges.create(order))[-1].result.passed
    check = merging.read_proof(order.output)["perplexity"]
    assert check.state == "passed"
    assert "held-out rows" in check.words
    assert merged_models(Settings.from_env().workspace) == (order.output,)


def test_a_name_that_is_taken_or_cannot_be_is_refused_before_anything_is_made(pico, tmp_path):
    order = ordered(pico, tmp_path)
    order.output.mkdir()
    (order.output / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        merges.create(order)
    assert merges.listing() == ()
    with pytest.raises(InputError, match="unfinished"):
        ordered(pico, tmp_path, output=tmp_path / "x.not-proven")
    with pytest.raises(InputError, match="no adapter"):
        ordered(pico, tmp_path, adapter=STARTER)
    with pytest.raises(InputError, match="Dtype"):
        ordered(pico, tmp_path, dtype="nf4")
    for wrong in ("0" * 32, "../x"):
        with pytest.raises(InputError, match="no merge"):
            merges.of(wrong)


def test_visitors_of_a_shared_machine_merge_nothing(pico, tmp_path, monkeypatch):
    order = ordered(pico, tmp_path)
    monkeypatch.setenv("SPACE_ID", "owner/space")
    for use in (lambda: merges.create(order), merges.listing, lambda: merges.of("0" * 32)):
        with pytest.raises(InputError, match="Visitors cannot merge"):
            use()
    assert made() == ()


def test_a_run_that_ended_reads_back_as_one_and_not_as_a_merge(pico, tmp_path):
    run = made_run(pico, tmp_path, most_steps=1)
    assert isinstance(run_off(run)[-1], Finished)
    assert runs.summary(runs.of(run)).state is State.FINISHED
    id_ = merges.create(ordered(pico, tmp_path, prove=False))
    events = worked_off(id_)
    assert not any(isinstance(event, Stopped) for event in events)
    assert [each.event for each in runs.events(merges.of(id_).folder)][-1] == events[-1]
