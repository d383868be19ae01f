"""The house: imports only go down, each neighbour has one door, and the rules of its style that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "studio").rglob("*.py"), ROOT / "app.py"])
TREES = {str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}

# From the ground up: what everyone says, the world outside, what the studio can do, who has the model, what is touched.
FLOORS = {
    "vocabulary": ["errors", "events", "fields", "models", "heartbeat", "child", "disk"],
    "neighbours": ["hub", "compute", "settings"],
    "features": [
        *("tokenizer", "memory", "loading", "checkpoint", "dataset", "training", "adapters", "merging", "generation"),
        *("evaluation", "publishing", "advice", "doctor", "conversion", "gguf", "inspection", "four_bit", "keeping"),
        *("quality", "speed", "exporting"),
    ],
    "jobs": ["jobs", "session", "runs", "merges", "uploads"],
    "faces": ["app", "cli", "ui", "__main__"],
}
FLOOR = {module: number for number, modules in enumerate(FLOORS.values()) for module in modules}
DOORS = {"gradio": "studio/ui/", "spaces": "studio/compute.py", "huggingface_hub": "studio/hub/"}
HEAVY = ["torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate", "trl", "safetensors"]


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere, `from studio import hub` as studio.hub."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: str) -> str:
    """The name of a file or package on its floor; empty for the package of the studio itself."""
    parts = Path(path).with_suffix("").parts
    return parts[0] if parts[0] == "app" else "" if parts[1] == "__init__" else parts[1]


def outside(floor_of: dict[str, int], path: str, tree: ast.AST) -> list[str]:
    """Imports of the studio that climb."""
    names = [name.split(".")[1] for name in imports(tree) if name.startswith("studio.")]
    return [name for name in names if floor_of[name] > floor_of[module_of(path)]]


def own_yields(node: ast.AST) -> bool:
    """Whether a yield is in here that is not of a function in here."""
    return any(
        isinstance(child, ast.Yield | ast.YieldFrom) or own_yields(child)
        for child in ast.iter_child_nodes(node)
        if not isinstance(child, ast.FunctionDef | ast.Lambda)
    )


def test_every_module_has_a_floor():
    assert {module_of(path) for path in TREES} - {""} <= set(FLOOR)


@pytest.mark.parametrize("path", [path for path in TREES if module_of(path)])
def test_imports_only_go_down(path):
    assert outside(FLOOR, path, TREES[path]) == []


def test_an_import_that_climbs_would_be_found():
    text = (
        "def f():\n    from studio import jobs\n    import studio.ui.layout\n    from studio.errors import InputError"
    )
    tree = ast.parse(text)
    assert outside(FLOOR, "studio/loading.py", tree) == ["jobs", "ui"]


@pytest.mark.parametrize(("package", "door"), DOORS.items())
def test_a_neighbour_has_one_door(package, door):
    users = [path for path, tree in TREES.items() if package in {name.split(".")[0] for name in imports(tree)}]
    assert users
    assert [path for path in users if not path.startswith(door)] == []


def test_the_app_knows_the_studio_alone():
    assert {name.split(".")[0] for name in imports(TREES["app.py"])} == {"__future__", "studio", "sys"}


@pytest.mark.parametrize("modules", ["studio.cli, studio.jobs, studio.doctor", "studio.ui.layout"])
def test_no_heavy_library_is_imported_before_it_is_needed(modules):
    script = f"import sys, {modules}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == []


def test_exactly_one_function_goes_to_the_gpu():
    decorated = [
        (path, node.name)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any("spaces.GPU" in ast.unparse(d) for d in node.decorator_list)
    ]
    assert decorated == [("studio/compute.py", "_on_gpu")]


def yields_in_torch(tree: ast.AST) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and own_yields(node)
        if any(ast.unparse(item.context_expr).startswith("torch.") for item in node.items)
    ]


def test_nothing_is_yielded_within_a_context_of_torch():
    # Such a context belongs to a thread, and Gradio goes on with a generator on another one.
    assert {path: lines for path, tree in TREES.items() if (lines := yields_in_torch(tree))} == {}


def test_a_yield_within_a_context_of_torch_would_be_found():
    text = "def f():\n    with open('x'), torch.inference_mode():\n        for x in y:\n            {}"
    assert yields_in_torch(ast.parse(text.format("yield x"))) == [2]
    assert yields_in_torch(ast.parse(text.format("def g():\n                yield x"))) == []


@pytest.mark.parametrize("path", TREES)
def test_a_module_is_short_enough_to_be_read(path):
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 400


def test_no_module_is_a_drawer_for_everything():
    drawers = {"utils", "util", "common", "helpers", "constants", "types", "base", "misc", "core", "manager"}
    assert [path for path in TREES if Path(path).stem in drawers] == []


def blind(handler: ast.ExceptHandler) -> bool:
    """Catches everything, and does not pass on what it did not mean."""
    caught = ast.unparse(handler.type) if handler.type else "BaseException"
    names = set(caught.strip("()").split(", "))
    passes_on = any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))
    return "Exception" in names or ("BaseException" in names and not passes_on)


def test_whatever_may_happen_is_caught_in_one_place():
    handlers = [(path, n) for path, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)]
    assert [path for path, handler in handlers if blind(handler)] == ["studio/ui/handlers.py"]


def test_no_failure_is_swallowed_in_silence():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                assert not all(isinstance(step, ast.Pass) for step in node.body), f"{path}:{node.lineno}"


def test_only_the_command_line_prints():
    printing = {
        path
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    }
    assert {path.rpartition("/")[0] for path in printing} == {"studio/cli"}


@pytest.mark.parametrize("path", TREES)
def test_every_module_says_what_it_owns(path):
    assert ast.get_docstring(TREES[path])
