"""Sound merges pass the proof, whatever the adapter is, and each way in which one goes wrong is caught."""

from __future__ import annotations

import shutil

import pytest
import torch
from pico import byte_tokenizer
from proof_steps import change_tensor, failed, proven, save_base, save_lora, save_merged
from safetensors.torch import load_file, save_file

ALL = {"target_modules": "all-linear"}
BF16 = {"dtype": "bf16"}
SOUND = {
    "fp32, q and v, tied": ({}, {}, {}),
    "bf16, q and v, in bf16 from the start": (BF16, {}, {**BF16, "once": False}),
    "bf16, all linear, rounded twice": (BF16, ALL, {**BF16, "once": False, "safe_merge": True}),
    "bf16 of an fp32 base": ({}, ALL, {**BF16, "once": False}),
    "fp16, all linear": ({}, ALL, {"dtype": "fp16"}),
    "DoRA in bf16": (BF16, {**ALL, "use_dora": True}, {**BF16, "once": False}),
    "rsLoRA with patterns": (
        BF16,
        {**ALL, "use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 3}},
        BF16,
    ),
    "a head trained whole": ({"shape": "qwen2", **BF16}, {"modules_to_save": ["lm_head"]}, BF16),
    "an embedding trained whole and so untied": ({}, {"modules_to_save": ["embed_tokens"]}, {}),
    "head and embedding trained whole and tied": (
        {},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {},
    ),
    "GPT-2 with its biases": (
        {"shape": "gpt2"},
        {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "bias": "all"},
        {},
    ),
    "some tokens": (BF16, {"trainable_token_indices": [7, 20, 21]}, BF16),
    "added tokens": ({}, {"trainable_token_indices": [264, 265], "rows": 2}, {}),
    "fused experts": ({"shape": "mixtral"}, {"target_parameters": ["mlp.experts.gate_up_proj"]}, BF16),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A merge of every sort, made once: base, adapter and merged folder, and the precision."""
    made = {}

    def place(sort):
        if sort not in made:
            base, adapter, merge = SOUND[sort]
            root = tmp_path_factory.mktemp("proof")
            folders = save_base(root / "base", **base), save_lora(root / "adapter", root / "base", **adapter)
            made[sort] = *folders, save_merged(root / "merged", *folders, **merge), merge.get("dtype", "fp32")
        return made[sort]

    return place


@pytest.fixture
def sharded(tmp_path):
    """A sound bf16 merge in three files, to be spoilt."""
    base = save_base(tmp_path / "base", dtype="bf16", shard="20KB")
    adapter = save_lora(tmp_path / "adapter", base, **ALL)
    return base, adapter, save_merged(tmp_path / "merged", base, adapter, dtype="bf16", shard="20KB")


@pytest.mark.parametrize("sort", SOUND)
def test_a_sound_merge_passes(sort, places):
    *folders, precision = places(sort)
    proof = proven(*folders, precision)
    assert failed(proof) == set(), [check.words for check in proof.failed]
    assert proof.whole
    assert [check.name for check in proof.checks if check.state == "not done"] == ["perplexity"]
    assert proof["changed"].found == proof["changed"].limit > 0


@pytest.mark.parametrize("sort", SOUND)
def test_a_sound_merge_passes_tensor_by_tensor(sort, places):
    *folders, precision = places(sort)
    proof = proven(*folders, precision, free_bytes=0)
    assert failed(proof) == set(), [check.words for check in proof.failed]
    assert not proof.whole
    assert proof.covered.startswith("Tensor by tensor: all ")
    assert {check.name for check in proof.checks if check.state == "not done"} == {
        *("reload", "scores", "mean score", "KL", "replies", "perplexity")
    }


@pytest.mark.parametrize("free_bytes", [None, 0])
def test_a_merge_into_another_base_of_the_same_shapes_is_caught(free_bytes, tmp_path):
    mine, other = save_base(tmp_path / "mine"), save_base(tmp_path / "other", seed=5)
    adapter = save_lora(tmp_path / "adapter", mine)
    merged = save_merged(tmp_path / "merged", other, adapter)
    proof = proven(mine, adapter, merged, free_bytes=free_bytes)
    assert {"other weights", "adapted weights"} <= failed(proof)
    assert "are not those of the base" in proof["other weights"].words
    assert ("scores" in failed(proof)) is (free_bytes is None)


def test_an_adapter_with_nan_is_caught_in_itself_and_in_the_merge(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_lora(tmp_path / "adapter", base)
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"

    def spoil(tensor):
        tensor[3, 1] = torch.nan
        return tensor

    change_tensor(adapter / "adapter_model.safetensors", name, spoil)
    proof = proven(base, adapter, save_merged(tmp_path / "merged", base, adapter))
    assert {"adapter", "numbers"} <= failed(proof)
    assert name in proof["adapter"].words
    assert "layers.1.self_attn.v_proj.weight" in proof["numbers"].words
    assert proof["scores"].state == "not done"


@pytest.mark.parametrize("free_bytes", [None, 0])
def test_a_shard_that_was_left_unmerged_is_caught(free_bytes, sharded):
    base, adapter, merged = sharded
    shards = sorted(file.name for file in merged.glob("*.safetensors"))
    assert len(shards) > 2
    before = {name: tensor for file in base.glob("*.safetensors") for name, tensor in load_file(file).items()}
    spoilt = next(merged / name for name in shards if any("q_proj" in key for key in load_file(merged / name)))
    save_file({name: before[name] for name in load_file(spoilt)}, spoilt, metadata={"format": "pt"})
    proof = proven(base, adapter, merged, "bf16", free_bytes=free_bytes)
    assert {"changed", "adapted weights"} <= failed(proof)
    assert proof["other weights"].state == "passed"
    assert proof["changed"].found < proof["changed"].limit


def test_a_tokenizer_of_another_revision_is_caught(sharded):
    base, adapter, merged = sharded
    other = byte_tokenizer()
    vocabulary = other.get_vocab()
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    text = (merged / "tokenizer.json").read_text(encoding="utf-8")
    for token, number in (("e", vocabulary["t"]), ("t", vocabulary["e"])):
        assert f'"{token}": {number}' in text
        text = text.replace(f'"{token}": {number}', f'"{token}": {vocabulary[token]}')
    (merged / "tokenizer.json").write_text(text, encoding="utf-8")
    proof = proven(base, adapter, merged, "bf16")
    assert failed(proof) == {"tokenizer"}
    assert "texts become other tokens" in proof["tokenizer"].words


def test_another_chat_template_is_caught(sharded):
    base, adapter, merged = sharded
    file = merged / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace("<|end|>\n", "<|end|>"), encoding="utf-8")
    assert failed(proven(base, adapter, merged, "bf16")) == {"chat template"}


def test_the_template_and_the_tokenizer_of_the_adapter_count_where_it_has_them(sharded):
    base, adapter, merged = sharded
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    tokenizer.save_pretrained(adapter)
    assert failed(proven(base, adapter, merged, "bf16")) >= {"chat template"}
    tokenizer.save_pretrained(merged)
    assert failed(proven(base, adapter, merged, "bf16")) == set()


def test_what_a_full_disk_cut_off_is_caught(tmp_path, small_disk):
    base = save_base(tmp_path / "base", vocab_size=40_000)
    adapter = save_lora(tmp_path / "adapter", base)
    whole = save_merged(tmp_path / "merged", base, adapter)
    merged = small_disk / "merged"
    merged.mkdir()
    *small, largest = sorted(whole.iterdir(), key=lambda each: each.stat().st_size)
    for file in small:
        shutil.copyfile(file, merged / file.name)
    with pytest.raises(OSError, match="No space left"):
        shutil.copyfile(largest, merged / largest.name)
    proof = proven(base, adapter, merged)
    assert failed(proof) == {"files"}
    assert "bytes of" in proof["files"].words
    assert all(check.state == "not done" for check in proof.checks if check.name != "files")


def test_a_merge_with_a_wrong_scale_is_caught_where_rounding_would_hide_half_of_it(tmp_path):
    base = save_base(tmp_path / "base", dtype="bf16")
    adapter = save_lora(tmp_path / "adapter", base, **ALL)
    weaker = shutil.copytree(adapter, tmp_path / "weaker")
    config = (weaker / "adapter_config.json").read_text(encoding="utf-8")
    (weaker / "adapter_config.json").write_text(config.replace('"lora_alpha": 8', '"lora_alpha": 6'), encoding="utf-8")
    proof = proven(base, adapter, save_merged(tmp_path / "merged", base, weaker, dtype="bf16"), "bf16")
    assert "adapted weights" in failed(proof)
    assert proof["changed"].state == "passed"


@pytest.mark.parametrize("reached", [True, False])
def test_a_single_number_that_is_not_right_is_caught(reached, tmp_path):
    base = save_base(tmp_path / "base", dtype="bf16")
    adapter = save_lora(tmp_path / "adapter", base)
    merged = save_merged(tmp_path / "merged", base, adapter, dtype="bf16")
    name = f"model.layers.0.self_attn.{'q' if reached else 'k'}_proj.weight"

    def spoil(tensor):
        # Two steps of bf16 where it is reached: one more than rounding, twice over, could be off.
        tensor.view(torch.int16)[2, 3] += 3 if reached else 1
        return tensor

    change_tensor(merged / "model.safetensors", name, spoil)
    proof = proven(base, adapter, merged, "bf16", free_bytes=0)
    assert failed(proof) == {"adapted weights" if reached else "other weights"}
    assert name in proof["adapted weights" if reached else "other weights"].words
