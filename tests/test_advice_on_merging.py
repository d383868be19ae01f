"""Advice on a merge: each rule fires for what the adapter, the base and the plan are, and is silent otherwise."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from adapter_variants import save_variant
from pico import byte_tokenizer, change_json, save_adapter, save_pico

from studio import adapters, advice
from studio.errors import InputError
from studio.merging import MergePlan
from studio.merging.outlook import outlook
from studio.models import Precision


@cache
def variant(name):
    return save_variant(name, Path(mkdtemp()))


def ahead(name="q and v", **changes):
    base, adapter = variant(name)
    return outlook(MergePlan(base, adapter, adapter.parent / "merged", **changes))


def told(looked):
    return {rule.id: rule for rule in advice.on_merge(looked)}


def test_a_plain_merge_is_told_that_it_is_safe_and_nothing_else():
    found = told(ahead())
    assert list(found) == ["safe-merge"]
    assert "All 8 tensors of the adapter are searched" in found["safe-merge"].why


def test_what_is_brought_whole_is_searched_too():
    looked = ahead("norms")
    assert f"the {len(looked.adapter.whole)} that it brings whole" in told(looked)["safe-merge"].why


def test_dora_is_told_to_be_faster_once_merged():
    assert "27 %" in told(ahead("DoRA"))["dora-overhead"].why
    assert "dora-overhead" not in told(ahead("rsLoRA"))


@pytest.mark.parametrize(
    ("onto", "learnt_on", "severity", "says"),
    [
        ("quantized", Precision.NF4, "warning", "97 %"),
        ("quantized", Precision.INT8, "note", "0.0001"),
        ("original", Precision.NF4, "note", "0.0012"),
        ("original", Precision.INT8, "note", "0.0001"),
    ],
)
def test_where_an_adapter_of_a_quantized_base_goes_is_told_with_its_cost(onto, learnt_on, severity, says):
    looked = ahead()
    looked = replace(looked, plan=replace(looked.plan, onto=onto), learnt_on=learnt_on)
    rule = told(looked)["quantized-merge"]
    assert (rule.severity, says in rule.why, bool(rule.source)) == (severity, True, True)
    assert "quantized-merge" not in told(replace(looked, plan=replace(looked.plan, onto="dequantized")))


def test_a_base_that_is_there_quantized_alone_is_known(tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base, adapter = variant("q and v")
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(base, quantization_config=how).save_pretrained(tmp_path / "packed")
    looked = outlook(MergePlan(tmp_path / "packed", adapter, tmp_path / "merged"))
    assert looked.stored_as == "bitsandbytes"
    assert "quantized alone" in told(looked)["quantized-merge"].why


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("head adapted, tied", "changes lm_head"),
        ("embedding adapted, tied", "changes embed_tokens"),
        ("a head, tied", "changes lm_head"),
        ("both, tied, and apart", "changes embed_tokens and lm_head"),
    ],
)
def test_embedding_and_head_that_come_apart_are_told_with_their_size(name, names):
    rule = told(ahead(name, dtype="fp32"))["tied-embeddings"]
    assert (names in rule.why, rule.severity) == (True, "warning")
    assert "0.0 MB" in rule.why  # 264 times 32 numbers of 4 bytes


@pytest.mark.parametrize(
    "name",
    [
        *("q and v", "embedding and head adapted", "a head, untied", "both, tied, and so kept", "tokens, tied"),
        "a larger vocabulary, tied",
    ],
)
def test_where_they_stay_as_they_are_nothing_is_told(name):
    assert "tied-embeddings" not in told(ahead(name))


def test_a_template_that_the_adapter_was_taught_is_held_against_that_of_the_base(pico, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", pico)
    plan = MergePlan(pico, adapter, tmp_path / "merged")
    assert "template-mismatch" not in told(outlook(plan))
    taught = byte_tokenizer()
    taught.chat_template = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
    taught.save_pretrained(adapter)
    rule = told(outlook(plan))["template-mismatch"]
    assert "in the base" in rule.why
    assert "in the merged model" in rule.why


def test_the_same_template_beside_the_adapter_is_no_mismatch(pico, tmp_path):
    from studio.tokenizer import load_tokenizer

    adapter = save_adapter(tmp_path / "adapter", pico)
    load_tokenizer(pico).save_pretrained(adapter)
    looked = outlook(MergePlan(pico, adapter, tmp_path / "merged"))
    assert [form.way for form in looked.ways] == ["the base", "the merged model"]
    assert "template-mismatch" not in told(looked)


def test_other_tokens_of_the_same_text_are_a_mismatch_too(pico, tmp_path):
    from studio.tokenizer import load_tokenizer

    adapter = save_adapter(tmp_path / "adapter", pico)
    taught = load_tokenizer(pico)
    taught.add_tokens(["Thanks"])
    taught.save_pretrained(adapter)
    looked = outlook(MergePlan(pico, adapter, tmp_path / "merged"))
    one, other = looked.ways
    assert (one.text == other.text, len(one.ids) - len(other.ids)) == (True, 5)
    assert "template-mismatch" in told(looked)


def test_a_model_without_a_template_reads_no_conversation_in_two_ways(tmp_path):
    base = save_pico(tmp_path / "plain", chat_template=None)
    adapter = save_adapter(tmp_path / "adapter", base)
    byte_tokenizer().save_pretrained(adapter)
    assert outlook(MergePlan(base, adapter, tmp_path / "merged")).ways == ()


def test_adapters_of_one_batch_are_told_where_one_is_dora():
    plain, dora = (adapters.read(variant(name)[1]) for name in ("q and v", "DoRA"))
    (rule,) = advice.on_batch([plain, dora])
    assert (rule.id, "1 of these 2 adapters" in rule.why) == ("dora-mixed-batch", True)
    assert advice.on_batch([plain, plain]) == advice.on_batch([dora]) == []


def test_what_would_not_be_merged_is_refused_beforehand(pico, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", pico)
    wide = save_pico(tmp_path / "wide", hidden_size=64)
    with pytest.raises(InputError, match="does not fit this base"):
        outlook(MergePlan(wide, adapter, tmp_path / "merged"))


def test_what_goes_by_way_of_the_memory_is_known_with_its_reason(pico, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", pico)
    assert outlook(MergePlan(pico, adapter, tmp_path / "merged")).why == ""
    change_json(adapter / "adapter_config.json", init_lora_weights="pissa")
    assert "pissa" in outlook(MergePlan(pico, adapter, tmp_path / "merged")).why
