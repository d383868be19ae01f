"""What the cache of this machine is good for without the Hub, who may have it, and where tokens must not show up."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import traceback
from contextlib import closing
from pathlib import Path

import pytest
from hub_steps import CDN, PICO, children, download, first_bytes, go_offline
from loopback_hub.samples import ALICE, BOB, CONFIG, LARGE, SMALL, weights

from studio import hub
from studio.errors import (
    AccessDenied,
    NotFound,
    Offline,
)
from studio.models import ModelRef


def test_without_the_hub_a_model_that_is_here_is_used_and_one_that_is_not_is_missing(hub_server, monkeypatch):
    hub_server.add("alice/pico", SMALL)
    folder = download()
    go_offline(monkeypatch)
    assert download() == folder
    with pytest.raises(Offline) as caught:
        download(ModelRef("hub", "alice/other"))
    assert "on this machine already" in caught.value.hint


def test_while_the_hub_has_a_problem_a_model_that_is_here_is_used(hub_server):
    hub_server.add("alice/pico", SMALL)
    folder = download()
    hub_server.fault("/api/models/alice", status=503)
    assert download() == folder


def test_half_a_model_is_not_taken_for_a_whole_one(hub_server, monkeypatch):
    hub_server.add("alice/pico", SMALL)
    folder = download()
    (folder / "model.safetensors").unlink()
    go_offline(monkeypatch)
    assert hub.cached(PICO) is None
    with pytest.raises(Offline):
        download()


def test_a_model_that_another_tool_left_here_is_judged_by_its_own_index(hub_server):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors"}})
    hub_server.add(
        "alice/pico", {"config.json": CONFIG, "model.safetensors.index.json": index, "model-1.safetensors": weights(1)}
    )
    folder = download()
    shutil.rmtree(folder.parents[1] / "trees")
    script = f"from studio import hub, models; print(hub.cached(models.ModelRef('hub', '{PICO.name}')))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == str(folder)
    (folder / "model-1.safetensors").unlink()
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "None"


def test_the_models_of_this_machine_are_listed_by_name(hub_server, monkeypatch):
    assert hub.cached_models() == []
    hub_server.add("alice/pico", SMALL)
    hub_server.add("alice/half", SMALL)
    folder = download()
    (download(ModelRef("hub", "alice/half")) / "config.json").unlink()
    go_offline(monkeypatch)
    (folder.parents[2] / "models--not--a--name" / "refs").mkdir(parents=True)
    (folder.parents[2] / "models--not--a--name" / "refs" / "main").write_text("0" * 40)
    assert hub.cached_models() == [hub.CachedModel(PICO, folder, len(SMALL["model.safetensors"]))]


def test_on_a_shared_machine_a_private_model_stays_with_those_who_may_read_it(hub_server, monkeypatch):
    hub_server.add("alice/secret", SMALL, private=True)
    secret = ModelRef("hub", "alice/secret")
    folder = download(secret, ALICE, shared=True)
    for stranger in (False, BOB):
        with pytest.raises(NotFound):
            download(secret, stranger, shared=True)
    assert hub.cached(secret, shared=True) is None
    assert hub.cached_models(shared=True) == []
    assert download(secret, ALICE, shared=True) == folder
    go_offline(monkeypatch)
    for anyone in (False, ALICE):
        with pytest.raises(Offline):
            download(secret, anyone, shared=True)


def test_on_a_shared_machine_a_public_model_can_be_used_without_the_hub(hub_server, monkeypatch):
    hub_server.add("alice/public", SMALL)
    public = ModelRef("hub", "alice/public")
    folder = download(public, shared=True)
    go_offline(monkeypatch)
    assert download(public, shared=True) == hub.cached(public, shared=True) == folder


def test_on_a_shared_machine_a_gated_model_stays_with_those_who_were_let_in(hub_server):
    hub_server.add("alice/gated", SMALL, gated=True, allowed={"bob"})
    gated = ModelRef("hub", "alice/gated")
    assert download(gated, BOB, shared=True)
    with pytest.raises(AccessDenied):
        download(gated, shared=True)


def test_on_a_shared_machine_a_model_that_was_made_private_is_no_longer_handed_out(hub_server, monkeypatch):
    repo = hub_server.add("alice/was-public", SMALL)
    was_public = ModelRef("hub", "alice/was-public")
    assert download(was_public, shared=True)
    repo.private = True
    with pytest.raises(NotFound):
        download(was_public, shared=True)
    go_offline(monkeypatch)
    with pytest.raises(Offline):
        download(was_public, shared=True)


def test_on_ones_own_machine_a_model_stays_usable_after_signing_out(hub_server):
    hub_server.add("alice/mine", SMALL, private=True)
    mine = ModelRef("hub", "alice/mine")
    assert download(mine, ALICE) == download(mine)


# Tokens


def test_a_token_shows_up_nowhere(hub_server, caplog):
    caplog.set_level(logging.DEBUG)
    hub_server.add("alice/pico", LARGE, private=True)
    hub_server.fault(CDN, pace=0.3)
    with closing(first_bytes(token=ALICE)):
        (child,) = children()
        assert ALICE not in " ".join(child.cmdline()) + str(child.environ())
    hub_server.fault("/resolve/", status=403, headers={"x-error-message": f"{ALICE} may not"})
    with pytest.raises(AccessDenied) as caught:
        download(token=ALICE)
    told = "".join(traceback.format_exception(caught.value))
    assert ALICE not in told + caplog.text + "".join(path.read_text() for path in Path("/proc/self").glob("cmdline"))
    assert "hf_…redacted may not" in caught.value.message
    assert all("authorization" not in seen.headers for seen in hub_server.requests(path=CDN))


def test_the_machines_login_is_never_used_by_itself(hub_server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    assert hub.machine_token() == ALICE
    hub_server.add("alice/pico", SMALL)
    download(token=False)
    assert all("authorization" not in seen.headers for seen in hub_server.log)
    monkeypatch.delenv("HF_TOKEN")
    assert hub.machine_token() is False
