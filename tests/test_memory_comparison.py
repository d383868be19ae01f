"""The table that compares estimates says what is right, and says it of others as they are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "benchmarks" / "estimates.py"


def test_the_studio_is_right_where_others_are_not():
    command = [sys.executable, str(SCRIPT), "qwen3-0.6b", "deepseek-v3, small", "gpt2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(maxsplit=11) for line in done.stdout.splitlines()[3:]]
    assert [row[0].strip() for row in rows] == ["qwen3-0.6b", "deepseek-v3, small", "gpt2"]
    for _, _, _, headers, weights, _, _, nf4, _, _, _, cache in rows:
        assert [headers, weights, nf4, cache] == ["1.000"] * 4
    # accelerate builds DeepSeek without its head, and takes every weight of Qwen3 for 4 bit; hf-mem knows no latent
    # layers, and does not find the sizes of GPT-2.
    assert float(rows[1][2]) < 0.9
    assert float(rows[0][6]) < 0.6
    assert float(rows[1][10]) > 5
    assert rows[2][10] == "–"
