"""The command that estimates: every knob arrives, a link carries the whole question, and what is said adds up."""

from __future__ import annotations

import dataclasses
import json

import pytest

from studio import jobs, memory
from studio.cli import main
from studio.memory import Entry, Question, remember
from studio.settings import Settings

OTHER = {
    "task": "generate", "precision": "fp16", "double_quant": False, "context": 4096, "batch": 2, "reply": 7,
    "cache_dtype": "fp16", "cache": "static", "offload": 3, "method": "dora", "rank": 4, "targets": "q_proj, v_proj",
    "dropout": 0.5, "adapter_dtype": "bf16", "kbit_preparation": "on", "optimizer": "sgd", "checkpointing": False,
    "attention": "eager", "loss": "liger", "packing": False, "accumulation": 8, "autocast": "bf16", "devices": 2,
    "strategy": "fsdp", "profile": "trl 1.16", "device": "t4",
}  # fmt: skip


def options(values):
    for name, value in values.items():
        option = name.replace("_", "-")
        yield f"--no-{option}" if value is False else f"--{option}" if value is True else f"--{option}={value}"


def test_every_knob_has_an_option_and_the_link_carries_it(capsys):
    assert {f.name for f in dataclasses.fields(Question)} == {"model", *OTHER}
    asked = Question(model="8B, 32 layers", **OTHER)
    assert all(getattr(asked, f.name) != f.default for f in dataclasses.fields(Question))
    assert main(["estimate", "8B, 32 layers", *options(OTHER), "--link"]) == 0
    out = capsys.readouterr().out
    assert Question.from_query(out.strip()) == asked
    assert main(["estimate", "8B, 32 layers", *options(OTHER), "--link", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"query": out.strip()}
    assert main(["estimate", "starter", "--link"]) == 0
    assert capsys.readouterr().out == "\n"


def test_an_estimate_in_json_is_the_whole_answer(capsys):
    assert main(["estimate", "starter", "--context=512", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {f.name for f in dataclasses.fields(jobs.Answer)} < found.keys()
    assert found["peak"] == sum(part["bytes"] for part in found["estimate"]["parts"]) > 0
    assert Question.from_query(found["query"]) == Question(context=512)
    assert {fit["device"] for fit in found["fits"]} == {memory.THIS, *memory.DEVICES}
    assert found["limits"] is None


def test_an_estimate_is_told_by_part_and_device(capsys):
    assert main(["estimate", "starter"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("starter: 3,9")
    assert lines[1].endswith("by the closed form")
    titles = [line for line in lines[2:] if line and not line.startswith(" ")]
    assert titles == ["Parts", "Moments", "Devices", "Disk", *(["Notes"] if "Notes" in titles else [])]
    assert sum(line.startswith("  rtx4090 ") for line in lines) == 1


def test_for_one_device_it_says_what_makes_it_fit(capsys):
    assert main(["estimate", "8B, 32 layers", "--device=t4", "--method=full"]) == 0
    out = capsys.readouterr().out
    assert "64.03 GB of T4" in out
    assert "However short the context is, it does not fit as it is." in out
    assert "By the closed form, it fits t4 with" in out
    assert "precision nf4" in out
    assert "rtx4090" not in out
    assert main(["estimate", "starter", "--device=t4", "--task=generate"]) == 0
    out = capsys.readouterr().out
    assert "  t4  15.84 GB  fits  " in out
    assert "tokens of context fit, or a batch of" in out
    assert "it fits t4" not in out


def test_a_dry_run_is_told_beside_the_closed_form(capsys):
    assert main(["estimate", "starter", "--context=128", "--dry"]) == 0
    out = capsys.readouterr().out
    assert "by the dry run" in out
    assert "% off the dry run, which is trusted" in out


def test_the_record_of_this_machine_is_told_where_it_is_nobody_elses(capsys, monkeypatch):
    for n in range(1, 7):
        remember(Settings.from_env().workspace, Entry("run", "T4", "a/b", "bf16", n * 10**9, n * 10**9 + 300_000_000))
    assert main(["estimate", "starter", "--task=generate"]) == 0
    out = capsys.readouterr().out
    assert "  6 runs on T4, median error 8.0 %, worst 23.1 %" in out
    assert "300.00 MB more than predicted is held there, as the last 6 tell" in out
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    assert main(["estimate", "starter", "--task=generate"]) == 0
    assert "Estimates so far" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["starter", "--context=0"], "Context is 0."),
        (["starter", "--device=abacus"], "abacus"),
        (["starter", "--precision=nf4", "--method=full"], "cannot be trained"),
        (["./nowhere"], "There is no folder"),
        (["8B, 32 llamas"], "says no number of anything"),
    ],
)
def test_a_question_that_has_no_answer_ends_with_one_and_a_hint(arguments, said, capsys):
    assert main(["estimate", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) >= 2


@pytest.mark.parametrize("arguments", [[], ["starter", "--precision=fp64"], ["starter", "--rank=x"], ["a/b", "--sing"]])
def test_wrong_usage_ends_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["estimate", *arguments])
    assert ended.value.code == 2
    assert "Precision." not in capsys.readouterr().err
