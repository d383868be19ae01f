"""Training a tokenizer as a job: from files or from rows, into the workspace, and not for visitors."""

from __future__ import annotations

import pytest
from dataset_steps import result, rows_of

from studio import jobs
from studio.errors import InputError
from studio.jobs import Written
from studio.models import STARTER, ModelRef
from studio.tokenizer import Recipe, load_tokenizer

SMALL = Recipe(vocabulary_size=300)
TEXT = "".join(
    f"the quick brown fox number {number} jumps over the lazy dog and {number * 7} cats\n" for number in range(2000)
)


@pytest.fixture(autouse=True)
def workspace(monkeypatch, tmp_path):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


def returned(events):
    """What a generator returns in the end."""
    try:
        while True:
            next(events)
    except StopIteration as end:
        return end.value


def learn(source, name="mine", recipe=SMALL):
    return result(jobs.learn_tokenizer(source, recipe, name, against=STARTER, token=False))


def test_a_tokenizer_is_trained_into_the_workspace_and_opens_as_a_model(text, workspace):
    learned = learn([text])
    assert learned.folder == str(workspace / "tokenizers" / "mine")
    opening = jobs.open_tokenizer(ModelRef.parse(learned.folder), token=False)
    assert len(returned(opening).tokenizer) == learned.vocabulary
    assert [each.name for each in learned.comparison.tokenizers] == ["learned", "current"]


def test_only_the_chosen_column_is_read(tmp_path, workspace):
    rows = rows_of(tmp_path, [{"good": "banana " * 50, "other": "zebra " * 50}] * 20)
    learn(Written(rows, ("good",)))
    known = load_tokenizer(workspace / "tokenizers" / "mine").get_vocab()
    assert "banana" in known
    assert not [token for token in known if "zeb" in token]


def test_a_column_of_conversations_is_read_turn_by_turn(tmp_path, workspace):
    turns = [{"role": "user", "content": "banana banana"}, {"role": "assistant", "content": "coconut coconut"}]
    learn(Written(rows_of(tmp_path, [{"messages": turns}] * 50), ("messages",)))
    known = load_tokenizer(workspace / "tokenizers" / "mine").get_vocab()
    assert {"banana", "coconut"} <= set(known)
    assert "assistant" not in known  # a role is nothing that anybody wrote


def test_a_name_that_is_taken_is_refused_before_anything_is_read(text):
    learn([text])
    with pytest.raises(InputError, match="exists already"):
        learn([text.with_name("not there")])


@pytest.mark.parametrize("name", ["", "../mine", "a/b", ".hidden", "mine.part"])
def test_a_name_that_is_none_is_refused(text, workspace, name):
    with pytest.raises(InputError, match="tokenizer"):
        learn([text], name)
    assert not workspace.exists()


def test_an_empty_file_teaches_nothing_and_leaves_nothing(tmp_path, workspace):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="no text to learn from"):
        learn([tmp_path / "empty.txt"])
    assert list((workspace / "tokenizers").iterdir()) == []


def test_stop_leaves_nothing(text, workspace):
    events = jobs.learn_tokenizer([text], SMALL, "mine", against=STARTER, token=False)
    next(event for event in events if event.phase in ("count words", "learn"))
    events.close()
    assert list((workspace / "tokenizers").iterdir()) == []


def test_a_visitor_of_a_shared_machine_trains_nothing(text, workspace, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "alice/studio")
    with pytest.raises(InputError, match="Visitors"):
        learn([text])
    assert not workspace.exists()
