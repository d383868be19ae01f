"""The dry run as it is asked: what it answers, in which words it refuses, and that it can be stopped."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import asdict, replace
from typing import Any

import psutil
import pytest
from memory_shapes import PUBLISHED, TINY

from studio.errors import DoesNotFit, InputError, Unsupported
from studio.events import Finished, Phase, Progress
from studio.memory import Question
from studio.memory import dry_run as module
from studio.memory.depth import depths_of, pattern
from studio.memory.dry_run import dry_run, rehearse
from studio.memory.fake_model import NeedsValues, build, plain_lora, prepared
from studio.memory.step import Step, step_of
from studio.models import Precision

HANG_SECONDS = 120
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj"]}


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "studio.memory.rehearsing" in " ".join(child.cmdline())]


def gone(process: psutil.Process) -> bool:
    end = time.monotonic() + HANG_SECONDS
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.01)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_an_8b_qlora_step_is_answered_without_weights():
    question = Question(model="llama", precision=Precision.NF4, double_quant=False, batch=2, context=2048)
    *progress, last = dry_run(question, PUBLISHED["llama-3.1-8b"])
    assert isinstance(last, Finished)
    found = last.result
    # The figure of a full-depth run, and of the closed form: 13.03 GiB.
    assert found.peak / 2**30 == pytest.approx(13.03, rel=0.002)
    assert found.engine == "dry run"
    assert found.moment == "loss"
    assert found.moments[0].bytes == found.peak == sum(part.bytes for part in found.parts)
    assert [moment.bytes for moment in found.moments] == sorted((m.bytes for m in found.moments), reverse=True)
    assert {moment.name for moment in found.moments} == {"forward", "loss", "backward", "optimizer step"}
    assert found.trainable == 41_943_040
    assert found.parameters == 8_030_261_248
    assert found.of("optimizer") == pytest.approx(8 * found.trainable, rel=0.001)
    assert [note.id for note in found.notes] == ["dry-run-depth"]
    assert "3 and 5 of 32" in found.notes[0].message
    assert all(isinstance(event, Progress) and event.phase is Phase.REHEARSE for event in progress)
    assert progress[-1].total == 12
    assert pickle.loads(pickle.dumps(found)) == found
    assert json.loads(json.dumps(asdict(found)))["engine"] == "dry run"


def test_reading_a_prompt_leaves_its_keys_and_values():
    config = TINY["llama"] | {"num_hidden_layers": 2}
    *_, last = rehearse(Step(config, train=False, tokens=100, workspace=0))
    assert isinstance(last, Finished)
    found = last.result
    cache = 2 * 2 * 101 * 32 * 2  # two layers, keys and values, a token more than the prompt, two heads of 16, bf16
    weights = 2 * found.parameters
    assert found.resident == pytest.approx(weights + cache, rel=0.02)
    assert {moment.name for moment in found.moments} == {"prefill", "decode"}
    assert found.trainable == 0
    assert found.memory < module.MEMORY_LIMIT


def test_closing_it_ends_the_process_at_once():
    work = rehearse(Step(TINY["llama"]))
    assert isinstance(next(work), Progress)
    (process,) = children()
    work.close()
    assert gone(process)


def test_a_process_that_is_killed_is_told_in_words():
    work = rehearse(Step(TINY["llama"]))
    next(work)
    children()[0].kill()
    with pytest.raises(DoesNotFit, match="was killed"):
        list(work)


def test_it_is_given_up_after_a_while():
    work = rehearse(Step(TINY["llama"]), timeout=0.0)
    next(work)
    (process,) = children()
    with pytest.raises(Unsupported, match="not done after 0 seconds"):
        list(work)
    assert gone(process)


def test_it_ends_where_it_takes_too_much_itself(monkeypatch):
    monkeypatch.setattr(module, "MEMORY_LIMIT", 50_000_000)
    with pytest.raises(DoesNotFit, match=r"more than 0\.05 GB"):
        list(rehearse(Step(TINY["llama"])))


def test_what_breaks_in_the_process_is_told_in_words():
    broken = Step(TINY["llama"] | {"num_attention_heads": 7})
    with pytest.raises(Unsupported, match="llama"):
        list(rehearse(broken))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "unheard_of"}, "does not know the architecture 'unheard_of'"),
        ({}, "does not know the architecture None"),
        ({"model_type": "llama", "num_hidden_layers": "many"}, "cannot be read"),
        ({"model_type": "llama", "hidden_size": 0}, "cannot be built"),
        ({"model_type": "t5"}, "cannot be built"),
        (TINY["llama"] | {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized with gptq"),
    ],
)
def test_a_config_that_is_no_model_is_refused(config, says):
    with pytest.raises(Unsupported, match=says) as refused:
        build(Step(config, precision=Precision.STORED if "quantization_config" in config else Precision.BF16))
    assert refused.value.hint


def test_an_adapter_that_fits_nothing_is_refused():
    with pytest.raises(InputError, match="PEFT refuses"):
        prepared(Step(TINY["llama"], adapter=LORA | {"target_modules": ["nothing_of_that_name"]}))
    with pytest.raises(InputError, match="cannot be trained"):
        prepared(Step(TINY["llama"], precision=Precision.NF4))


def test_an_adapter_that_computes_with_the_weights_gives_way_to_lora_and_says_so():
    adapter = {"peft_type": "SHIRA", "r": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "random_seed": 1}
    with pytest.raises(NeedsValues):
        prepared(Step(TINY["llama"], adapter=adapter))
    plain, note = plain_lora(adapter)
    assert plain == {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    assert "SHIRA" in note
    model, _ = prepared(Step(TINY["llama"], adapter=plain))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3 * 8 * (128 + 128)


def test_an_adapter_that_only_draws_its_numbers_is_made():
    adapter: dict[str, Any] = {"peft_type": "BOFT", "boft_block_size": 4, "target_modules": ["q_proj"]}
    model, notes = prepared(Step(TINY["llama"], adapter=adapter))
    assert notes == []
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ("aaaaaa", (0, 1)),
        ("ababab", (0, 2)),
        ("abababa", (0, 2)),
        ("daaaaa", (1, 1)),
        ("ddabababab", (2, 2)),
        ("aaabaaabaaab", (0, 4)),
        ("ab", None),
        ("abc", None),
        ("aabbcc", None),
        ("", None),
    ],
)
def test_the_pattern_of_layers_is_found(layers, found):
    assert pattern(list(layers)) == found


@pytest.mark.parametrize(
    ("name", "layers", "carried_out"),
    [("llama", 32, (3, 5)), ("llama", 5, (5,)), ("gpt_oss", 24, (4, 6)), ("gpt_oss", 23, (3, 5)), ("lfm2", 4, (4,))],
)
def test_as_many_layers_are_carried_out_as_the_pattern_needs(name, layers, carried_out):
    config = TINY[name] | {"num_hidden_layers": layers}
    assert depths_of(build(Step(config))).carried_out == carried_out


def test_a_question_becomes_the_step_of_its_software():
    question = Question(precision=Precision.NF4, autocast="bf16", optimizer="adamw", profile="transformers 4.48")
    old = step_of(question, {})
    assert (old.loss, old.reentrant, old.optimizer) == ("copied", True, "adamw foreach")
    assert old.kbit_preparation
    assert old.recast
    now = step_of(replace(question, profile="installed"), {})
    assert (now.loss, now.reentrant, now.optimizer) == ("freed", False, "adamw fused")
    assert not now.kbit_preparation
    assert step_of(replace(question, profile="trl 1.16"), {}).adapter_dtype == "bf16"
    assert step_of(replace(question, packing=False), {}).padded
    assert step_of(replace(question, loss="liger"), {}).loss == "liger"
    assert step_of(Question(task="generate"), {}).adapter is None
    with pytest.raises(Unsupported, match="one device"):
        step_of(Question(devices=2, strategy="ddp"), {})


@pytest.mark.parametrize("method", ["lora", "dora", "adalora", "ia3", "vera", "loha", "lokr", "oft", "boft"])
def test_every_method_of_a_question_is_an_adapter_of_peft(method):
    step = step_of(Question(method=method, rank=8, targets="q_proj, v_proj"), TINY["llama"])
    model, _ = prepared(step)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) > 0
