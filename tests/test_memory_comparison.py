"""The table that compares estimates says what is right, and says it of others as they are installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def estimates(monkeypatch):
    """The script, in this process, which has imported everything already."""
    from accelerate.commands import estimate

    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(estimate, "verify_on_hub", estimate.verify_on_hub)  # the script sets it; put back afterwards
    script = importlib.import_module("estimates")
    monkeypatch.setattr(script, "CONTEXT", 4096)
    # Few layers: what is true and what is said of them repeats, and building them is what takes time.
    for name, field in (
        ("qwen3-0.6b", "num_hidden_layers"),
        ("deepseek-v3, small", "num_hidden_layers"),
        ("gpt2", "n_layer"),
    ):
        monkeypatch.setitem(script.MODELS, name, script.MODELS[name] | {field: 3})
    return script


def test_the_studio_is_right_where_others_are_not(estimates, capsys):
    estimates.main(["qwen3-0.6b", "deepseek-v3, small", "gpt2"], None)
    rows = [line.rsplit(maxsplit=11) for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[0].strip() for row in rows] == ["qwen3-0.6b", "deepseek-v3, small", "gpt2"]
    for _, _, _, headers, weights, _, _, nf4, _, _, _, cache in rows:
        assert [headers, weights, nf4, cache] == ["1.000"] * 4
    # accelerate builds DeepSeek without its head, and takes every weight of Qwen3 for 4 bit; hf-mem knows no latent
    # layers, and does not find the sizes of GPT-2.
    assert float(rows[1][2]) < 0.9
    assert float(rows[0][6]) < 0.6
    assert float(rows[1][10]) > 5
    assert rows[2][10] == "–"
