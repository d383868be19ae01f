"""A folder into memory: what is there afterwards is what was on the disk, and nothing else ever is."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref

import pytest
from pico import change_json, load_pico, save_adapter, save_pico

from studio import compute
from studio.compute import Machine, Room
from studio.errors import Damaged, DoesNotFit, StudioError, Unsupported
from studio.events import Phase, Progress
from studio.loading import LoadPlan, best_precision, load, outlook
from studio.models import ModelRef, Precision


def plan_of(folder, **fields):
    return LoadPlan(ModelRef("folder", str(folder)), Precision.FP32, **fields)


def logits(model, text_ids=(5, 6, 7, 100)):
    import torch

    with torch.no_grad():
        return model(torch.tensor([text_ids])).logits


@pytest.fixture(scope="module")
def adapter(pico, tmp_path_factory):
    return save_adapter(tmp_path_factory.mktemp("adapters") / "lora", pico)


# What is in memory


@pytest.mark.parametrize(
    ("precision", "dtype", "size"), [("fp32", "float32", 4), ("bf16", "bfloat16", 2), ("fp16", "float16", 2)]
)
def test_the_weights_are_held_as_asked_and_measured(pico, precision, dtype, size):
    import torch

    loaded = load_pico(pico, precision=Precision(precision))
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}
    resident = loaded.resident
    buffers = sum(b.numel() * b.element_size() for b in loaded.model.buffers())
    assert resident.weights == resident.parameters * size + buffers
    assert 0 < resident.seconds < 60
    assert (resident.plan.precision, resident.context, resident.has_chat_template) == (precision, 512, True)
    assert not loaded.model.training


def test_the_model_computes_what_transformers_computes(pico, loaded):
    import torch
    from transformers import AutoModelForCausalLM

    assert torch.equal(logits(loaded.model), logits(AutoModelForCausalLM.from_pretrained(pico).eval()))


def test_tied_weights_are_counted_once(pico, tmp_path):
    tied, untied = load_pico(pico), load_pico(save_pico(tmp_path / "untied", tie_word_embeddings=False))
    embeddings = tied.model.get_input_embeddings().weight.numel()
    assert untied.resident.parameters - tied.resident.parameters == embeddings
    assert untied.resident.weights - tied.resident.weights == 4 * embeddings


def test_a_model_in_several_files_is_the_same_model(pico, broken, loaded):
    import torch
    from transformers import AutoModelForCausalLM

    (broken / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(pico).save_pretrained(broken, max_shard_size="20KB")
    assert not (broken / "model.safetensors").exists()
    assert torch.equal(logits(load_pico(broken).model), logits(loaded.model))


def test_a_model_without_a_chat_template_says_so(tmp_path):
    assert not load_pico(save_pico(tmp_path / "plain", chat_template=None)).resident.has_chat_template


def test_loading_tells_how_far_it_is(pico):
    events = list(load(plan_of(pico), pico))
    assert {type(event) for event in events} == {Progress}
    assert list(dict.fromkeys(event.phase for event in events)) == [Phase.READ, Phase.CHECK]


def test_the_precision_suits_the_machine():
    machines = {
        Precision.BF16: Machine("cuda", "A100", 1, has_bf16=True),
        Precision.FP16: Machine("cuda", "T4", 1, has_bf16=False),
        Precision.FP32: Machine("cpu", "old", 1, has_bf16=False),
    }
    assert {precision: best_precision(machine)[0] for precision, machine in machines.items()} == {
        p: p for p in machines
    }
    assert best_precision(Machine("cpu", "new", 1, has_bf16=True))[0] is Precision.BF16


# What is refused


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layers": 4}, r"^18 weights that the config asks for .* model\.layers\.2\."),
        ({"hidden_size": 64}, "other shapes than the config says"),
        ({"vocab_size": 300}, "other shapes than the config says"),
    ],
)
def test_files_that_do_not_hold_what_the_config_asks_for_are_damaged(broken, fields, words):
    change_json(broken / "config.json", **fields)
    with pytest.raises(Damaged, match=words):
        load_pico(broken)


@pytest.mark.parametrize("model_type", ["brand_new", "", None])
def test_an_architecture_that_nobody_knows_is_refused(broken, model_type):
    change_json(broken / "config.json", model_type=model_type)
    with pytest.raises(Unsupported, match="does not know this architecture"):
        load_pico(broken)


@pytest.mark.parametrize("model_type", ["t5", "clip", "vit"])
def test_an_architecture_that_writes_no_text_is_refused(broken, model_type):
    change_json(broken / "config.json", model_type=model_type)
    with pytest.raises(Unsupported, match=f"A {model_type} model does not generate text"):
        load_pico(broken)


@pytest.mark.parametrize(
    "how", [{"quant_method": "gptq", "bits": 4}, {"load_in_4bit": True, "quant_method": "bitsandbytes"}]
)
def test_a_checkpoint_that_is_quantized_already_is_not_loaded_under_another_precision(broken, how):
    change_json(broken / "config.json", quantization_config=how)
    with pytest.raises(Unsupported, match=f"quantized already .{how['quant_method']}"):
        load_pico(broken)


def test_a_model_that_fills_in_blanks_is_not_taken_for_one_that_writes(broken):
    from transformers import BertConfig, BertForMaskedLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertForMaskedLM(BertConfig(vocab_size=261, **shape)).save_pretrained(broken)
    with pytest.raises(Unsupported, match="A bert model does not generate text"):
        load_pico(broken)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "large"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 7},
        {"hidden_act": "nonsense"},
        {"rope_parameters": 5},
        {"rope_scaling": {"type": "nonsense"}},
        {"quantization_config": {}},
        {"model_type": ["llama"]},
        {"transformers_weights": "../model.safetensors"},
    ],
    ids=str,
)
def test_a_config_that_makes_no_sense_is_refused_in_words(broken, fields):
    change_json(broken / "config.json", **fields)
    with pytest.raises(Unsupported, match="cannot build a model of this config") as caught:
        load_pico(broken)
    assert len(caught.value.message.splitlines()) == 1


def test_code_of_a_model_is_never_run(broken):
    (broken / "mine.py").write_text("raise SystemExit('code of the model ran')")
    change_json(
        broken / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    )
    with pytest.raises(Unsupported, match="does not know this architecture"):
        load_pico(broken)


@pytest.mark.parametrize("kernel", ["flash_attention_2", "somebody/kernel", "nonsense"])
def test_how_a_config_wants_attention_computed_is_of_no_concern(broken, loaded, kernel):
    import torch

    change_json(broken / "config.json", _attn_implementation=kernel)
    assert torch.equal(logits(load_pico(broken).model), logits(loaded.model))


def test_a_broken_generation_config_does_not_stop_a_model_or_says_so(broken):
    (broken / "generation_config.json").write_text("{")
    assert load_pico(broken).resident.parameters > 0
    (broken / "generation_config.json").write_text("[]")
    with pytest.raises(Unsupported):
        load_pico(broken)


def test_weights_that_lie_about_their_shape_are_damaged(broken):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4]}}).encode()
    (broken / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(Damaged, match="weights cannot be read"):
        load_pico(broken)


def test_a_model_without_a_tokenizer_is_refused(broken):
    (broken / "tokenizer.json").unlink()
    with pytest.raises(Unsupported, match="without a tokenizer"):
        load_pico(broken)


# Room


def give(monkeypatch, free):
    monkeypatch.setattr(compute, "rooms", lambda: [Room("cpu", 300_000_000 + free)])


def test_a_model_that_does_not_fit_is_refused_before_anything_is_read(pico, monkeypatch):
    give(monkeypatch, 70_000)
    with pytest.raises(DoesNotFit, match=r"take 0\.00 GB, and cpu has 0\.00 GB for them") as caught:
        next(load(plan_of(pico), pico))
    assert caught.value.hint.startswith("Load it in bf16: ")
    assert outlook(LoadPlan(ModelRef("folder", str(pico)), Precision.BF16), pico).misfit is None


def test_a_model_that_fits_in_no_precision_is_told_without_a_false_hope(pico, monkeypatch):
    give(monkeypatch, 1000)
    for precision in Precision:
        ahead = outlook(LoadPlan(ModelRef("folder", str(pico)), precision), pico)
        assert ahead.misfit
        assert ahead.weights > 1000
        assert "Load it in" not in ahead.misfit.hint


# Adapters


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_on_top_says_what_peft_says(pico, adapter, loaded):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapted = load_pico(pico, adapter=adapter)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pico), str(adapter)).eval()
    assert torch.equal(logits(adapted.model), logits(theirs))
    assert not torch.allclose(logits(adapted.model), logits(loaded.model), atol=1e-3)
    assert adapted.resident.parameters > loaded.resident.parameters
    assert (adapted.resident.context, adapted.resident.plan.adapter) == (512, adapter)
    assert not adapted.model.training


def test_an_adapter_in_a_pickle_is_refused(pico, adapter, tmp_path):
    pickled = shutil.copytree(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(Unsupported, match=r"no adapter_model\.safetensors in pickled") as caught:
        load_pico(pico, adapter=pickled)
    assert "pickles are refused" in caught.value.hint


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("shape", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}], ids=str)
def test_an_adapter_of_another_model_is_refused(pico, tmp_path, shape):
    stranger = save_adapter(tmp_path / "adapter", save_pico(tmp_path / "other", **shape))
    with pytest.raises(Unsupported, match="adapter does not fit this model"):
        load_pico(pico, adapter=stranger)


def test_a_cut_adapter_is_damaged(pico, adapter, tmp_path):
    cut = shutil.copytree(adapter, tmp_path / "cut")
    (cut / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes()[:-5])
    with pytest.raises(Damaged, match=r"adapter_model\.safetensors is damaged"):
        load_pico(pico, adapter=cut)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "adapter does not fit this model"),
        ("{", "adapter_config.json"),
        ("[]", "adapter_config.json"),
        ("{}", "adapter does not fit this model"),
        ('{"peft_type": "NEWER"}', "adapter does not fit this model"),
    ],
)
def test_an_adapter_without_a_sound_config_is_refused(pico, adapter, tmp_path, text, words):
    odd = shutil.copytree(adapter, tmp_path / "odd")
    (odd / "adapter_config.json").unlink()
    if text is not None:
        (odd / "adapter_config.json").write_text(text)
    with pytest.raises(StudioError, match=words):
        load_pico(pico, adapter=odd)


# Giving up


def hooks():
    from transformers.utils import logging

    hook = logging.set_tqdm_hook(None)
    logging.set_tqdm_hook(hook)
    return hook


def test_the_progress_hook_of_transformers_is_put_back(pico, broken):
    from transformers.utils import logging

    def mine(factory, arguments, options):
        return factory(*arguments, **options)

    before = logging.set_tqdm_hook(mine)
    try:
        load_pico(pico)
        assert hooks() is mine
        change_json(broken / "config.json", num_hidden_layers=4)
        with pytest.raises(Damaged):
            load_pico(broken)
        assert hooks() is mine
    finally:
        logging.set_tqdm_hook(before)


def models_alive(kind):
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing).__name__ == kind]


def test_a_load_that_is_given_up_leaves_nothing_and_the_next_one_works(tmp_path):
    # Of a kind of its own, so that no other test's model is counted; large enough to be closed midway.
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = save_pico(tmp_path / "qwen")
    tokens = len(AutoTokenizer.from_pretrained(folder))
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=tokens, hidden_size=64, intermediate_size=128, num_hidden_layers=64, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, use_sliding_window=False,
        )
    ).save_pretrained(folder)  # fmt: skip
    assert models_alive("Qwen2ForCausalLM") == []
    work = load(plan_of(folder), folder)
    while next(work).total is None:
        """Until the first weights are read."""
    work.close()
    assert models_alive("Qwen2ForCausalLM") == []
    assert hooks() is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("studio-work")]
    assert load_pico(folder).resident.parameters > 2_000_000


def test_a_model_that_is_let_go_is_gone(pico):
    loaded = load_pico(pico)
    model = weakref.ref(loaded.model)
    del loaded
    gc.collect()
    assert model() is None
