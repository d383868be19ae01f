"""The script that holds dry runs against published measurements takes any table of its form."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pytest

from studio.errors import Unsupported

BENCHMARKS = Path(__file__).parent / "benchmarks"
READ = {
    "source": "a", "hardware": "H20 96GB", "model": "HuggingFaceTB/SmolLM2-135M", "method": "inference generate 2048",
    "framework": "transformers", "batch": "1", "seq": "in 6144 + 2048", "dtype": "BF16", "autocast": "", "ckpt": "",
    "optimizer": "", "stack": "torch2.6.0", "metric": "GPU memory MB (=MiB)", "value": "500",
}  # fmt: skip
TRAINED = READ | {
    "method": "lora r16 qkvo", "seq": "512 packed", "dtype": "bfloat16", "ckpt": "yes", "optimizer": "adamw_torch",
    "metric": "torch peak allocated bytes", "value": "1000000000",
}  # fmt: skip
BROKEN = {
    "is not in published_models.json": {"model": "nobody/Knows-7B"},
    "its adapter is not in published_adapters.json": {"method": "newtuner/llama"},
    "'prefix tuning' is not known": {"method": "prefix tuning"},
    "no number": {"seq": "long"},
    "could not convert": {"value": "much"},
    "the value is -1": {"value": "-1"},
    "names no unit": {"metric": "peak"},
    "nvidia-smi": {"metric": "nvidia-smi MiB"},
    "invalid literal": {"batch": ""},
    "int7": {"dtype": "int7"},
}


@pytest.fixture
def published(monkeypatch):
    """The script, as a module."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("published")


def table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, READ)
        writer.writeheader()
        writer.writerows(rows)
        file.write("\na line,that is cut\n")
    return path


def test_a_row_that_is_not_known_is_named_and_the_others_are_read(published, tmp_path, capsys):
    broken = [*(TRAINED | changes for changes in BROKEN.values()), READ | {"dtype": "AWQ"}]
    read = published.read(table(tmp_path / "table.csv", [TRAINED, *broken, READ]))
    left_out = capsys.readouterr().out.splitlines()
    assert len(left_out) == len(broken) + 1
    for number, (words, line) in enumerate(zip([*BROKEN, "'AWQ' are not known"], left_out, strict=False), 3):
        assert line.startswith(f"left out: line {number}, ")
        assert words in line
    assert [(row.kind, row.bytes, row.step.tokens) for row in read] == [
        ("training", 10**9, 512),
        ("inference", 500 << 20, 6144 + 2047),
    ]


def test_a_row_that_cannot_be_carried_out_counts_as_missed(published, tmp_path, capsys, monkeypatch):
    def refuses(step):
        raise Unsupported("Not this one.", "Another.")

    monkeypatch.setattr(published, "carried_out", refuses)
    published.main(table(tmp_path / "table.csv", [TRAINED]), "")
    out = capsys.readouterr().out
    assert "failed: Not this one." in out
    assert out.splitlines()[-1].startswith("H20 96GB training: 1 rows, 0 within 0.5 %")
