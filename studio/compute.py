"""Where the work runs: ZeroGPU, a GPU, or the CPU. Nothing else asks, and only this module knows `spaces`."""

from __future__ import annotations

import importlib
import logging
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import spaces

from studio.errors import StudioError
from studio.events import Phase, Progress
from studio.heartbeat import heartbeat

Event = TypeVar("Event")
Device = Literal["cuda", "mps", "cpu"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine can do. Ask it about capabilities, never for its name."""

    device: Device
    name: str
    memory: int
    """Bytes that the device has in all."""
    has_bf16: bool
    """The hardware computes in bf16 itself, rather than by way of fp32."""


_HEAVY = ("torch", "transformers", "peft")
_IMPORTING, _IMPORTED = threading.Lock(), threading.Event()


def prepare() -> None:
    """Before the page opens: on ZeroGPU import everything now, since each GPU call is a fork that inherits it."""
    if spaces.config.Config.zero_gpu:
        _import_heavy()


def warm_up() -> None:
    """After the page has opened: import everything on a thread, so that the first model need not wait for it."""
    threading.Thread(target=_import_heavy, name="studio-warm-up", daemon=True).start()


def _import_heavy() -> None:
    # One thread at a time: asked for a name while another thread imports it, transformers says it has no such name.
    with _IMPORTING:
        if _IMPORTED.is_set():
            return
        machine()
        for name in _HEAVY:
            importlib.import_module(name)
        # transformers and peft import their parts when they are first asked for.
        importlib.import_module("transformers.models.auto.modeling_auto")
        importlib.import_module("transformers.generation.utils")
        _IMPORTED.set()


def imports() -> Iterator[Progress]:
    """Wait until the heavy libraries are imported; `Progress(Phase.WARM_UP)` every 0.1 seconds, none where they are.

    Whatever uses them on a thread waits here first.
    """
    if not _IMPORTED.is_set():
        yield from heartbeat(lambda _say, _stop: _import_heavy(), lambda _said: [Progress(Phase.WARM_UP)], every=0.1)


@cache
def machine() -> Machine:
    """Look at this machine once. Imports torch, so it takes seconds the first time.

    On ZeroGPU the card can be asked only inside a GPU call.
    """
    # It warns at import of kernels that nobody asked for, and in int8 once for every layer and token.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Machine("cuda", properties.name, properties.total_memory, has_bf16=properties.major >= 8)
    if torch.backends.mps.is_available():
        return Machine("mps", "Apple GPU", int(torch.mps.recommended_max_memory()), has_bf16=True)
    # torch answers for x86; Arm kernels of torch use bf16 where the CPU has it and emulate it elsewhere.
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or "bf16" in _cpu_field("Features").split()
    return Machine("cpu", _cpu_field("model name") or "CPU", _cgroup_limit() or _host_memory()[0], has_bf16=has_bf16)


def free_memory() -> int:
    """Bytes that can still be taken on the device that models run on."""
    import torch

    if machine().device == "cuda":
        # What torch has reserved and does not use is free for the next model too.
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0] + unused)
    if machine().device == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return free_ram()


@dataclass(frozen=True, slots=True)
class Room:
    """A device that can hold weights, cuda:0 or cpu, and the bytes that are free on it."""

    device: str
    free: int


def rooms() -> list[Room]:
    """Every device that can hold weights, the one that computes first and the main memory last."""
    import torch

    if machine().device == "cpu":
        return [Room("cpu", free_ram())]
    if machine().device == "mps":
        return [Room("mps", free_memory()), Room("cpu", free_ram())]
    cards = []
    for index in range(torch.cuda.device_count()):
        unused = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
        cards.append(Room(f"cuda:{index}", int(torch.cuda.mem_get_info(index)[0] + unused)))
    return [*cards, Room("cpu", free_ram())]


def free_ram() -> int:
    """Bytes of main memory that can still be taken, within the limit of the container where there is one."""
    _, available = _host_memory()
    limit = _cgroup_limit()
    if limit is None:
        return available
    used = _cgroup_number("memory.current") or 0
    reclaimable = next((int(n) for k, n in _cgroup_stat() if k == "inactive_file"), 0)
    return min(available, limit - used + reclaimable)


def process_memory() -> int:
    """Bytes of main memory that this process holds for itself: what would come free if it ended."""
    import psutil

    return int(psutil.Process().memory_full_info().uss)


def peak_memory() -> int:
    """The most bytes so far: of this process on a CPU, of what torch handed out on a GPU."""
    import torch

    if machine().device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if machine().device == "mps":
        return int(torch.mps.driver_allocated_memory())
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says there may be the most of the process that started this one
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line[:6] == "VmHWM:")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)  # kilobytes but on a Mac


def release() -> None:
    """Give memory that nothing refers to any more back to the machine."""
    import gc

    gc.collect()
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif machine().device == "mps":
        torch.mps.empty_cache()
    else:
        _trim_heap()


def _trim_heap() -> None:
    """Hand freed heap pages back: glibc keeps them, and an unloaded model would seem to stay."""
    import ctypes
    import ctypes.util

    if (name := ctypes.util.find_library("c")) and hasattr(libc := ctypes.CDLL(name), "malloc_trim"):
        libc.malloc_trim(0)


@dataclass(frozen=True, slots=True)
class _Raised:
    """A StudioError on its way out of a GPU worker, which would let only the name of its class through."""

    error: StudioError


@spaces.GPU(duration=lambda _job, _arguments, seconds: seconds)  # type: ignore[untyped-decorator]
def _on_gpu(job: Callable[..., Iterator[Any]], arguments: tuple[Any, ...], seconds: int) -> Iterator[Any]:
    """The one way to the GPU. Each decorated function forks its own worker, and those would not share a model."""
    del seconds  # read by the decorator
    try:
        yield from job(*arguments)
    except StudioError as error:
        yield _Raised(error)


def run(job: Callable[..., Iterator[Event]], *arguments: Any, seconds: int = 60) -> Iterator[Event | Progress]:
    """Run a generator function of module level on the accelerator and yield its events.

    Where the libraries are not imported yet, that comes first, as `Progress(Phase.WARM_UP)` every 0.1 seconds.

    `job`, its arguments and its events are pickled on ZeroGPU. `seconds` is what the call asks the shared GPU for.
    """
    yield from imports()
    events = _on_gpu(job, arguments, seconds)
    try:
        for event in events:
            if isinstance(event, _Raised):
                raise event.error
            yield event
    finally:
        events.close()  # at once, so that a stopped job lets go of the model before anybody asks for it again


def _host_memory() -> tuple[int, int]:
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def _cpu_field(name: str) -> str:
    """The first value of a field of /proc/cpuinfo; empty where there is none."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


_CGROUP = Path("/sys/fs/cgroup")


def _cgroup_number(name: str) -> int | None:
    file = _CGROUP / name
    text = file.read_text().strip() if file.exists() else "max"
    return int(text) if text.isdigit() else None


def _cgroup_limit() -> int | None:
    """Bytes that the container may take; None where there is no limit below the host's own memory."""
    limit = _cgroup_number("memory.max")
    return limit if limit and limit < _host_memory()[0] else None


def _cgroup_stat() -> list[tuple[str, str]]:
    file = _CGROUP / "memory.stat"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(key, value) for key, _, value in (line.partition(" ") for line in lines)]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
