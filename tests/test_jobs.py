"""Jobs: requests and events that can travel, folders from the right place, and nothing held after the last event."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from loopback_hub.samples import SMALL

from studio import hub, jobs
from studio.errors import InputError, NotFound, Offline, PickleOnly, StudioError, Unsupported
from studio.events import Finished, Phase, Progress, TextDelta
from studio.generation import GenerationSettings, Prompt, Reply
from studio.jobs import SESSION, GenerationRequest, model
from studio.loading import LoadPlan, Resident
from studio.models import STARTER, ModelRef, Precision
from studio.settings import STARTER_FOLDER
from studio.tokenizer import Message


@pytest.fixture
def request_(pico):
    plan = LoadPlan(ModelRef("folder", str(pico)), Precision.FP32)
    return GenerationRequest(plan, Prompt((Message("user", "Hi"),)), GenerationSettings(max_new_tokens=8, seed=1))


@pytest.fixture(autouse=True)
def _unloaded():
    """The session is that of the whole process: leave it empty for the next test."""
    yield
    list(jobs.unload())


def folder_of(name, **fields):
    events = jobs.fetch(LoadPlan(ModelRef.parse(name), **fields), token=False)
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


# Where a model comes from


def test_the_starter_is_the_folder_that_is_shipped():
    assert folder_of("starter") == STARTER_FOLDER


def test_a_folder_is_taken_as_it_is(pico):
    assert folder_of(str(pico)) == pico


@pytest.mark.parametrize("name", ["SPACE_ID", "STUDIO_HOST"])
def test_visitors_of_a_shared_machine_name_no_folder_of_it(pico, monkeypatch, name):
    monkeypatch.setenv(name, "owner/studio")
    with pytest.raises(InputError, match="not open to visitors"):
        folder_of(str(pico))
    with pytest.raises(InputError, match="not open to visitors"):
        list(jobs.load(LoadPlan(ModelRef.parse(str(pico))), token=False))
    with pytest.raises(InputError, match="not open to visitors"):
        list(jobs.load(LoadPlan(STARTER, adapter=pico), token=False))
    assert folder_of("starter") == STARTER_FOLDER
    assert SESSION.status().resident is None


def test_a_model_of_the_hub_is_downloaded_first(hub_server):
    hub_server.add("alice/pico", SMALL)
    folder = folder_of("alice/pico")
    assert (folder / "model.safetensors").is_file()
    assert folder.is_relative_to(Path(os.environ["HF_HOME"]))


def test_a_model_of_the_hub_answers(hub_server, pico):
    hub_server.add("alice/talks", {file.name: file.read_bytes() for file in pico.iterdir()})
    request = GenerationRequest(
        LoadPlan(ModelRef.parse("alice/talks"), Precision.FP32), Prompt(text="Hi"), GenerationSettings(max_new_tokens=3)
    )
    *events, last = jobs.generate(request, token=False)
    assert last.result.tokens == 3
    phases = [event.phase for event in events if isinstance(event, Progress)]
    assert phases.index(Phase.READ) < phases.index(Phase.PREFILL)
    assert SESSION.status().resident.plan == request.plan


def test_a_model_that_is_not_there_is_said_not_to_be(hub_server):
    with pytest.raises(NotFound):
        folder_of("alice/nothing")


def test_without_a_network_a_model_of_the_hub_is_out_of_reach():
    with pytest.raises(Offline):
        folder_of("alice/pico")


# What travels


def test_requests_events_and_results_can_be_pickled(request_):
    assert pickle.loads(pickle.dumps(request_)) == request_
    adapted = replace(request_, plan=replace(request_.plan, adapter=Path("/somewhere")))
    assert pickle.loads(pickle.dumps(adapted)) == adapted != request_
    for work in (jobs.generate(request_, token=False), jobs.load(request_.plan, token=False), jobs.unload()):
        events = list(work)
        assert pickle.loads(pickle.dumps(events)) == events
        assert isinstance(events[-1], Finished)


def test_what_the_accelerator_runs_can_be_pickled():
    for job in (model._generate, model._load, model._unload):
        assert pickle.loads(pickle.dumps(job)) is job


# From the first event to the last


def test_a_reply_streams_and_ends_with_the_whole_of_it(request_):
    *events, last = jobs.generate(request_, token=False)
    assert isinstance(last.result, Reply)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == last.result.text
    assert SESSION.status().resident.plan == request_.plan


def test_loading_ends_with_what_is_in_memory(request_):
    *_, last = jobs.load(request_.plan, token=False)
    assert isinstance(last.result, Resident)
    assert last.result == SESSION.status().resident


def test_unloading_ends_with_what_is_free(request_):
    list(jobs.load(request_.plan, token=False))
    *_, last = jobs.unload()
    assert last.result > 0
    assert SESSION.status().resident is None


def test_a_job_that_is_closed_hands_the_model_back(request_):
    work = jobs.generate(replace(request_, settings=GenerationSettings(max_new_tokens=400)), token=False)
    while not isinstance(next(work), TextDelta):
        """Until it speaks."""
    assert SESSION.status().busy_with == "answering"
    work.close()
    assert SESSION.status().busy_with is None
    assert SESSION.status().resident.plan == request_.plan


def test_a_job_that_is_closed_while_it_loads_holds_nothing(request_):
    work = jobs.load(request_.plan, token=False)
    next(work)
    work.close()
    assert SESSION.status() == type(SESSION.status())(None, None, 0.0, 0)


def test_after_any_bad_request_the_next_good_one_is_answered(request_, broken, tmp_path):
    (broken / "model.safetensors").write_bytes(b"<html>")
    bad = [
        replace(request_, plan=LoadPlan(ModelRef.parse(str(broken)))),
        replace(request_, plan=LoadPlan(ModelRef.parse(str(tmp_path / "nowhere")))),
        replace(request_, plan=LoadPlan(ModelRef.parse("alice/nothing"))),
        replace(request_, prompt=Prompt(text="x" * 1000)),
        replace(request_, plan=replace(request_.plan, adapter=tmp_path)),
    ]
    for request in bad:
        with pytest.raises(StudioError) as caught:
            list(jobs.generate(request, token=False))
        assert caught.value.hint
        *_, last = jobs.generate(request_, token=False)
        assert last.result.tokens == 8


def test_the_starter_answers():
    prompt = Prompt((Message("user", "Hello!"),))
    request = GenerationRequest(LoadPlan(STARTER, Precision.FP32), prompt, GenerationSettings(greedy=True))
    *_, last = jobs.generate(request, token=False)
    assert last.result.text.strip()


# What loading would take, and the way out of pickles


def pickled(pico, folder):
    """The same model with its weights as a pickle."""
    import torch
    from safetensors.torch import load_file

    shutil.copytree(pico, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_what_a_model_of_the_hub_would_take_is_told_without_its_weights(hub_server, pico):
    hub_server.add("alice/ahead", pico)
    *_, last = jobs.foresee(LoadPlan(ModelRef.parse("alice/ahead"), Precision.FP32), token=False)
    *_, local = jobs.foresee(LoadPlan(ModelRef.parse(str(pico)), Precision.FP32), token=False)
    assert last.result.weights == local.result.weights
    assert [each for each, _ in last.result.alternatives] == [p for p in Precision if p.bits]
    assert all(seen.headers.get("range") for seen in hub_server.requests("GET", "/_cdn/"))
    assert hub.cached_models() == []


def test_what_cannot_be_foretold_says_why(hub_server, pico, tmp_path):
    hub_server.add("alice/pickles", pickled(pico, tmp_path / "pickles"))
    hub_server.add("alice/empty", {"config.json": (pico / "config.json").read_bytes()})
    with pytest.raises(PickleOnly, match="only as pickle"):
        list(jobs.foresee(LoadPlan(ModelRef.parse("alice/pickles")), token=False))
    with pytest.raises(Unsupported, match="no weights"):
        list(jobs.foresee(LoadPlan(ModelRef.parse("alice/empty")), token=False))
    with pytest.raises(InputError, match="There is no folder"):
        list(jobs.foresee(LoadPlan(ModelRef.parse("./nowhere")), token=False))


@pytest.mark.parametrize("on_hub", [False, True])
def test_pickles_are_converted_into_a_model_that_loads(hub_server, pico, tmp_path, monkeypatch, on_hub):
    from safetensors.torch import load_file

    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path / "workspace"))
    folder = pickled(pico, tmp_path / "old")
    hub_server.add("alice/old", folder)
    name = "alice/old" if on_hub else str(folder)
    with pytest.raises(PickleOnly):
        list(jobs.load(LoadPlan(ModelRef.parse(name)), token=False))
    *_, last = jobs.convert(ModelRef.parse(name), token=False)
    assert last.result == tmp_path / "workspace" / "models" / "old-safetensors"
    before, after = load_file(pico / "model.safetensors"), load_file(last.result / "model.safetensors")
    assert all(tensor.equal(before[key]) for key, tensor in after.items())
    *_, loaded = jobs.load(LoadPlan(ModelRef.parse(str(last.result))), token=False)
    assert loaded.result.parameters > 0


def test_visitors_of_a_shared_machine_convert_nothing(monkeypatch, pico):
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    with pytest.raises(InputError, match="Visitors cannot convert"):
        list(jobs.convert(ModelRef.parse(str(pico)), token=False))
    with pytest.raises(InputError, match="not open to visitors"):
        list(jobs.foresee(LoadPlan(ModelRef.parse(str(pico))), token=False))
