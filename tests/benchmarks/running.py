"""What the benchmarks share: a studio in a process of its own, a model that never ends by itself, and medians."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
STARTER_SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}


def endless_model(folder: Path, **shape: int) -> Path:
    """A random model whose end-of-turn token is suppressed, so that a reply is as long as was asked for."""
    from pico import save_pico

    save_pico(folder, context=8192, **shape)
    config = folder / "generation_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"suppress_tokens": [content["eos_token_id"]]}))
    return folder


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(
    *arguments: str, port: int, workspace: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """Run Python with a page on `port`: the process, its address, and the seconds until the first HTTP 200."""
    env = os.environ | {
        "STUDIO_PORT": str(port),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": tempfile.mkdtemp(),
        # What is measured there belongs to nobody's own record.
        "STUDIO_WORKSPACE": str(workspace or tempfile.mkdtemp()),
    }
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        while not answers(url):
            if child.poll() is not None or time.perf_counter() - started > 120:
                raise RuntimeError(f"{arguments} did not open a page")
            time.sleep(0.01)
        yield child, url, time.perf_counter() - started
    finally:
        child.kill()
        child.wait()


def answers(url: str) -> bool:
    """Whether a page is there."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def told(name: str, values: list[float], unit: str) -> float:
    """Print a median with its range; return the median."""
    middle = statistics.median(values)
    print(f"{name:<46} {middle:8.2f} {unit:<9} (of {len(values)}, from {min(values):.2f} to {max(values):.2f})")
    return middle
