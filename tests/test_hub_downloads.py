"""Downloads from a Hub on this machine: what they bring, and how they go on after trouble that is really caused."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from hub_steps import CDN, PICO, children, download, first_bytes, partial_files
from loopback_hub.samples import CONFIG, LARGE, SMALL, weights

from studio import hub
from studio.errors import (
    Damaged,
    DoesNotFit,
    HubError,
    Unsupported,
)
from studio.events import Phase, Progress
from studio.hub import downloading
from studio.models import ModelRef


def eventually(true: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Fetching


def test_a_download_brings_what_loading_needs_and_says_how_far_it_is(hub_server):
    extra = {
        "README.md": "# Pico",
        "LICENSE": "free",
        "additional_chat_templates/tool.jinja": "{{ x }}",
        "tokenizer.model": "sp",
    }
    useless = {
        "pytorch_model.bin": b"x",
        "modeling.py": "1",
        "model.gguf": b"x",
        "onnx/model.onnx": b"x",
        "original/params.json": "{}",
        "consolidated.safetensors": weights(1),
    }
    hub_server.add("alice/pico", LARGE | extra | useless)
    hub_server.fault(CDN, pace=0.03)
    events, times = [], []
    for event in hub.download(PICO, token=False):
        events.append(event)
        times.append(time.monotonic())
    first, *moved, last = events
    assert first == Progress(Phase.RESOLVE)
    assert {path.relative_to(last.result).as_posix() for path in last.result.rglob("*") if path.is_file()} == {
        *LARGE,
        *extra,
    }
    assert {event.total for event in moved} == {hub.facts(PICO, token=False).download_bytes}
    done = [event.done for event in moved]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert done[-1] == moved[-1].total
    assert max(after - before for before, after in itertools.pairwise(times)) < 1.0
    assert (last.result / "model.safetensors").read_bytes() == LARGE["model.safetensors"]


def test_a_model_that_is_here_is_found_without_fetching_anything(hub_server):
    hub_server.add("alice/pico", SMALL)
    folder = download()
    hub_server.log.clear()
    begin = time.monotonic()
    assert download() == folder == hub.cached(PICO)
    assert time.monotonic() - begin < 5
    assert [seen.path for seen in hub_server.log] == ["/api/models/alice/pico/revision/main"]


def test_a_new_commit_brings_only_what_changed_and_needs_no_more_room_than_that(hub_server, monkeypatch):
    repo = hub_server.add("alice/pico", SMALL)
    old = download()
    new_commit = repo.commit(SMALL | {"config.json": CONFIG + " "})
    hub_server.log.clear()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200))
    new = download()
    assert new.name == new_commit == hub.cached(PICO).name
    assert new != old == hub.cached(ModelRef("hub", "alice/pico", old.name))
    assert not hub_server.requests("GET", CDN)


def test_a_sharded_checkpoint_and_an_adapter_are_downloaded_whole(hub_server):
    index = json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    )
    shards = {f"model-0000{n}-of-00002.safetensors": weights(n) for n in (1, 2)}
    sharded = {"config.json": CONFIG, "model.safetensors.index.json": index} | shards
    hub_server.add("alice/pico", sharded)
    assert {path.name for path in download().iterdir()} == set(sharded)
    adapter = {"adapter_config.json": "{}", "adapter_model.safetensors": weights(3)}
    hub_server.add("alice/adapter", adapter)
    assert {path.name for path in download(ModelRef("hub", "alice/adapter")).iterdir()} == set(adapter)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": CONFIG, "pytorch_model.bin": b"x"}, "only as pickle.*Convert it"),
        ({"config.json": CONFIG, "pico.Q4_K_M.gguf": b"x"}, "only as GGUF"),
        ({"config.json": CONFIG, "tf_model.h5": b"x"}, r"only as \.h5"),
        ({"config.json": CONFIG, "training_args.bin": b"x"}, "has no weights"),
        ({"model_index.json": "{}", "unet/model.safetensors": weights(1)}, "not a text model"),
        ({"model.safetensors": weights(1)}, r"no config\.json"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused_before_it_is_downloaded(hub_server, files, words):
    hub_server.add("alice/pico", files)
    with pytest.raises(Unsupported, match=words):
        download()
    assert not hub_server.requests(path="/resolve/")


def test_two_downloads_of_one_model_fetch_it_once(hub_server):
    hub_server.add("alice/pico", LARGE)
    hub_server.fault(CDN, pace=0.03)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(download())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert len(set(folders)) == 1
    assert len(hub_server.requests("GET", CDN)) == 1


def test_a_download_takes_over_from_another_one_that_is_stopped(hub_server):
    hub_server.add("alice/pico", LARGE)
    slow = hub_server.fault(CDN, pace=0.3)
    first, second = first_bytes(), first_bytes()
    assert len(hub_server.requests("GET", CDN)) == 1
    slow.times = 0
    first.close()
    *_, last = second
    assert (last.result / "model.safetensors").read_bytes() == LARGE["model.safetensors"]
    assert "range" in hub_server.requests("GET", CDN)[-1].headers


# Going on after trouble


def test_a_cut_connection_is_taken_up_where_it_broke(hub_server):
    hub_server.add("alice/pico", LARGE)
    hub_server.fault(CDN, end="drop", after=400_000, times=1)
    assert (download() / "model.safetensors").read_bytes() == LARGE["model.safetensors"]
    first, second = hub_server.requests("GET", CDN)
    assert "range" not in first.headers
    assert 0 < int(second.headers["range"].removeprefix("bytes=").rstrip("-")) <= 400_000


def test_a_server_that_cannot_resume_sends_the_file_again_and_it_is_whole(hub_server):
    hub_server.add("alice/pico", LARGE)
    hub_server.fault(CDN, end="drop", after=400_000, times=1)
    hub_server.fault(CDN, whole=True)
    assert (download() / "model.safetensors").read_bytes() == LARGE["model.safetensors"]
    assert hub_server.requests("GET", CDN)[-1].sent == len(LARGE["model.safetensors"])


def test_a_server_problem_in_between_is_waited_out_and_a_lasting_one_told(hub_server):
    hub_server.add("alice/pico", SMALL)
    hub_server.fault(CDN, status=503, times=1)
    assert download()
    hub_server.add("alice/other", SMALL | {"model.safetensors": weights(7)})
    hub_server.fault("/_cdn/alice/other", status=429, headers={"retry-after": "120"})
    begin = time.monotonic()
    with pytest.raises(HubError, match="in 120 seconds"):
        download(ModelRef("hub", "alice/other"))
    assert time.monotonic() - begin < 15


def test_a_stall_ends_the_download_and_the_next_one_resumes(hub_server, monkeypatch):
    monkeypatch.setattr(downloading, "STALL_SECONDS", 1.5)
    hub_server.add("alice/pico", LARGE)
    stall = hub_server.fault(CDN, end="stall", after=400_000)
    with pytest.raises(HubError, match=r"Nothing of alice/pico arrived for 1\.5 seconds.*goes on where it stopped"):
        download()
    assert not children()
    (kept,) = partial_files()
    had = kept.stat().st_size
    assert had > 0
    stall.times = 0
    download()
    assert hub_server.requests("GET", CDN)[-1].headers["range"] == f"bytes={had}-"


def test_a_closed_download_stops_at_once_and_the_next_one_resumes(hub_server):
    hub_server.add("alice/pico", LARGE)
    slow = hub_server.fault(CDN, pace=0.3)
    events = first_bytes()
    (child,) = children()
    begin = time.monotonic()
    events.close()
    assert time.monotonic() - begin < 3
    assert not child.is_running()
    (kept,) = partial_files()
    had = kept.stat().st_size
    assert had > 0
    slow.times = 0
    hub_server.log.clear()
    *moved, _ = hub.download(PICO, token=False)
    (resumed,) = hub_server.requests("GET", CDN)
    assert resumed.headers["range"] == f"bytes={had}-"
    assert resumed.sent == len(LARGE["model.safetensors"]) - had
    assert moved[-1].done == moved[-1].total
    assert not partial_files()


def test_a_download_does_not_outlive_a_studio_that_is_killed(hub_server):
    hub_server.add("alice/pico", LARGE)
    hub_server.fault(CDN, end="stall", after=400_000)
    script = "from studio import hub, models; print(*hub.download(models.ModelRef('hub', 'alice/pico'), token=False))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as studio:
        eventually(lambda: hub_server.requests("GET", CDN))
        (child,) = psutil.Process(studio.pid).children()
        studio.send_signal(signal.SIGKILL)
    child.wait(5)


def test_a_download_process_that_is_killed_is_an_error_that_can_be_tried_again(hub_server):
    hub_server.add("alice/pico", LARGE)
    slow = hub_server.fault(CDN, pace=0.3)
    with closing(first_bytes()) as events:
        children()[0].kill()
        with pytest.raises(HubError, match="broke off"):
            list(events)
    slow.times = 0
    assert download()


def test_a_file_that_the_hub_has_cut_short_is_refused_and_heals(hub_server):
    hub_server.add("alice/pico", LARGE)
    short = hub_server.fault(CDN, shorten=1000)
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        download()
    assert not partial_files()
    assert hub.cached(PICO) is None
    short.times = 0
    assert (download() / "model.safetensors").read_bytes() == LARGE["model.safetensors"]


def test_a_partial_file_with_wrong_bytes_is_found_out_and_heals(hub_server):
    hub_server.add("alice/pico", LARGE)
    slow = hub_server.fault(CDN, pace=0.3)
    first_bytes().close()
    slow.times = 0
    (kept,) = partial_files()
    kept.write_bytes(b"?" * kept.stat().st_size)
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        download()
    assert download()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_truncated_file_in_the_cache_is_fetched_again(hub_server, name):
    hub_server.add("alice/pico", SMALL)
    file = download() / name
    os.truncate(file, 5)
    assert hub.cached(PICO) is None
    download()
    assert file.read_bytes() == (SMALL[name] if isinstance(SMALL[name], bytes) else SMALL[name].encode())


def test_a_model_too_large_for_the_disk_is_refused_with_both_numbers(hub_server, monkeypatch):
    hub_server.add("alice/pico", LARGE)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(DoesNotFit, match=r"needs 1\.2 MB more .* which has 1\.0 MB free"):
        download()
    assert not hub_server.requests(path="/resolve/")


def fill(file: Path) -> None:
    """Write to a file until its disk is full."""
    with suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)


def test_a_disk_that_fills_up_ends_the_download_and_the_next_one_resumes(hub_server, small_disk, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(small_disk))
    hub_server.add("alice/pico", LARGE)
    slow = hub_server.fault(CDN, pace=0.3)
    with closing(first_bytes()) as events:
        filler = small_disk / "filler"
        fill(filler)
        with pytest.raises(DoesNotFit, match="filled up"):
            list(events)
    (kept,) = partial_files()
    had = kept.stat().st_size
    assert had > 0
    filler.unlink()
    slow.times = 0
    assert download()
    assert hub_server.requests("GET", CDN)[-1].headers["range"] == f"bytes={had}-"
