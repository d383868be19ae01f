"""One prompt to a base and to adapters of it: each column says what it says alone, and the base stays as it was."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
import torch
from adapter_steps import logits
from pico import change_json, save_adapter, save_pico
from safetensors.torch import load_file, save_file

from studio import jobs
from studio.errors import InputError
from studio.events import Finished, TextDelta
from studio.generation import GenerationSettings, Prompt
from studio.jobs.comparing import Answer, Column, ComparisonRequest, InColumn, compare, without_strength
from studio.jobs.conversing import Refusal
from studio.loading import LoadPlan
from studio.models import ModelRef, Precision
from studio.tokenizer import Message

SETTINGS = GenerationSettings(max_new_tokens=12, seed=7)
PROMPT = Prompt((Message("user", "Hi"),))


@pytest.fixture(autouse=True)
def _unloaded():
    """The session is that of the whole process: leave it empty for the next test."""
    yield
    list(jobs.unload())


def plan_of(folder, precision=Precision.FP32):
    return LoadPlan(ModelRef("folder", str(folder)), precision)


def told(base, *columns, settings=SETTINGS, precision=Precision.FP32):
    """The events of every column, and how each ended."""
    request = ComparisonRequest(plan_of(base, precision), columns, PROMPT, settings)
    *events, last = compare(request, token=False)
    assert isinstance(last, Finished)
    said = [[each.event for each in events if isinstance(each, InColumn) and each.column == n] for n in range(9)]
    for number, end in enumerate(last.result):
        assert said[number][-1] == end
        if isinstance(end, Answer):
            assert "".join(each.text for each in said[number] if isinstance(each, TextDelta)) == end.reply.text
    return last.result


def alone(base, adapter=None, precision=Precision.FP32):
    """What base and adapter say in the chat."""
    plan = replace(plan_of(base, precision), adapter=adapter)
    *_, last = jobs.generate(jobs.GenerationRequest(plan, PROMPT, SETTINGS), token=False)
    return last.result.text


def resident():
    """The model in memory."""
    return jobs.SESSION._slot.model


def test_every_column_says_what_it_says_in_the_chat_and_the_base_in_memory_stays_as_it_was(pico, tmp_path):
    first = save_adapter(tmp_path / "one" / "adapter", pico)
    second = save_adapter(tmp_path / "two" / "adapter", pico, targets=("o_proj", "down_proj"), rank=2)
    expected = [alone(pico), alone(pico, first), alone(pico, second)]
    assert len(set(expected)) == 3
    columns = (Column(), Column(str(first)), Column(str(second)), Column(str(first), 0.5), Column(str(second), 0.0))
    weak = save_adapter(tmp_path / "weak", pico)
    change_json(weak / "adapter_config.json", lora_alpha=32)  # half of what it was
    expected.append(alone(pico, weak))
    assert alone(pico) == expected[0]
    model, before = resident(), logits(resident())
    base, one, two, half, nothing = told(pico, *columns)
    assert [each.reply.text for each in (base, one, two, half)] == expected
    assert nothing.reply.text == expected[0]
    assert [each.reply.seed for each in (base, one, two, half)] == [7] * 4
    assert (base.bytes, one.apart) == (0, "")
    assert one.bytes == sum(4 * tensor.numel() for tensor in load_file(first / "adapter_model.safetensors").values())
    assert resident() is model
    assert torch.equal(logits(model), before)


def test_one_that_cannot_answer_says_why_and_the_others_go_on(pico, tmp_path):
    good = save_adapter(tmp_path / "good", pico)
    foreign = save_adapter(tmp_path / "foreign", save_pico(tmp_path / "wide", hidden_size=64))
    broken = save_adapter(tmp_path / "broken", pico)
    file = broken / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(file).items()}, file)
    missing = str(tmp_path / "missing")
    ended = told(pico, Column(str(foreign)), Column(missing), Column(str(broken)), Column(str(good)), Column())
    assert [type(each) for each in ended] == [Refusal, Refusal, Refusal, Answer, Answer]
    assert "does not fit" in ended[0].message
    assert "missing" in ended[1].message
    assert "not numbers" in ended[2].message
    assert (ended[3].reply.text, ended[4].reply.text) == (alone(pico, good), alone(pico))


def test_an_adapter_with_a_larger_vocabulary_gets_a_base_of_its_own(tmp_path):
    from adapter_variants import save_variant
    from pico import byte_tokenizer

    base, adapter = save_variant("new tokens, untied", tmp_path)
    byte_tokenizer().save_pretrained(base)
    prompt = Prompt(text="Hi")
    request = ComparisonRequest(plan_of(base), (Column(str(adapter)), Column()), prompt, SETTINGS)
    *_, last = compare(request, token=False)
    wide, plain = last.result
    assert isinstance(wide, Answer), wide
    assert "whole tensors" in wide.apart
    assert plain.apart == ""
    assert why_of(base, Column(str(adapter), 0.5), prompt).startswith("This adapter has no strength")
    assert "whole tensors" in without_strength(str(adapter))


def why_of(base, column, prompt):
    *_, last = compare(ComparisonRequest(plan_of(base), (column,), prompt, SETTINGS), token=False)
    return last.result[0].message


@pytest.mark.parametrize("precision", [Precision.NF4, Precision.INT8])
def test_a_quantized_base_is_compared_as_well(precision, pico, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", pico)
    expected = [alone(pico, adapter, precision), alone(pico, None, precision)]
    model, before = resident(), logits(resident())
    one, base, nothing = told(pico, Column(str(adapter)), Column(), Column(str(adapter), 0.0), precision=precision)
    assert [one.reply.text, base.reply.text] == expected
    assert nothing.reply.text == expected[1]
    assert resident() is model
    assert torch.equal(logits(model), before)


def test_stopped_in_the_middle_of_a_column_the_base_is_whole(pico, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", pico)
    expected = alone(pico)
    before = logits(resident())
    request = ComparisonRequest(
        plan_of(pico), (Column(str(adapter)),), PROMPT, GenerationSettings(max_new_tokens=400, seed=1)
    )
    with closing(compare(request, token=False)) as events:
        next(each for each in events if isinstance(each, InColumn) and isinstance(each.event, TextDelta))
    assert torch.equal(logits(resident()), before)
    assert jobs.SESSION.status().busy_with is None
    assert alone(pico) == expected


def test_without_a_seed_all_columns_get_the_same_one(pico):
    first, second = told(pico, Column(), Column(), settings=GenerationSettings(max_new_tokens=8))
    assert first.reply.seed == second.reply.seed
    assert first.reply.text == second.reply.text


def test_what_cannot_be_asked_is_refused(pico, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="Strength"):
        Column("x/y", 1.6)
    with pytest.raises(InputError, match="nobody"):
        ComparisonRequest(plan_of(pico), (), PROMPT)
    adapter = save_adapter(tmp_path / "adapter", pico)
    assert without_strength(str(adapter)) == ""
    monkeypatch.setenv("SPACE_ID", "owner/space")
    starter = ComparisonRequest(LoadPlan(ModelRef.parse("starter")), (Column(str(adapter)),), PROMPT, SETTINGS)
    *_, last = compare(starter, token=False)
    assert "not open to visitors" in last.result[0].message
