"""Questions about memory: whatever is named, once for many questions, for nobody who may not look."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest
from loopback_hub.samples import ALICE, BOB, weights

from studio import compute, jobs, memory
from studio.errors import Damaged, InputError, NotFound, Unsupported
from studio.events import Finished, Phase
from studio.jobs import estimating
from studio.jobs.shelf import Shelf
from studio.memory import THIS, Correction, Entry, Question


@pytest.fixture(autouse=True)
def _empty_shelf(monkeypatch):
    monkeypatch.setattr(estimating, "_SHELF", Shelf(estimating.KEPT))


def facts(name, token=False):
    events = jobs.facts_of(str(name), token=token)
    said = []
    while True:
        try:
            said.append(next(events))
        except StopIteration as end:
            return end.value, said


def answered(question, *, dry=False, token=False):
    *said, last = jobs.estimate(question, token=token, dry=dry)
    assert isinstance(last, Finished)
    return last.result, said


def as_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_starter_is_known_to_the_parameter_and_a_second_time_at_once():
    from safetensors import safe_open

    from studio.settings import STARTER_FOLDER

    found, _ = facts("starter")
    with safe_open(STARTER_FOLDER / "model.safetensors", "pt") as file:
        held = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - it is no dict
    assert found.parameters == held
    again, said = facts("starter")
    assert again is found
    assert said == []


def test_a_model_of_the_hub_is_known_without_its_weights(hub_server, pico):
    hub_server.add("alice/pico", as_files(pico))
    found, _ = facts("alice/pico")
    assert found.parameters == facts(pico)[0].parameters
    assert found.stored.bytes < (pico / "model.safetensors").stat().st_size
    answer, _ = answered(Question(model="alice/pico"))
    assert answer.model.startswith("alice/pico@")
    assert answer.disk.download == found.stored.bytes
    asked = len(hub_server.log)
    assert answered(Question(model="alice/pico", batch=2))[1] == []
    assert len(hub_server.log) == asked


def test_what_one_may_read_another_does_not_get_from_what_is_kept(hub_server, pico):
    hub_server.add("alice/secret", as_files(pico), private=True)
    assert facts("alice/secret", token=ALICE)[0].depth == 2
    for token in (BOB, False):
        with pytest.raises(NotFound):
            facts("alice/secret", token=token)


def test_a_folder_that_changed_is_read_anew(pico, tmp_path):
    folder = shutil.copytree(pico, tmp_path / "model")
    before, _ = facts(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 5}))
    os.utime(config, (4e9, 4e9))
    after, _ = facts(folder)
    assert (before.depth, after.depth) == (2, 5)
    assert "headers-differ" in {note.id for note in after.notes}


def test_numbers_typed_by_hand_are_a_model():
    answer, _ = answered(Question(model="8B, 32 layers", device="t4"))
    assert answer.facts.parameters == pytest.approx(8e9, rel=0.01)
    assert answer.facts.depth == 32
    verdicts = {fit.device: fit.verdict for fit in answer.fits}
    assert (verdicts["t4"], verdicts["h200"]) == ("no", "fits")
    assert answer.fits[0].device == "this"
    assert answer.limits.fitting.changes
    assert answer.limits.fitting.estimate.peak < answer.estimate.peak


def test_the_longest_context_fits_and_one_more_does_not():
    question = Question(model="1B", device="t4", task="generate")
    longest = answered(question)[0].limits.context

    def verdict(context):
        fits = answered(replace(question, context=context))[0].fits
        return next(fit.verdict for fit in fits if fit.device == "t4")

    assert (verdict(longest), verdict(longest + 1000)) == ("fits", "tight")


def test_the_dry_run_is_trusted_and_stands_beside_the_closed_form(pico):
    answer, said = answered(Question(model=str(pico), context=64), dry=True)
    assert answer.estimate is answer.dry_run
    assert answer.estimate.engine == "dry run"
    assert answer.difference == pytest.approx(answer.closed_form.peak / answer.dry_run.peak - 1)
    assert answer.is_apart == (abs(answer.difference) > 0.1)
    assert Phase.REHEARSE in {event.phase for event in said}


def test_without_an_architecture_there_are_the_bytes_of_the_weights_and_no_dry_run(hub_server):
    config = json.dumps({"model_type": "nobody_knows", "auto_map": {"AutoModel": "own.Model"}})
    hub_server.add("alice/own", {"config.json": config, "model.safetensors": weights(1000)})
    answer, _ = answered(Question(model="alice/own", task="generate"), dry=True)
    assert answer.estimate.engine == "headers"
    assert answer.estimate.of("weights") == 2000
    assert "own code" in answer.facts.notes[0].message
    assert "no architecture" in answer.no_dry_run
    with pytest.raises(Unsupported):
        answered(Question(model="alice/own", task="train"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": json.dumps({"model_type": "nobody_knows"})}, "nobody_knows"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": weights(10)}, "is an adapter"),
        ({"README.md": "nothing"}, "config.json"),
    ],
)
def test_what_is_no_model_is_refused_in_words(hub_server, files, words):
    hub_server.add("alice/none", files)
    with pytest.raises(Unsupported, match=words) as raised:
        facts("alice/none")
    assert raised.value.hint


def test_a_broken_config_is_said_to_be_broken(broken):
    (broken / "config.json").write_text("{")
    with pytest.raises(Damaged, match=r"config\.json"):
        facts(broken)


def test_numbers_that_make_no_model_are_refused():
    with pytest.raises(InputError):
        facts("8B, 0 layers")


def test_visitors_ask_about_no_folder_of_the_machine(pico, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    with pytest.raises(InputError, match="not open to visitors"):
        facts(pico)


# What was learned on this machine


@pytest.fixture
def learned(tmp_path, monkeypatch):
    """A workspace in which nine loads of two sizes took 212 MB more than was predicted."""
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    for n in range(9):
        predicted = (1 + n % 2) * 10**9
        name = compute.machine().name
        memory.remember(tmp_path, Entry("load", name, "a/b", "bf16", predicted, predicted + 212_000_000))
    return Correction(212_000_000, 9, "load")


@pytest.mark.parametrize("task", ["train", "generate"])
def test_what_a_machine_takes_beyond_every_estimate_is_counted_there_and_shown(learned, monkeypatch, task):
    question = Question(task=task, device=THIS)
    corrected, _ = answered(question)
    here, *others = corrected.fits
    assert here.correction == learned
    assert here.corrected == here.peak + learned.bytes
    assert here.peak == corrected.estimate.peak  # the estimate itself stays as it was made
    assert all(fit.correction is None and fit.corrected == fit.peak for fit in others)
    monkeypatch.setenv("STUDIO_WORKSPACE", "/nowhere")
    plain, _ = answered(question)
    assert plain.fits[0].correction is None
    assert plain.limits.context > corrected.limits.context


def test_a_verdict_counts_what_was_learned():
    here = replace(memory.device(THIS), usable=10**9, context=0)
    assert memory.fit(850_000_000, here) == "fits"
    assert memory.fit(850_000_000, replace(here, learned=212_000_000)) == "no"
    assert memory.room(replace(here, learned=212_000_000)) == memory.room(here) - 212_000_000


def test_visitors_see_nothing_of_the_record_and_nothing_is_corrected_for_them(learned, monkeypatch):
    assert jobs.record().accuracies[0].correction == learned
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    assert jobs.record() == memory.Record((), 0)
    found, _ = answered(Question())
    assert found.fits[0].correction is None


def test_a_port_that_is_none_does_not_stand_in_the_way_of_an_answer(monkeypatch):
    monkeypatch.setenv("STUDIO_PORT", "none")
    assert jobs.record() == memory.Record((), 0)
