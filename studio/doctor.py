"""What this machine can do and what is wrong with it: a check a line, each with a verdict and, where needed, a fix."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata

from studio import compute, hub, speed
from studio.settings import REQUIREMENTS, STARTER_FOLDER

DISK_WANTED = 10_000_000_000
"""Bytes: room for one model of a few billion weights and its merged copy."""
MEMORY_WANTED = 2_000_000_000
"""Bytes: room for the libraries, the page and a small model."""
NF4_ERROR_LIMIT = 0.2
"""Relative error of normal random weights after NF4 and back. Theory and measurement say about 0.09."""


class Verdict(StrEnum):
    """How a check came out."""

    FINE = "fine"
    NOTE = "note"  # works, with a limit worth knowing
    WRONG = "wrong"  # something will not work


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. `fix` is empty only where nothing needs one."""

    name: str
    found: str
    verdict: Verdict = Verdict.FINE
    fix: str = ""


def examine() -> Iterator[Check]:
    """Look at everything, cheapest first. Imports the heavy libraries and asks the Hub, so it takes some seconds."""
    yield _python()
    yield from _packages()
    yield from _device()
    yield _bitsandbytes()
    yield _memory()
    yield _disk()
    yield _starter()
    yield _speed()
    yield _hub()


def _python() -> Check:
    found = sys.version.split()[0]
    if sys.version_info < (3, 11):  # noqa: UP036 - a doctor is asked when something is wrong
        return Check("Python", found, Verdict.WRONG, "Install Python 3.11 or 3.12.")
    return Check("Python", found)


def _packages() -> Iterator[Check]:
    """Every package of requirements.txt against its range."""
    from packaging.requirements import Requirement

    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        wanted = Requirement(line)
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Check(wanted.name, "missing", Verdict.WRONG, f'Run: pip install "{line}"')
            continue
        if wanted.specifier.contains(found, prereleases=True):
            yield Check(wanted.name, found)
        else:
            yield Check(wanted.name, f"{found}, not {wanted.specifier}", Verdict.WRONG, f'Run: pip install "{line}"')


def _device() -> Iterator[Check]:
    machine = compute.machine()
    if machine.device == "cpu":
        yield Check("Device", f"CPU with {compute.cores()} cores: {machine.name}", Verdict.NOTE, _SMALL_MODELS)
    else:
        yield Check("Device", f"{machine.device}: {machine.name}, {machine.memory / 1e9:.1f} GB")
    if machine.has_bf16:
        yield Check("bf16", "computed by the hardware")
    else:
        fix = "fp16 is used instead." if machine.device == "cuda" else "fp32 is used instead; bf16 works, slowly."
        yield Check("bf16", "not in the hardware", Verdict.NOTE, fix)


_SMALL_MODELS = "Everything works. Models up to about 1 B parameters are pleasant; for larger ones use a GPU."


def _bitsandbytes() -> Check:
    """Quantize for real: an import proves nothing."""
    import torch

    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except (ImportError, OSError, RuntimeError) as error:
        return Check("bitsandbytes", f"cannot be imported: {error}", Verdict.WRONG, "Run: pip install -U bitsandbytes")
    weights = torch.randn(64, 64, device=compute.machine().device)
    packed, state = quantize_4bit(weights, quant_type="nf4")
    lost = float((dequantize_4bit(packed, state) - weights).norm() / weights.norm())
    found = f"NF4 on {compute.machine().device}, relative error {lost:.3f}"
    if lost > NF4_ERROR_LIMIT:
        return Check(
            "bitsandbytes", found, Verdict.WRONG, "The backend computes wrongly. Run: pip install -U bitsandbytes"
        )
    return Check("bitsandbytes", found)


def _memory() -> Check:
    free = compute.free_memory()
    found = f"{free / 1e9:.1f} GB free of {compute.machine().memory / 1e9:.1f} GB"
    if free < MEMORY_WANTED:
        return Check("Memory", found, Verdict.NOTE, "Close other programs; only the smallest models fit.")
    return Check("Memory", found)


def _disk() -> Check:
    folder = hub.cache_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.1f} GB free where downloads go"
    if free < DISK_WANTED:
        return Check("Disk", found, Verdict.NOTE, "Free some room, or set HF_HOME to a folder on a larger disk.")
    return Check("Disk", found)


def _starter() -> Check:
    file = STARTER_FOLDER / "model.safetensors"
    # A clone without Git LFS or a broken download leaves a small text file in place of the weights.
    if not file.is_file() or file.stat().st_size < 1_000_000:
        return Check("Starter model", "missing", Verdict.WRONG, "Clone the repository again; the model is part of it.")
    return Check("Starter model", f"{file.stat().st_size / 1e6:.1f} MB, needs no network")


def _speed() -> Check:
    """What a precision costs in speed here: a small model writes, and reads a prompt."""
    work = speed.measure()
    while True:
        try:
            next(work)
        except StopIteration as done:
            found = done.value
            break
    told = ", ".join(f"{each.precision} {each.writing:,.0f} ({each.reading:,.0f})" for each in found)
    return Check("Speed", f"the starter writes (reads) tokens a second: {told}")


def _hub() -> Check:
    hub.forget_reach()
    reach = hub.reach()
    if reach.reachable:
        return Check("Hub", f"{reach.endpoint} answers in {reach.seconds * 1000:.0f} ms")
    return Check("Hub", f"{reach.endpoint}: {reach.why}", Verdict.NOTE, _OFFLINE)


_OFFLINE = "Models that are on this machine work. For others connect to the network, or set HF_ENDPOINT to a mirror."
