"""A model folder into a GGUF file: the same weights, words and numbers for whoever opens it, or no file at all."""

from __future__ import annotations

import json
import shutil

import pytest
from exporting_steps import LLAMA3_ROPE, QWEN2, STARTER, exported, save_model, split_by, trained

from studio import gguf
from studio.exporting.proving import opened


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def packed(llama, tmp_path_factory):
    """The same Llama whole and in 4 bit, and what its export said."""
    place = tmp_path_factory.mktemp("gguf")
    return {kind: exported(llama, place / f"{kind}.gguf", kind) for kind in ("F32", "Q4_0")}


@pytest.fixture
def copied(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "copied")


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {"head_dim": 32, "tie_word_embeddings": True}),
        ("mistral", {"sliding_window": None, "num_key_value_heads": 4}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 128}),
    ],
)
def test_transformers_opens_the_file_as_the_same_model(kind, config, tmp_path):
    tokenizer = trained(split_by(QWEN2)) if kind.startswith("qwen") else None
    done = exported(save_model(tmp_path / "model", kind, tokenizer, **config), tmp_path / "model.gguf")
    assert done.architecture == kind.replace("mistral", "llama")
    assert done.likeness.tokens > 0
    assert (done.likeness.same, done.likeness.agreement) == (done.likeness.tokens, 1.0)
    assert done.likeness.logit_error < 1e-6
    assert (done.weight_error, done.not_compared) == (0.0, "")
    assert [caveat for caveat in done.caveats if "NFC" not in caveat] == []


def test_a_file_is_what_its_export_says(packed):
    for kind, done in packed.items():
        facts = gguf.read_gguf(done.file)
        assert (facts.quantization, facts.bytes, facts.supported) == (kind, done.bytes, True)
        assert done.likeness is not None
    assert packed["F32"].weight_error == 0 < 0.02 < packed["Q4_0"].weight_error < 0.15
    assert packed["F32"].likeness.logit_error == 0 < packed["Q4_0"].likeness.logit_error < 1


def test_weights_in_bf16_are_exact_in_a_file_of_bf16(tmp_path):
    done = exported(STARTER, tmp_path / "starter.gguf", "BF16")
    assert (done.weight_error, done.likeness.same, done.texts > 5_000) == (0.0, done.likeness.tokens, True)


def test_small_kinds_keep_embedding_and_head_in_eight_bit(packed):
    kinds = {tensor.name: tensor.tensor_type.name for tensor in opened(packed["Q4_0"].file).tensors}
    assert {kinds["token_embd.weight"], kinds["output.weight"]} == {"Q8_0"}
    assert kinds["blk.0.attn_q.weight"] == "Q4_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_rows_that_are_no_whole_blocks_stay_in_16_bit(tmp_path):
    folder = save_model(tmp_path / "model", hidden_size=48, num_attention_heads=4, num_key_value_heads=4)
    kinds = {t.name: t.tensor_type.name for t in opened(exported(folder, tmp_path / "x.gguf", "Q8_0").file).tensors}
    assert (kinds["blk.0.ffn_up.weight"], kinds["blk.0.ffn_down.weight"]) == ("F16", "Q8_0")


def test_the_head_says_what_the_config_says(llama, packed):
    fields = {key: field.contents() for key, field in opened(packed["F32"].file).fields.items()}
    config = json.loads((llama / "config.json").read_text())
    assert fields["llama.attention.head_count_kv"] == config["num_key_value_heads"] == 2
    assert fields["llama.rope.freq_base"] == 500.0
    assert fields["llama.context_length"] == 512
    assert fields["tokenizer.ggml.eos_token_id"] == 1
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == (STARTER / "chat_template.jinja").read_text()
    assert "tokenizer.ggml.bos_token_id" not in fields
    assert fields["general.name"] == llama.name


def test_a_reply_ends_at_every_token_of_the_generation_config(copied, tmp_path):
    (copied / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 1]}))
    fields = opened(exported(copied, tmp_path / "x.gguf").file).fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 1
    assert fields["tokenizer.ggml.eot_token_id"].contents() == 3


def test_scaled_positions_are_written_and_transformers_is_known_to_leave_them_out(tmp_path):
    rope = {**LLAMA3_ROPE, "original_max_position_embeddings": 64}
    done = exported(save_model(tmp_path / "model", rope_parameters=rope), tmp_path / "x.gguf")
    held = next(t.data for t in opened(done.file).tensors if t.name == "rope_freqs.weight")
    # The fastest pair turns as before, the slowest eight times slower.
    assert (len(held), held[0], held[-1]) == (8, 1.0, 8.0)
    assert all(1 <= value <= 8 for value in held)
    assert done.likeness is None
    assert "llama3" in done.not_compared
