"""The ways to merge an adapter that was trained on a quantized base, each measured; and merges of quantized bases."""

from __future__ import annotations

import shutil

import pytest
import torch
from proof_steps import failed, proven, save_base, save_lora

from studio import merging
from studio.errors import InputError, Unsupported
from studio.events import Progress
from studio.loading import Quantization
from studio.models import Precision

FORMATS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base whose layers bitsandbytes takes, and an adapter on all of them."""
    root = tmp_path_factory.mktemp("rounding")
    base = save_base(root / "base", hidden_size=64, intermediate_size=128, dtype="bf16")
    return base, save_lora(root / "adapter", base, target_modules="all-linear")


@pytest.fixture(scope="module")
def measured(folders):
    """The three ways of each precision."""

    def measure(precision):
        *_, last = merging.measure_choices(merging.ChoiceQuestion(*folders, Precision(precision), reply_tokens=8))
        return last.result

    return {precision: measure(precision) for precision in ("nf4", "int8")}


def distances(choices):
    return {choice.way: choice.distance for choice in choices.choices}


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_every_way_is_measured(precision, measured):
    choices = measured[precision]
    assert [choice.way for choice in choices.choices] == ["original", "dequantized", "quantized"] == list(merging.WAYS)
    assert all(choice.distance.kl > 0 and choice.distance.largest > 0 for choice in choices.choices)
    assert choices.tokens > 4 * 8
    assert choices.adapter.kl > 0


def test_nf4_loses_most_when_the_sum_is_quantized_again(measured):
    found = distances(measured["nf4"])
    assert measured["nf4"].nearest == "dequantized"
    # The dequantized base is what the adapter was trained on, and rounding to bf16 is all that is lost.
    assert found["dequantized"].kl < found["quantized"].kl / 20
    assert found["dequantized"].kl < found["original"].kl / 20
    assert found["quantized"].largest > 5 * found["dequantized"].largest


def test_int8_loses_little_on_every_way(measured):
    assert max(each.kl for each in distances(measured["int8"]).values()) < distances(measured["nf4"])["quantized"].kl


def test_what_is_measured_is_what_the_models_say(folders, measured):
    """The same three distances, by bitsandbytes and PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from studio import four_bit
    from studio.merging.proof import PROMPTS
    from studio.tokenizer import Message, render

    base, adapter = folders
    how = BitsAndBytesConfig(**FORMATS["nf4"], bnb_4bit_compute_dtype=torch.float32)
    quantized = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=how).eval()
    four_bit.guard(quantized)
    for parameter in quantized.parameters():
        if parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    reference = PeftModel.from_pretrained(quantized, str(adapter)).eval()
    original = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().bfloat16().float().eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    largest = 0.0
    for prompt in PROMPTS:
        ids = tokenizer(render(tokenizer, (Message("user", prompt),)), return_tensors="pt").input_ids
        with torch.no_grad():
            reply = reference.generate(ids, max_new_tokens=8, do_sample=False)
            ours, theirs = (model(reply, use_cache=False).logits.float() for model in (reference, original))
        largest = max(largest, float((ours - theirs).abs().max()))
    assert distances(measured["nf4"])["original"].largest == pytest.approx(largest, rel=1e-2)


def test_measuring_can_be_closed_at_any_event(folders):
    for after in (1, 4):
        work = merging.measure_choices(merging.ChoiceQuestion(*folders))
        for _ in range(after):
            assert isinstance(next(work), Progress)
        work.close()


@pytest.mark.parametrize(
    ("change", "says"), [({"precision": Precision.BF16}, "not quantized"), ({"into": Precision.INT8}, "third way")]
)
def test_a_choice_that_is_none_is_refused(change, says, folders):
    with pytest.raises(InputError, match=says):
        merging.ChoiceQuestion(*folders, **change)


def test_what_it_is_rounded_to_is_measured(folders, measured):
    question = merging.ChoiceQuestion(*folders, into=Precision.FP32, reply_tokens=8)
    *_, last = merging.measure_choices(question)
    exact, rounded = distances(last.result)["dequantized"], distances(measured["nf4"])["dequantized"]
    assert exact.largest < rounded.largest / 100


@pytest.fixture(scope="module", params=[*FORMATS, "nf4, brought back in fp32"])
def packed(request, folders, tmp_path_factory):
    """The base as a checkpoint that bitsandbytes quantized, and what it becomes when it is brought back, and merged."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from studio.training.proving import dequantized

    root = tmp_path_factory.mktemp("packed")
    base, adapter = folders
    form, exact = request.param[:4].strip(","), "fp32" in request.param
    how = BitsAndBytesConfig(**FORMATS[form])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=how)
    model.save_pretrained(root / "base")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for name, layer in model.named_modules():
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt"):
            weight = dequantized(layer)  # which others round to the 16 bit that it was quantized from
            plain.get_submodule(name).weight.data = weight if exact else weight.bfloat16().float()
    PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().bfloat16().save_pretrained(root / "merged")
    for file in base.glob("*token*"):
        shutil.copy(file, root / "base")
        shutil.copy(file, root / "merged")
    for to in ("base", "merged"):
        shutil.copy(base / "chat_template.jinja", root / to)
    return root / "base", adapter, root / "merged"


@pytest.mark.parametrize("free_bytes", [None, 0])
def test_a_merge_into_a_quantized_base_that_was_brought_back_passes(free_bytes, packed):
    proof = proven(*packed, "bf16", free_bytes=free_bytes)
    assert failed(proof) == set(), [check.words for check in proof.failed]
    assert proof.whole is (free_bytes is None)


def test_a_merge_into_another_base_than_the_quantized_one_is_caught(packed, folders):
    proof = proven(folders[0], *packed[1:], "bf16", free_bytes=0)
    assert "adapted weights" in failed(proof)


def test_a_merge_that_is_quantized_is_not_proven(packed, folders):
    with pytest.raises(Unsupported, match="quantized"):
        proven(folders[0], packed[1], packed[0], "bf16")


def test_the_precision_may_be_tuned_as_for_loading(folders):
    question = merging.ChoiceQuestion(*folders, Precision.FP4, Quantization(double_quant=False), reply_tokens=4)
    *_, last = merging.measure_choices(question)
    assert last.result.nearest == "dequantized"
