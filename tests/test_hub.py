"""Asking the Hub, a real client against a Hub on this machine: what it says, and every way in which it does not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from hub_steps import PICO, children, download
from loopback_hub.samples import ALICE, BOB, SMALL, weights

from studio import hub
from studio.errors import (
    AccessDenied,
    DoesNotFit,
    HubError,
    InputError,
    NotFound,
    Offline,
    StudioError,
)
from studio.hub.translation import foreign_errors, redact, translate
from studio.models import ModelRef

# Looking


def test_importing_the_hub_imports_neither_its_client_nor_asks_anything():
    script = "import sys, studio.hub; sys.exit('huggingface_hub' in sys.modules or 'httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_facts_say_what_a_model_is_at_one_commit(hub_server):
    files = SMALL | {"pytorch_model.bin": b"x" * 10, "original/model.safetensors": weights(1), "code.py": "1"}
    repo = hub_server.add("alice/pico", files, license="apache-2.0")
    facts = hub.facts(PICO, token=False)
    assert facts.commit == repo.refs["main"]
    assert (facts.architecture, facts.model_type, facts.license) == ("LlamaForCausalLM", "llama", "apache-2.0")
    assert (facts.parameters, facts.dtypes) == (100, (("F32", 100),))
    assert len(facts.files) == len(files)
    assert {file.path for file in facts.needed} == set(SMALL)
    assert facts.download_bytes == sum(len(content) for content in SMALL.values())


@pytest.mark.parametrize(
    ("settings", "token", "kind", "word"),
    [
        (None, False, NotFound, "sign in if it is private"),
        (None, ALICE, NotFound, "no model called alice/pico"),
        ({"private": True}, False, NotFound, "sign in"),
        ({"private": True}, BOB, NotFound, "your token"),
        ({"gated": True}, False, AccessDenied, "accept its terms at http"),
        ({"gated": True}, BOB, AccessDenied, "Ask for access at http"),
        ({"disabled": True}, ALICE, AccessDenied, "disabled"),
        ({}, "hf_notOneOfTheTokens", AccessDenied, "does not accept the token"),
        ({}, "two\nlines", AccessDenied, "token is none"),
    ],
)
def test_who_may_not_read_a_model_is_told_why(hub_server, settings, token, kind, word):
    if settings is not None:
        hub_server.add("alice/pico", SMALL, **settings)
    with pytest.raises(kind, match=word) as caught:
        download(token=token)
    assert caught.value.hint
    assert not children()


def test_a_gated_model_is_downloaded_by_those_who_were_let_in(hub_server):
    hub_server.add("alice/pico", SMALL, gated=True, allowed={"bob"})
    assert hub.facts(PICO, token=False).gated
    assert (download(token=BOB) / "model.safetensors").is_file()


def test_a_revision_that_does_not_exist_is_named(hub_server):
    hub_server.add("alice/pico", SMALL)
    with pytest.raises(NotFound, match="alice/pico@v9"):
        hub.facts(ModelRef("hub", "alice/pico", "v9"), token=False)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ({"status": 429, "headers": {"retry-after": "77"}}, HubError, "in 77 seconds"),
        ({"status": 429, "headers": {"ratelimit": '"api";r=0;t=55'}}, HubError, "in 55 seconds"),
        ({"status": 500}, HubError, r"has a problem \(500\)"),
        ({"status": 503}, HubError, r"has a problem \(503\)"),
        ({"status": 418}, HubError, "answered 418"),
        ({"status": 403}, AccessDenied, "does not let"),
        ({"status": 404}, NotFound, "nothing called"),
        ({"status": 401}, AccessDenied, "Sign in"),
        ({"status": 200, "body": b"<html>Please log in to the hotel"}, HubError, "not the Hub"),
        ({"end": "drop"}, Offline, "cannot be reached"),
    ],
)
def test_an_answer_that_is_none_is_explained_at_once(hub_server, answer, kind, words):
    hub_server.add("alice/pico", SMALL)
    hub_server.fault("/api/models/alice", **answer)
    begin = time.monotonic()
    with pytest.raises(kind, match=words) as caught:
        hub.facts(PICO, token=False)
    assert type(caught.value) is kind
    assert caught.value.hint
    assert time.monotonic() - begin < 8
    assert len(hub_server.requests("GET", "/api/models/alice")) == 1


def every_foreign_error() -> list[Exception]:
    """One of every class that huggingface_hub declares, and of what its network library and the system raise."""
    import httpx2
    from huggingface_hub import errors

    asked = httpx2.Request("GET", "https://huggingface.co/api/models/alice/pico")
    raised: list[Exception] = []
    for kind in foreign_errors():
        if issubclass(kind, errors.HfHubHTTPError):
            raised += [
                kind("no", response=httpx2.Response(status, request=asked)) for status in (400, 401, 403, 404, 429, 500)
            ]
        elif kind.__module__ == errors.__name__:
            error = kind.__new__(kind)
            error.args = ("no",)
            raised.append(error)
    raised += [
        httpx2.ConnectError("no"),
        httpx2.ReadTimeout("no"),
        httpx2.RemoteProtocolError("no"),
        httpx2.InvalidURL("no"),
    ]
    return [*raised, OSError(28, "full"), PermissionError(13, "no"), ConnectionError("no"), RuntimeError("no")]


def test_every_error_of_the_client_becomes_one_of_ours_with_a_hint():
    for error in every_foreign_error():
        said = translate(error, "alice/pico")
        assert isinstance(said, StudioError), error
        assert said.hint, error
        assert "alice/pico" in said.message or isinstance(said, InputError), error


def test_what_really_happened_is_found_inside_the_clients_wrapping():
    from huggingface_hub.errors import LocalEntryNotFoundError

    wrapped = LocalEntryNotFoundError("Cannot find the file")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert isinstance(translate(wrapped, "alice/pico"), DoesNotFit)


# Reaching


def test_a_hub_behind_a_closed_port_is_offline_at_once():
    hub.forget_reach()
    begin = time.monotonic()
    for ask in (
        lambda: hub.facts(PICO, token=False),
        lambda: hub.search(hub.SearchQuery("pico"), token=False),
        download,
    ):
        with pytest.raises(Offline, match=r"http://127\.0\.0\.1:9"):
            ask()
    assert time.monotonic() - begin < 8


def test_a_hub_that_takes_half_a_minute_is_given_up_quickly_and_remembered(hub_server):
    hub_server.add("alice/pico", SMALL)
    hub_server.fault("", delay=30)
    begin = time.monotonic()
    with pytest.raises(Offline, match="did not answer within"):
        download()
    first = time.monotonic() - begin
    with pytest.raises(Offline):
        download()
    assert first < 12
    assert time.monotonic() - begin - first < 3
    hub_server.faults.clear()
    hub.forget_reach()
    assert download()


def test_a_hub_that_is_there_is_probed_once_by_however_many_ask(hub_server):
    threads = [threading.Thread(target=hub.reach) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.reach().reachable
    assert len(hub_server.requests("HEAD")) == 1


def test_a_connection_lost_later_is_noticed_by_the_next_call(hub_server, monkeypatch):
    assert hub.reach().reachable
    hub_server.fault("/api/models/alice", end="drop")
    with pytest.raises(Offline):
        hub.facts(PICO, token=False)
    hub_server.fault("/api/models$", end="drop")
    assert not hub.reach().reachable


def test_offline_mode_asks_nobody(hub_server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Offline, match="HF_HUB_OFFLINE"):
        download()
    assert not hub_server.log


@pytest.mark.parametrize("text", [f"GET with {ALICE}!", "Bearer abc.def-1", "api_org_12345"])
def test_tokens_are_taken_out_of_any_text(text):
    assert not {ALICE, "abc.def-1", "api_org_12345"} & set(redact(text).replace("!", "").split())
