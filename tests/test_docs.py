"""The README says what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

ROOT = Path(__file__).parent.parent
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_map_matches_the_tree() -> None:
    mapped = set(re.findall(r"^  ([\w/]+\.py)", README, re.MULTILINE))
    real = {str(p.relative_to(ROOT / "studio")) for p in (ROOT / "studio").rglob("*.py") if p.name != "__init__.py"}
    assert mapped == real


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    assert [picture for picture in pictures if not (ROOT / picture).is_file()] == []


def test_no_figure_is_left_open() -> None:
    assert "BENCH_" not in README


def test_the_space_metadata_is_valid() -> None:
    facts = yaml.safe_load(README.split("---")[1])
    assert facts["sdk"] == "gradio"
    assert (ROOT / facts["app_file"]).is_file()
    assert len(facts["short_description"]) <= 60
    assert {facts["colorFrom"], facts["colorTo"]} <= COLOURS
    assert isinstance(facts["python_version"], str), "unquoted, 3.10 would become 3.1"
    assert f"gradio[oauth,mcp]>={facts['sdk_version'].rsplit('.', 1)[0]}" in (ROOT / "requirements.txt").read_text()


def test_the_starter_model_card_is_valid() -> None:
    card = ModelCard.load(ROOT / "assets" / "starter_model" / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"


def test_the_licence_is_the_one_that_is_named() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("path", ["app.py", "requirements.txt", "tests/requirements.txt", ".ci/run", "pyproject.toml"])
def test_what_the_commands_need_is_there(path: str) -> None:
    assert (ROOT / path).is_file()
