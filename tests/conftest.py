"""What every test may use: a pico model on disk, made here, and an environment that never reaches past this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub

    from studio.loading import LoadedModel

# Read when the libraries are imported, so set before any of them is.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Two processes with spinning OpenMP threads on two cores slow each other down twentyfold. Alone, spinning is faster, so
# only the tests ask for this, and not the studio.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(autouse=True)
def _no_real_hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every test begins with an empty cache and workspace, and its Hub is a closed port unless it starts its own."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path_factory.mktemp("workspace")))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 60 thousand weights, a byte-level tokenizer and a chat template."""
    from pico import save_pico

    return save_pico(tmp_path_factory.mktemp("models") / "pico")


@pytest.fixture
def broken(pico: Path, tmp_path: Path) -> Path:
    """A copy of the pico model for the test to break."""
    return Path(shutil.copytree(pico, tmp_path / "broken"))


@pytest.fixture(scope="session")
def loaded(pico: Path) -> LoadedModel:
    """The pico model in memory, in fp32. Whoever uses it leaves it as it was."""
    from pico import load_pico

    return load_pico(pico)


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty Hub on this machine, which the test fills with models and faults. It is the Hub of the test."""
    from loopback_hub import LoopbackHub

    from studio import hub

    with LoopbackHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        hub.forget_reach()
        yield server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
