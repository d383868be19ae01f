"""A run as code: a script that knows nothing of the studio and gets the same losses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from run_steps import losses, made, rows_file, small_run, worked_off

from studio import runs
from studio.errors import InputError

HARD = {
    "dropout": 0.1,
    "accumulation": 2,
    "lora_plus": 4.0,
    "neftune": 5.0,
    "weight_decay": 0.1,
    "most_steps": 8,
    "schedule": "cosine with a floor",
    "warmup": 0.25,
    "targets": "q_proj, down_proj",
    "rslora": True,
    "seed": 3,
}


def again(id_):
    """The losses that the script of a run prints, step by step, in a process of its own without the studio."""
    folder = runs.of(id_).folder
    done = subprocess.run(
        [sys.executable, "-I", "train.py"], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return {int(step): float(loss) for step, loss in re.findall(r"step (\d+)/\d+ loss (\S+)", done.stdout)}


@pytest.mark.parametrize("settings", [HARD, {"packing": True, "method": "dora", "most_steps": 6, "dropout": 0.0}])
def test_the_script_of_a_run_gets_the_same_losses(pico, tmp_path, settings):
    id_ = made(pico, tmp_path, **settings)
    worked_off(id_)
    told = {int(name.split()[1]): loss for name, loss in losses(id_).items() if name.startswith("Stepped")}
    found = again(id_)
    assert found.keys() == told.keys()
    assert len(found) == settings["most_steps"]
    assert len(set(found.values())) == len(found)
    for step, loss in told.items():
        assert found[step] == pytest.approx(loss, abs=1e-5)


def test_the_script_imports_nothing_of_the_studio(pico, tmp_path):
    id_ = made(pico, tmp_path, most_steps=1)
    with pytest.raises(InputError, match="not begun to learn"):
        runs.code(id_)
    worked_off(id_)
    tree = ast.parse(runs.code(id_))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert tops == {"numpy", "torch", "datasets", "peft", "transformers"}


def test_a_run_that_no_script_can_do_says_so_instead(pico, tmp_path):
    run = small_run(pico, most_steps=1)
    run = replace(run, settings=replace(run.settings, new_tokens="<|new|>"))
    id_ = runs.create(run, [rows_file(tmp_path)])
    worked_off(id_)
    said = ast.get_docstring(ast.parse(runs.code(id_)))
    assert "new tokens '<|new|>'" in said
    assert "python -m studio train" in said
