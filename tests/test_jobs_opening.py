"""Opening a tokenizer: without the weights, once for many uses, and for nobody who may not read the model."""

from __future__ import annotations

import shutil

import pytest
from loopback_hub.samples import ALICE, BOB, weights

from studio import hub, jobs
from studio.errors import AccessDenied, InputError, NotFound, Offline, Unsupported
from studio.events import Phase
from studio.jobs import opening, shelf
from studio.jobs.shelf import Shelf
from studio.models import STARTER, ModelRef


@pytest.fixture(autouse=True)
def _empty_shelf(monkeypatch):
    monkeypatch.setattr(opening, "_SHELF", Shelf(opening.KEPT))


def opened(name, token=False):
    events = jobs.open_tokenizer(ModelRef.parse(name), token=token)
    said = []
    while True:
        try:
            said.append(next(events))
        except StopIteration as end:
            return end.value, said


def as_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {"model.safetensors": weights(300_000)}


def test_the_starter_opens_offline_and_a_second_time_at_once():
    first, _ = opened("starter")
    assert first.tokenizer("Once").input_ids
    second, said = opened("starter")
    assert second is first
    assert said == []


def test_no_weights_are_downloaded_for_a_tokenizer(hub_server, pico):
    hub_server.add("alice/pico", as_files(pico))
    found, said = opened("alice/pico")
    assert len(found.tokenizer) > 256
    assert {event.phase for event in said} >= {Phase.DOWNLOAD}
    assert not hub_server.requests("GET", r"model\.safetensors")
    assert not (found.folder / "model.safetensors").exists()
    assert hub.cached(ModelRef.parse("alice/pico")) is None
    assert hub.cached(ModelRef.parse("alice/pico"), part="tokenizer") == found.folder


def test_a_tokenizer_that_was_downloaded_opens_without_the_network(hub_server, pico, monkeypatch):
    hub_server.add("alice/pico", as_files(pico))
    folder = opened("alice/pico")[0].folder
    monkeypatch.setattr(opening, "_SHELF", Shelf(opening.KEPT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.forget_reach()
    assert opened("alice/pico")[0].folder == folder
    with pytest.raises(Offline):
        opened("alice/other")


def test_the_weights_are_fetched_later_by_a_load(hub_server, pico):
    hub_server.add("alice/pico", as_files(pico))
    folder = opened("alice/pico")[0].folder
    *_, last = hub.download(ModelRef.parse("alice/pico"), token=False)
    assert last.result == folder
    assert (folder / "model.safetensors").stat().st_size == len(weights(300_000))


def test_the_hub_is_not_asked_at_every_key_that_is_pressed(hub_server, pico, monkeypatch):
    hub_server.add("alice/pico", as_files(pico))
    opened("alice/pico")
    asked = len(hub_server.log)
    assert opened("alice/pico")[1] == []
    assert len(hub_server.log) == asked
    monkeypatch.setattr(shelf, "TRUSTED_SECONDS", 0.0)
    monkeypatch.setattr(opening, "_SHELF", Shelf(opening.KEPT))
    opened("alice/pico")
    opened("alice/pico")
    assert len(hub_server.log) > asked + 1


def test_what_one_person_may_read_is_not_open_to_the_next(hub_server, pico, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    hub_server.add("alice/secret", as_files(pico), private=True)
    hub_server.add("alice/gated", as_files(pico), gated=True)
    for name, error in (("alice/secret", NotFound), ("alice/gated", AccessDenied)):
        assert opened(name, ALICE)[0].tokenizer
        for token in (False, BOB):
            with pytest.raises(error):
                opened(name, token)


def test_no_token_is_kept(hub_server, pico):
    hub_server.add("alice/secret", as_files(pico), private=True)
    opened("alice/secret", ALICE)
    assert ALICE not in repr(opening._SHELF._shown)


def test_a_folder_is_read_anew_when_its_files_have_changed(pico, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(pico, folder)
    before = opened(str(folder))[0]
    assert opened(str(folder))[0] is before
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    after = opened(str(folder))[0]
    assert after.tokenizer.chat_template == "{{ messages[0]['content'] }}"


def test_only_the_tokenizers_that_were_used_last_stay_open(pico, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "_SHELF", Shelf(2))
    folders = [shutil.copytree(pico, tmp_path / name) for name in ("one", "two", "three")]
    first = opened(str(folders[0]))[0]
    for folder in folders[1:]:
        opened(str(folder))
    assert opened(str(folders[0]))[0] is not first
    assert len(opening._SHELF._open) == 2


def test_visitors_open_no_folder_of_the_machine(pico, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    with pytest.raises(InputError, match="not open to visitors"):
        opened(str(pico))
    assert opened(str(STARTER))[0].tokenizer


def test_a_model_without_a_tokenizer_is_told_before_anything_is_fetched(hub_server):
    hub_server.add("alice/bare", {"config.json": "{}", "model.safetensors": weights(100)})
    with pytest.raises(Unsupported, match="alice/bare comes without a tokenizer"):
        opened("alice/bare")
    assert not hub_server.requests("GET", r"/resolve/")
