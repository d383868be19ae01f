"""The machine: what it says about itself, and that jobs and their errors pass through the one door whole."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from studio import compute
from studio.errors import DoesNotFit, InputError

GIGABYTE = 10**9


def count(upto, log):
    try:
        yield from range(upto)
        raise InputError("That was all.", "Stop counting.")
    finally:
        log.append("let go")


def fail():
    yield "one"
    raise ZeroDivisionError


def nothing():
    yield from ()


@pytest.fixture(scope="module", autouse=True)
def _imported():
    list(compute.run(nothing))


def test_the_machine_is_what_torch_sees():
    import torch

    machine = compute.machine()
    assert machine is compute.machine()
    assert machine.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert machine.name
    assert machine.memory > compute.free_memory() > 0


def test_a_job_runs_and_its_error_arrives_with_its_words():
    log, events = [], []
    with pytest.raises(InputError) as caught:
        events.extend(compute.run(count, 3, log))
    assert (caught.value.message, caught.value.hint) == ("That was all.", "Stop counting.")
    assert log == ["let go"]


def test_a_bug_is_not_dressed_up():
    events = compute.run(fail)
    assert next(events) == "one"
    with pytest.raises(ZeroDivisionError):
        next(events)


def test_closing_a_job_lets_go_at_once():
    log = []
    events = compute.run(count, 3, log)
    assert next(events) == 0
    assert inspect.isgenerator(events)
    events.close()
    assert log == ["let go"]


def test_a_container_limits_the_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(compute, "_CGROUP", tmp_path)
    host = compute.free_ram()
    (tmp_path / "memory.max").write_text("max\n")
    assert compute._cgroup_limit() is None
    (tmp_path / "memory.max").write_text(f"{GIGABYTE}\n")
    (tmp_path / "memory.current").write_text(f"{GIGABYTE // 2}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GIGABYTE // 10}\n")
    assert compute._cgroup_limit() == GIGABYTE
    assert compute.free_ram() == min(GIGABYTE // 2 + GIGABYTE // 10, host)


def test_a_container_that_may_take_more_than_there_is_sets_no_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(compute, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(str(2**62))
    assert compute._cgroup_limit() is None


def test_memory_of_this_process_grows_and_comes_back():
    # In a process of its own: what an earlier test imports on a thread counts here too.
    script = """
import torch
from studio import compute

before = compute.process_memory()
tensors = [torch.ones(25_000) for _ in range(1000)]  # 100 MB of the heap, not of a mapping of its own
held = compute.process_memory() - before
tensors.clear()
compute.release()
print(held, compute.process_memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=300)
    held, left = map(int, done.stdout.split())
    assert held > 80_000_000
    assert left < 0.5 * held


def test_looking_at_the_machine_does_not_touch_the_random_state():
    import torch

    before = torch.random.get_rng_state()
    compute.machine.__wrapped__()
    compute.free_memory()
    compute.release()
    assert torch.equal(before, torch.random.get_rng_state())


def test_warming_up_imports_everything_on_a_thread_and_returns_at_once():
    script = """
import sys, threading, time
from studio import compute
start = time.monotonic()
compute.warm_up()
assert time.monotonic() - start < 2
assert "torch" not in sys.modules or threading.active_count() > 1
[thread.join() for thread in threading.enumerate() if thread.name == "studio-warm-up"]
assert set(compute._HEAVY) < set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_job_waits_for_the_imports_that_another_thread_is_at_and_says_so():
    # While transformers is imported on one thread, another one that asks it for a name is told that there is none.
    script = """
from studio import compute
from studio.events import Phase, Progress
def job():
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    yield "done"
compute.warm_up()
first, *_, last = compute.run(job)
assert first == Progress(Phase.WARM_UP)
assert last == "done"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_importing_compute_starts_nothing():
    script = "import sys, threading, studio.compute; sys.exit('torch' in sys.modules or threading.active_count() > 1)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_there_is_at_least_one_core():
    assert 1 <= compute.cores() <= 4096


def test_out_of_a_job_comes_any_studio_error():
    def job():
        yield from ()
        raise DoesNotFit("Too large.", "Take a smaller one.")

    with pytest.raises(DoesNotFit, match="Too large"):
        list(compute.run(job))


def test_the_most_that_a_process_held_is_its_own_and_not_that_of_who_started_it():
    held = bytearray(GIGABYTE)
    held[:: 1 << 12] = bytes(len(held[:: 1 << 12]))  # touched, so that it is really there
    script = "from studio import compute; print(compute.peak_memory())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert 50_000_000 < int(done.stdout) < len(held)
