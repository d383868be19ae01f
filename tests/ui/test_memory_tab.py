"""The Memory tab's handlers: what is asked, what is drawn, what is applied, and what is no question."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from memory_shapes import TINY

from studio import compute, jobs, memory
from studio.errors import InputError
from studio.loading import best_precision
from studio.memory import Entry, Question
from studio.models import Precision
from studio.ui import memory_tab

KNOBS = {name: value for name, value in asdict(Question()).items() if name not in ("model", "precision")}
WIDGETS: dict[str, Any] = {"model": "starter", "precision": "auto", "typed": "", **KNOBS, "context": "2048"}


def ask(**changes: Any) -> dict[str, Any]:
    """The last thing that is drawn."""
    *_, last = memory_tab.ask(**WIDGETS | changes)
    return last


def ask_again(question: Question) -> jobs.Answer:
    """What is said to a question that was handed on."""
    *_, last = jobs.estimate(question, token=False)
    return last.result


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


def test_the_question_that_fits_is_what_is_handed_on() -> None:
    drawn = ask(typed="8B", device="rtx4090", checkpointing=False, context="4096")
    assert drawn["send"]["visible"]
    assert drawn["question"] != memory_tab.question_of(**WIDGETS)
    assert memory_tab._drawn(ask_again(drawn["question"]))["apply"]["visible"] is False
    assert ask(task="generate")["send"]["visible"] is False


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
GEMMA = TINY["gemma3"] | {"model_type": "gemma3_text"}
SEES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14}  # fmt: skip
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
        ({"model_type": "gemma3", "text_config": GEMMA, "vision_config": SEES}, "what sees or hears"),
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


def test_where_the_two_engines_are_far_apart_the_page_says_so_and_trusts_the_dry_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY["gemma3"]))
    *_, drawn, _ = memory_tab.rehearse(**WIDGETS | {"model": str(tmp_path)})
    said = re.search(r"The dry run says (\S+ \S+), the formula", drawn["answer"])
    assert said
    assert "the dry run is the one to trust, and it is shown." in drawn["answer"]
    assert f"<strong>{said[1]} to train" in drawn["answer"]


@pytest.mark.parametrize(
    ("device", "held"), [("", "bf16"), ("a100-80", "bf16"), ("t4", "fp16"), ("cpu-space", "fp32"), ("apple-16", "bf16")]
)
def test_a_precision_that_is_left_open_is_the_one_that_loading_takes_there(device: str, held: str) -> None:
    assert memory_tab.question_of(**WIDGETS | {"device": device}).precision == held
    assert f"to train starter in {held}" in ask(device=device)["answer"]


def test_on_this_machine_it_is_what_load_chooses_here() -> None:
    here, _ = best_precision(compute.machine())
    assert memory_tab.question_of(**WIDGETS | {"device": "this"}).precision is here


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


def remembered(workspace: Path, more: int, times: int) -> None:
    """Loads of two sizes on this machine, each of which took `more` bytes than was predicted."""
    for n in range(times):
        predicted = (1 + n % 2) * 10**9
        entry = Entry("load", compute.machine().name, "<b>/model", "bf16", predicted, predicted + more)
        assert memory.remember(workspace, entry)


def test_the_record_is_on_the_tab_and_corrects_visibly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    assert ask()["record"] == ""
    remembered(tmp_path, 212_000_000, 9)
    drawn = ask(precision="bf16")
    assert "9 loads on this machine, median error 17.5%" in drawn["record"]
    assert "this machine took 212 MB more in 9 of 9 loads" in drawn["record"]
    assert drawn["record"].count("<tr>") == 7  # a head, and the last six
    assert "&lt;b&gt;/model" in drawn["record"]
    said = re.search(
        r"On this machine (\S+ \S+), corrected from (\S+ \S+): this machine took 212 MB more", drawn["answer"]
    )
    assert said
    assert said[1] != said[2]
    assert f"corrected from {said[2]}" in drawn["verdicts"]
    assert f"{said[1]} at the peak, by the formula" in ask(device="this", precision="bf16")["fitting"]


def test_a_record_without_a_constant_corrects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    remembered(tmp_path, 0, 9)
    drawn = ask()
    assert "median error 0.0%" in drawn["record"]
    assert "no constant to correct by" in drawn["record"]
    assert "corrected" not in drawn["answer"] + drawn["verdicts"]


def test_a_visitor_sees_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    remembered(tmp_path, 212_000_000, 9)
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    drawn = ask()
    assert drawn["record"] == ""
    assert "corrected" not in drawn["answer"] + drawn["verdicts"]
