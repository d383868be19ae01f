"""A question about memory is one value: nonsense cannot be asked, and a link carries all of it."""

from __future__ import annotations

import pickle
from dataclasses import asdict, fields, replace

import pytest

from studio.errors import InputError
from studio.memory import INSTALLED, PROFILES, Estimate, Moment, Part, Question
from studio.memory.request import PARTS
from studio.models import Precision

ODD = Question(
    model="Qwen/Qwen3-8B@refs/pr/1",
    precision=Precision.NF4,
    context=4096,
    batch=3,
    targets="q_proj, v_proj",
    dropout=0.1,
    checkpointing=False,
    devices=4,
    strategy="fsdp",
    profile="transformers 4.48",
    device="a100-80",
)


@pytest.mark.parametrize("question", [Question(), ODD, Question(model="8B, 32 layers", task="generate", reply=7)])
def test_a_link_reproduces_the_whole_question(question):
    assert Question.from_query(question.query) == question == Question.from_query("?" + question.query)
    assert pickle.loads(pickle.dumps(question)) == question


def test_a_link_says_what_differs_and_nothing_else():
    assert Question().query == ""
    assert Question(batch=2).query == "batch=2"
    assert Question(checkpointing=False).query == "checkpointing=false"


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("colour=red", "colour"),
        ("batch=two", "batch"),
        ("batch=2&batch=3", "twice"),
        ("checkpointing=maybe", "true or false"),
        ("batch=0", "Batch"),
        ("precision=int3", "Precision"),
        ("context=1e9", "context"),
        ("dropout=nan", "Dropout"),
        ("batch=", "batch"),
    ],
)
def test_a_link_that_is_no_question_says_which_part(query, word):
    with pytest.raises(InputError, match=word) as raised:
        Question.from_query(query)
    assert raised.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"context": 0},
        {"context": -1},
        {"context": 10**12},
        {"batch": 0},
        {"rank": 0},
        {"rank": 2.5},
        {"devices": 0},
        {"dropout": 1.0},
        {"optimizer": "adam"},
        {"targets": "q proj"},
        {"targets": "../../x"},
        {"model": "  "},
        {"model": "x" * 301},
        {"devices": 2},
        {"method": "full", "precision": Precision.NF4},
        {"precision": Precision.FP32, "attention": "flash_attention_2"},
    ],
)
def test_nonsense_cannot_be_asked(wrong):
    with pytest.raises(InputError):
        Question(**wrong)


def test_every_field_says_what_it_is_and_its_bounds():
    for field in fields(Question):
        assert field.metadata["help"], field.name
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert field.metadata["min"] <= field.default <= field.metadata["max"]
        elif "choices" in field.metadata:
            assert field.default in field.metadata["choices"]


def test_a_precision_that_comes_as_text_is_one_all_the_same():
    assert Question(precision="nf4").precision is Precision.NF4


def test_what_is_read_at_once_is_what_is_not_written():
    assert Question(context=2048, reply=512).prompt == 1536
    assert Question(context=100, reply=512).prompt == 1


def test_the_installed_software_is_the_default_and_is_what_it_says():
    from transformers import TrainingArguments

    software = Question().software
    assert software.name == INSTALLED
    assert ("fused" in TrainingArguments(output_dir="x", use_cpu=True).optim) is not software.foreach


def test_kbit_preparation_is_what_the_trainer_does_unless_it_is_wished():
    old = next(name for name, profile in PROFILES.items() if profile.kbit_preparation)
    assert not Question(precision="nf4").prepares_kbit
    assert Question(precision="nf4", profile=old).prepares_kbit
    assert not Question(precision="nf4", profile=old, kbit_preparation="off").prepares_kbit
    assert Question(precision="nf4", kbit_preparation="on").prepares_kbit
    assert not Question(precision="bf16", kbit_preparation="on").prepares_kbit


def test_the_peak_is_the_sum_of_its_parts():
    answer = Estimate(Question(), "closed form", (Part("weights", 5), Part("cache", 2)), (Moment("loss", 7),), 1, 0)
    assert (answer.peak, answer.moment, answer.of("weights"), answer.of("gradients")) == (7, "loss", 5, 0)
    assert asdict(answer)["question"]["precision"] == "bf16"
    assert {"weights", "cache"} < set(PARTS)
    assert replace(answer, parts=()).peak == 0
