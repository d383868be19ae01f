"""A look into models on the Hub without downloading them: what is asked of it, and what when it misbehaves."""

from __future__ import annotations

import json
import os
import pickle
import struct
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hub_steps import CDN, PICO, download, go_offline
from loopback_hub.samples import ALICE, BOB, CONFIG, SMALL, weights

from studio import hub
from studio.errors import AccessDenied, Damaged, HubError, NotFound, Offline, StudioError
from studio.events import Finished, Phase, Progress
from studio.hub import peeking
from studio.inspection import inspect_folder, inspect_peek
from studio.models import ModelRef


def peek(ref=PICO, token=False, **options):
    *_, last = hub.peek(ref, token=token, **options)
    assert isinstance(last, Finished)
    return last.result


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("studio-work")]


def big(count, *, pad=0):
    """A safetensors file of so many fp32 numbers, whose header has so many bytes too many."""
    entry = {"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    header = json.dumps(entry | {"__metadata__": {"pad": "x" * pad}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * count)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(peeking, "_PAUSES", (0.01, 0.01, None))


# What is asked and what comes of it


def test_a_model_on_the_hub_is_told_as_its_folder_is(hub_server, pico):
    repo = hub_server.add("alice/pico", pico)
    seen = peek()
    assert pickle.loads(pickle.dumps(seen)) == seen
    there, here = inspect_peek(seen), inspect_folder(pico)
    assert (there.model, there.commit) == ("alice/pico", repo.refs["main"])
    for name in ("tensors", "groups", "dtypes", "parameters", "bytes", "architecture", "tokenizer", "findings"):
        assert getattr(there, name) == getattr(here, name)
    assert {file.name: file.bytes for file in there.files} == {file.name: file.bytes for file in here.files}


def test_nothing_is_asked_for_but_small_files_and_headers(hub_server):
    extra = {"vocab.json": "{}", "pytorch_model.bin": b"x", "onnx/model.safetensors": weights(5), "README.md": "x"}
    hub_server.add("alice/pico", SMALL | extra | {"model.safetensors": big(1_000_000)})
    seen = peek()
    asked = {request.path.rpartition("/")[2] for request in hub_server.requests("GET", "/resolve/")}
    assert asked == {"config.json", "model.safetensors"}
    assert [request.headers["range"] for request in hub_server.requests("GET", CDN)] == ["bytes=0-65535"]
    assert sum(request.sent for request in hub_server.requests("GET", CDN)) <= 65536
    assert inspect_peek(seen).parameters == 1_000_000
    assert not list(Path(os.environ["HF_HOME"]).rglob("*.safetensors"))


def test_a_long_header_takes_a_second_request_for_the_rest_of_it(hub_server):
    content = big(1_000_000, pad=200_000)
    hub_server.add("alice/pico", SMALL | {"model.safetensors": content})
    assert inspect_peek(peek()).parameters == 1_000_000
    end = 8 + struct.unpack("<Q", content[:8])[0]
    assert [request.headers["range"] for request in hub_server.requests("GET", CDN)] == [
        "bytes=0-65535",
        f"bytes=65536-{end - 1}",
    ]


def test_the_token_goes_to_the_hub_alone(hub_server):
    hub_server.add("alice/pico", SMALL, private=True)
    peek(token=ALICE)
    assert all(ALICE in request.headers["authorization"] for request in hub_server.requests("GET", "/resolve/"))
    assert hub_server.requests("GET", CDN)
    assert not any("authorization" in request.headers for request in hub_server.requests("GET", CDN))


def test_everything_is_of_one_commit_even_if_the_branch_moves_on_meanwhile(hub_server):
    repo = hub_server.add("alice/pico", SMALL)
    before = repo.refs["main"]
    with closing(hub.peek(PICO, token=False)) as events:
        next(events)
        hub_server.fault("/resolve/", delay=0.2)
        next(event for event in events if isinstance(event, Progress) and event.total)
        repo.commit(SMALL | {"model.safetensors": weights(7)})
        *_, last = events
    assert last.result.ref.revision == before
    assert inspect_peek(last.result).parameters == 100
    assert all(before in request.path for request in hub_server.requests("GET", "/resolve/"))


def test_thirty_shards_take_two_seconds_at_most(hub_server):
    names = [f"model-{number:05}-of-00030.safetensors" for number in range(1, 31)]
    files, where = {}, {}
    for number, name in enumerate(names):
        layers = [f"model.layers.{layer}.{part}.weight" for layer in range(80) for part in range(9)]
        mine = layers[number::30]
        entries = {
            tensor: {"dtype": "BF16", "shape": [4, 4], "data_offsets": [32 * at, 32 * at + 32]}
            for at, tensor in enumerate(mine)
        }
        text = json.dumps(entries).encode()
        files[name] = struct.pack("<Q", len(text)) + text + bytes(32 * len(mine))
        where |= dict.fromkeys(mine, name)
    index = json.dumps({"weight_map": where})
    hub_server.add("alice/pico", {"config.json": CONFIG, "model.safetensors.index.json": index, **files})
    peek()
    begin = time.monotonic()
    found = inspect_peek(peek())
    assert time.monotonic() - begin < 8
    assert len(found.tensors) == 720
    assert len({tensor.file for tensor in found.tensors}) == 30
    assert not [finding for finding in found.findings if finding.id.startswith(("index", "shard", "file"))]


def test_pickles_alone_are_looked_at_and_not_refused(hub_server):
    hub_server.add("alice/pico", {"config.json": CONFIG, "pytorch_model.bin": b"x" * 10})
    found = inspect_peek(peek())
    assert found.findings[0].id == "pickle-only"
    assert hub_server.requests("GET", CDN) == []


# Weights that are broken on the Hub


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 200_000_000, 5000])
def test_a_length_that_no_header_has_is_never_asked_for(hub_server, length):
    content = struct.pack("<Q", length) + b"{}" + bytes(1000)
    hub_server.add("alice/pico", SMALL | {"model.safetensors": content})
    with pytest.raises(Damaged, match="do not begin with a safetensors header"):
        inspect_peek(peek())
    assert len(hub_server.requests("GET", CDN)) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"version https://git-lfs.github.com/spec/v1\n", b"<html>" * 20_000])
def test_what_is_no_safetensors_file_is_damaged(hub_server, content):
    hub_server.add("alice/pico", SMALL | {"model.safetensors": content})
    with pytest.raises(Damaged, match=r"^model\.safetensors is"):
        inspect_peek(peek())


def test_a_file_that_is_shorter_than_the_hub_says_is_damaged(hub_server):
    hub_server.add("alice/pico", SMALL | {"model.safetensors": big(10, pad=100_000)})
    hub_server.fault(CDN, shorten=70_000)
    with pytest.raises(Damaged, match="header cannot be read"):
        inspect_peek(peek())


def test_a_small_file_that_is_enormous_is_not_fetched(hub_server, monkeypatch):
    monkeypatch.setattr(peeking, "_LIMIT", 1000)
    hub_server.add("alice/pico", SMALL | {"config.json": CONFIG + " " * 5000})
    with pytest.raises(Damaged, match=r"config\.json of alice/pico has"):
        peek()
    assert hub_server.requests("GET", "config.json") == []


# A Hub that misbehaves


def test_a_server_that_does_not_know_ranges_is_not_read_to_the_end(hub_server):
    hub_server.add("alice/pico", SMALL | {"model.safetensors": big(16_000_000, pad=100_000)})
    hub_server.fault(CDN, whole=True, pace=0.002)
    assert inspect_peek(peek()).parameters == 16_000_000
    requests = hub_server.requests("GET", CDN)
    assert [request.status for request in requests] == [200, 200]
    assert all(request.sent < 20_000_000 for request in requests)


def test_trouble_that_passes_is_not_noticed(hub_server):
    hub_server.add("alice/pico", SMALL)
    hub_server.fault(CDN, status=503, times=1)
    hub_server.fault(CDN, end="drop", after=20, times=1)
    hub_server.fault("/config.json", end="drop", times=1)
    assert inspect_peek(peek()).parameters == 100


@pytest.mark.parametrize("path", ["/api/models/", "/resolve/", CDN])
def test_a_hub_that_is_broken_is_said_to_be(hub_server, path):
    hub_server.add("alice/pico", SMALL)
    hub_server.fault(path, status=500)
    with pytest.raises(HubError, match=r"has a problem \(500\)"):
        peek()


def test_a_connection_that_falls_silent_is_given_up(hub_server, monkeypatch):
    monkeypatch.setattr(peeking, "_READ_SECONDS", 0.2)
    hub_server.add("alice/pico", SMALL)
    fault = hub_server.fault(CDN, end="stall", after=100)
    with pytest.raises(Offline):
        peek()
    assert len(hub_server.requests("GET", CDN)) == 3
    fault.times = 0
    assert inspect_peek(peek()).parameters == 100


@pytest.mark.parametrize("path", ["/revision/", "/auth-check", "/resolve/", CDN])
def test_progress_goes_on_while_the_hub_is_silent_and_closing_does_not_wait_for_it(hub_server, path):
    hub_server.add("alice/pico", SMALL, gated=True)
    hub_server.fault(path, end="stall")
    events = hub.peek(PICO, token=ALICE)
    begin = time.monotonic()
    beats = [next(events) for _ in range(5)]
    assert time.monotonic() - begin < 10
    assert all(isinstance(beat, Progress) and beat.phase is Phase.RESOLVE for beat in beats)
    begin = time.monotonic()
    events.close()
    assert time.monotonic() - begin < 5
    assert threads() == []


def sent_of(server):
    """Bytes that were sent of large files."""
    return sum(request.sent for request in server.requests("GET", CDN))


def test_closing_stops_what_trickles_in(hub_server):
    hub_server.add("alice/pico", SMALL | {"model.safetensors": big(16_000_000, pad=20_000_000)})
    hub_server.fault(CDN, pace=0.02)
    events = hub.peek(PICO, token=False)
    for _ in range(4):
        next(events)
    events.close()
    before, sent = -1, sent_of(hub_server)
    while sent != before:  # a server that is short of time sends what it has in hand a moment later
        time.sleep(0.5)
        before, sent = sent, sent_of(hub_server)
    assert sent < 5_000_000  # of 20 MB, which take 6 seconds at this pace


# Who may look


def test_a_gated_model_is_told_to_those_who_may_read_it(hub_server):
    hub_server.add("alice/pico", SMALL, gated=True, allowed={"bob"})
    with pytest.raises(AccessDenied, match="gated"):
        peek()
    assert inspect_peek(peek(token=BOB)).parameters == 100


def test_a_private_model_is_hidden_from_others(hub_server):
    hub_server.add("alice/pico", SMALL, private=True)
    for token in (False, BOB):
        with pytest.raises(NotFound):
            peek(token=token)
    assert inspect_peek(peek(token=ALICE)).parameters == 100
    with pytest.raises(NotFound):
        peek(ModelRef("hub", "alice/nothing"))


# Without the Hub


def test_without_the_hub_the_copy_in_the_cache_is_told(hub_server, monkeypatch):
    repo = hub_server.add("alice/pico", SMALL)
    folder = download()
    go_offline(monkeypatch)
    seen = peek()
    assert seen.folder == folder
    found = inspect_peek(seen)
    assert (found.model, found.commit, found.parameters) == ("alice/pico", repo.refs["main"], 100)


def test_without_the_hub_and_without_a_copy_it_says_so(monkeypatch):
    go_offline(monkeypatch)
    with pytest.raises(Offline):
        peek()


def test_the_copy_of_a_private_model_is_not_for_visitors(hub_server, monkeypatch):
    hub_server.add("alice/pico", SMALL, private=True)
    download(token=ALICE)
    with pytest.raises(StudioError):
        peek(token=BOB)
    with pytest.raises(StudioError):
        peek(shared=True)
    go_offline(monkeypatch)
    with pytest.raises(Offline):
        peek(shared=True)
    assert peek().folder
