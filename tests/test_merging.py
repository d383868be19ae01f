"""A merged model says what base and adapter say, for every kind of adapter, and to the bits of PEFT."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest
import torch
from adapter_steps import error, logits
from adapter_variants import VARIANTS, on_top, save_variant
from merging_steps import loaded, merged, tensors
from pico import change_json, save_adapter, save_pico
from safetensors.torch import save_file

from studio import adapters, compute
from studio.adapters import stored
from studio.errors import InputError
from studio.events import Phase, Progress
from studio.merging import AS_BASE, MergePlan, merge, read_merged

_NOT_BY_PEFT = ("embedding adapted, tied", "head adapted, tied")
"""PEFT merges these wrong: both weights change where one was to."""
_FUSED = ("Mixtral", "Qwen", "gpt-oss")
"""PEFT adds the updates of all experts in one product, which has other last bits."""
_ALIKE = [name for name in VARIANTS if name not in _NOT_BY_PEFT and not name.startswith(_FUSED)]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_merged_model_says_what_base_and_adapter_say_to_the_bits_of_peft(name, tmp_path):
    base, adapter = save_variant(name, tmp_path)
    together = logits(on_top(base, adapter))
    done = merged(base, adapter, tmp_path / "out", dtype="fp32", shard_size=3e-5)
    assert done.way == "streamed", done.why
    assert done.files > 1
    assert done.changed == done.expected
    assert error(logits(loaded(tmp_path / "out")), together) < 1e-5
    if not VARIANTS[name].rows:
        assert error(logits(loaded(base)), together) > 1e-2
    if name in _ALIKE:
        expected = on_top(base, adapter).merge_and_unload(safe_merge=False).state_dict()
        merged(base, adapter, tmp_path / "half")
        for parameter, weight in loaded(tmp_path / "half", torch.bfloat16).state_dict().items():
            assert torch.equal(weight, expected[parameter].to(torch.bfloat16)), parameter


@pytest.mark.parametrize("name", ["all linear", "DoRA", "GPT-2", "GPT-2 with DoRA", "patterns", "biases of its own"])
def test_a_base_in_bf16_has_the_bits_of_an_unsafe_merge_by_peft(name, tmp_path):
    base, adapter = save_variant(name, tmp_path)
    half = tmp_path / "half"
    loaded(base).to(torch.bfloat16).save_pretrained(half)
    merged(half, adapter, tmp_path / "out")
    expected = on_top(half, adapter, dtype=torch.bfloat16).merge_and_unload(safe_merge=False).state_dict()
    for parameter, weight in loaded(tmp_path / "out", torch.bfloat16).state_dict().items():
        assert torch.equal(weight, expected[parameter]), parameter


@pytest.mark.parametrize(
    "name", ["GPT-2 with DoRA", "DoRA", "embedding and head adapted", "new tokens, tied", "Mixtral", "gpt-oss"]
)
def test_a_merge_in_small_pieces_is_the_same_model(name, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "PIECE", 300)
    base, adapter = save_variant(name, tmp_path)
    together = logits(on_top(base, adapter))
    merged(base, adapter, tmp_path / "out", dtype="fp32")
    assert error(logits(loaded(tmp_path / "out")), together) < 1e-5


def test_each_dtype_is_what_was_asked_for(tmp_path):
    base, adapter = save_variant("norms", tmp_path)
    half = tmp_path / "half"
    loaded(base).to(torch.float16).save_pretrained(half)
    for dtype, expected in {"bf16": "BF16", "fp16": "F16", "fp32": "F32", AS_BASE: "F16"}.items():
        done = merged(half, adapter, tmp_path / dtype, dtype=dtype)
        places = stored.places(sorted((tmp_path / dtype).glob("*.safetensors")))
        assert {place.dtype for place in places.values()} == {expected}
        assert done.bytes == sum(place.bytes for place in places.values())
        config = json.loads((tmp_path / dtype / "config.json").read_text())
        assert config["dtype"] == {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[expected]


def test_files_are_no_larger_than_asked_and_the_index_is_whole(tmp_path):
    base, adapter = save_variant("all linear", tmp_path)
    done = merged(base, adapter, tmp_path / "out", shard_size=1.2e-5)
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) == done.files > 3
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == done.bytes
    assert set(index["weight_map"]) == set(tensors(tmp_path / "out"))
    largest = max(tensor.nbytes for tensor in tensors(tmp_path / "out").values())
    assert all(sum(p.bytes for p in stored.places([file]).values()) <= max(1.2e4, largest) for file in files)


def test_what_a_merge_did_is_kept_in_its_folder(tmp_path):
    base, adapter = save_variant("q and v", tmp_path)
    done = merged(base, adapter, tmp_path / "out")
    assert read_merged(tmp_path / "out") == done
    assert done.base_fingerprint == adapters.fingerprint(base)
    assert done.adapter_fingerprint == adapters.fingerprint(adapter)
    assert {name.split(".")[4] for name in done.changed} == {"q_proj", "v_proj"}
    assert (done.tensors, len(done.changed), done.untied, done.onto) == (20, 4, False, "original")
    assert done.seconds > 0
    assert done.peak > 50e6
    assert str(tmp_path) not in json.dumps({**asdict(done), "base": ""})


def test_progress_is_counted_in_bytes_to_the_last_one(pico, tmp_path):
    events = list(merge(MergePlan(pico, save_adapter(tmp_path / "a", pico), tmp_path / "out")))
    written = [event for event in events if isinstance(event, Progress) and event.phase is Phase.MERGE]
    assert events[0].phase in (Phase.WARM_UP, Phase.CHECK)
    assert written[-1].done == written[-1].total == events[-1].result.bytes


def test_what_the_adapter_leaves_alone_is_the_base_byte_for_byte(tmp_path):
    base, adapter = save_variant("one layer", tmp_path)
    done = merged(base, adapter, tmp_path / "out", dtype=AS_BASE)
    before, after = tensors(base), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(done.changed)
    assert len(done.changed) == 2


def test_an_update_that_a_coarse_dtype_swallows_is_no_change(tmp_path):
    base, adapter = save_variant("q and v", tmp_path, change=_faint)
    loaded(base).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert merged(tmp_path / "half", adapter, tmp_path / "fine", dtype="fp32").changed
    done = merged(tmp_path / "half", adapter, tmp_path / "coarse", dtype="bf16")
    assert (len(done.expected), done.changed) == (4, ())


def _faint(model):
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data *= 1e-6


def test_a_head_that_comes_apart_is_written_and_the_config_says_so(tmp_path):
    base, adapter = save_variant("a head, tied", tmp_path)
    done = merged(base, adapter, tmp_path / "out")
    assert done.untied
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head.weight" in tensors(tmp_path / "out")


def test_a_larger_vocabulary_is_in_the_config(tmp_path):
    base, adapter = save_variant("new tokens, tied", tmp_path)
    assert merged(base, adapter, tmp_path / "out").vocabulary == 266
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 266


def test_a_base_without_the_prefix_of_its_class_keeps_its_names(tmp_path):
    base, adapter = save_variant("GPT-2", tmp_path)
    together = logits(on_top(base, adapter))
    plain = {name.removeprefix("transformer."): tensor for name, tensor in tensors(base).items()}
    for file in base.glob("model*"):
        file.unlink()
    save_file(plain, base / "model.safetensors", metadata={"format": "pt"})
    done = merged(base, adapter, tmp_path / "out", dtype="fp32")
    assert "h.0.attn.c_attn.weight" in done.changed
    assert error(logits(loaded(tmp_path / "out")), together) < 1e-5


# What lies beside the weights


def test_tokenizer_and_template_of_the_base_come_along(pico, tmp_path):
    shutil.copytree(pico, tmp_path / "base")
    (tmp_path / "base" / "LICENSE").write_text("mine")
    (tmp_path / "base" / "modeling.py").write_text("raise SystemExit")
    merged(tmp_path / "base", save_adapter(tmp_path / "a", pico), tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
    assert not (tmp_path / "out" / "modeling.py").exists()


def test_a_tokenizer_beside_the_adapter_wins_whole(pico, tmp_path):
    adapter = save_adapter(tmp_path / "a", pico)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pico / name, adapter)
    change_json(adapter / "tokenizer_config.json", model_max_length=77)
    merged(pico, adapter, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 77
    assert not (tmp_path / "out" / "chat_template.jinja").exists()


def test_a_template_beside_the_adapter_wins_alone(pico, tmp_path):
    adapter = save_adapter(tmp_path / "a", pico)
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    merged(pico, adapter, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (pico / "tokenizer.json").read_bytes()


def test_a_plan_in_one_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="one folder"):
        MergePlan(tmp_path, tmp_path / "a", tmp_path)


@pytest.mark.parametrize("change", [{"dtype": "int8"}, {"shard_size": 0.0}, {"onto": "air"}, {"precision": "nf4"}])
def test_a_plan_that_makes_no_sense_is_refused(tmp_path, change):
    with pytest.raises(InputError):
        MergePlan(tmp_path / "b", tmp_path / "a", tmp_path / "o", **change)


def test_a_merge_takes_the_memory_of_a_few_tensors(tmp_path):
    # 170 MB of weights, and at most 4 MB in one tensor: a merge that held even a fifth of them would be seen.
    base = save_pico(tmp_path / "base", hidden_size=512, intermediate_size=2048, num_hidden_layers=10)
    adapter = save_adapter(tmp_path / "a", base)
    compute.release()
    before = compute.process_memory()
    assert merged(base, adapter, tmp_path / "out").peak - before < 30e6
