"""The Memory tab's handlers: what is asked, what is drawn, what is applied, and what is no question."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studio.errors import InputError
from studio.memory import Question
from studio.models import Precision
from studio.ui import memory_tab

KNOBS = {name: value for name, value in asdict(Question()).items() if name not in ("model", "precision")}
WIDGETS: dict[str, Any] = {"model": "starter", "precision": "auto", "typed": "", **KNOBS, "context": "2048"}


def ask(**changes: Any) -> dict[str, Any]:
    """The last thing that is drawn."""
    *_, last = memory_tab.ask(**WIDGETS | changes)
    return last


def test_untouched_widgets_ask_the_question_as_it_is_by_default() -> None:
    assert memory_tab.question_of(**WIDGETS) == Question()


def test_the_answer_has_its_parts_its_moment_and_its_engine() -> None:
    drawn = ask()
    assert "to train starter" in drawn["answer"]
    assert "told by a formula" in drawn["answer"]
    assert 'class="part-logits-and-loss"' in drawn["answer"]
    assert "The model was made for 1,024 tokens" in drawn["answer"]
    assert "ZeroGPU xlarge" in drawn["verdicts"]
    assert list(drawn["over_context"]["value"]["Context"])
    assert drawn["note"] == ""


def test_what_is_typed_by_hand_stands_for_the_strips_model() -> None:
    drawn = ask(typed="8B, 32 layers", device="t4")
    assert "8B, 32 layers" in drawn["answer"]
    assert "32 with full attention" in drawn["answer"]
    assert "it fits T4" in drawn["fitting"]
    assert drawn["apply"]["visible"]


def test_what_is_applied_fits() -> None:
    start = {"typed": "8B", "device": "rtx4090", "checkpointing": False, "context": "4096"}
    *_, changes = memory_tab.apply(**WIDGETS | start)
    assert changes.pop("note") == ""
    assert changes
    assert changes.keys() <= WIDGETS.keys()
    drawn = ask(**start | changes)
    assert "It fits RTX 4090 as it is" in drawn["fitting"]
    assert not drawn["apply"]["visible"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": "0"}, "Context is 0"),
        ({"context": "-5"}, "Context is -5"),
        ({"context": "many"}, "not a whole number"),
        ({"context": "99,999,999,999"}, "Context is 99999999999"),
        ({"batch": None}, "Batch is"),
        ({"rank": 0}, "Rank is 0"),
        ({"typed": "8B, -3 layers"}, "says no number|Layers is"),
        ({"typed": "no model"}, "is not the name of a model"),
        ({"method": "full", "precision": "nf4"}, "cannot be trained"),
        ({"targets": "<b>"}, "names no modules"),
        ({"devices": 4}, "need a strategy"),
    ],
)
def test_a_question_that_makes_no_sense_gets_a_sentence_and_no_answer(changes: dict[str, Any], words: str) -> None:
    drawn = ask(**changes)
    assert re.search(words, drawn["note"])
    assert 'class="problem"' in drawn["note"]
    assert drawn["answer"] == ""
    assert "<b>" not in drawn["note"]


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "nobody_knows"}, "does not know the architecture"),
        ({"model_type": "nobody_knows", "auto_map": {"AutoModel": "a.B"}}, "runs its own code"),
        ({"model_type": "llama"}, "gives no sizes"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"], **SIZES}, "It has no cache"),
        ({"model_type": "t5", "vocab_size": 100, "d_model": 32, "num_layers": 2, "num_heads": 4}, "a decoder"),
        ({"model_type": "llama", **SIZES, "quantization_config": GPTQ}, "quantized already"),
        ({"model_type": "llama", **SIZES, "hidden_size": -32}, "cannot build"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_of_a_model_is_said(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    drawn = ask(model=str(tmp_path), task="generate", device="")
    assert words in drawn["answer"] + drawn["note"]


def test_the_dry_run_stands_beside_the_formula(pico: Path) -> None:
    *_, drawn, idle = memory_tab.rehearse(**WIDGETS | {"model": str(pico), "context": "64"})
    assert "The dry run says" in drawn["answer"]
    assert "carried out on tensors without content" in drawn["answer"]
    assert idle["stop"]["visible"] is False


def test_a_link_asks_the_whole_question_again() -> None:
    question = Question(model="8B", context=4096, method="dora", device="t4", precision=Precision.NF4, dropout=0.1)
    request: Any = SimpleNamespace(query_params={"memory": question.query})
    updates = list(memory_tab.from_link(request))
    widgets = updates[0]
    assert widgets.pop("tabs")["selected"] == "memory"
    assert widgets.pop("showing") == "Memory"
    assert memory_tab.question_of(model="starter", **widgets) == question
    assert updates[-1]["asked"]


def test_a_page_without_a_link_stays_as_it_is() -> None:
    request: Any = SimpleNamespace(query_params={})
    assert list(memory_tab.from_link(request)) == [{}]


def test_a_broken_link_is_said_to_be_broken() -> None:
    request: Any = SimpleNamespace(query_params={"memory": "nonsense=1"})
    *_, last = memory_tab.from_link(request)
    assert "no part of a question" in last["note"]


def test_a_closed_tab_answers_nothing() -> None:
    assert list(memory_tab.ask_while_open(showing="Load", **WIDGETS)) == []


def test_an_empty_field_is_named() -> None:
    with pytest.raises(InputError, match="Rank"):
        memory_tab.question_of(**WIDGETS | {"rank": ""})
