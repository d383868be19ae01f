"""Errors: they survive a process border whole, and none can be raised without saying what to do next."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import pytest

import studio
from studio import errors
from studio.errors import StudioError

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StudioError)]
STUDIO = Path(studio.__file__).parent


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_pickled_and_copied_with_message_and_hint(kind):
    error = kind("It broke.", "Mend it.")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(twin), twin.message, twin.hint, str(twin)) == (kind, "It broke.", "Mend it.", "It broke. Mend it.")


def test_an_error_cannot_be_made_without_a_hint():
    for kind in CLASSES:
        with pytest.raises(TypeError):
            kind("It broke.")


def test_a_doc_names_every_error():
    assert all(kind.__name__ in errors.__doc__ for kind in CLASSES)


def calls_of_errors() -> list[tuple[str, ast.Call]]:
    names = {kind.__name__ for kind in CLASSES}
    return [
        (f"{file.relative_to(STUDIO)}:{node.lineno}", node)
        for file in STUDIO.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in names
    ]


def test_every_error_in_the_studio_is_made_with_a_message_and_a_hint_that_says_something():
    calls = calls_of_errors()
    assert len(calls) > 20
    for place, call in calls:
        assert not call.keywords, f"{place}: errors take their words by position"
        assert len(call.args) == 2 or isinstance(call.args[0], ast.Starred), place
        for words in call.args:
            assert not (isinstance(words, ast.Constant) and not str(words.value or "").strip()), place
