"""Configs of models that tests ask about: some as they are published, some as small as they can be."""

from __future__ import annotations

from typing import Any


def config(model_type: str = "", **fields: Any) -> dict[str, Any]:
    """A config.json, or a part of one."""
    return {"model_type": model_type, **fields} if model_type else fields


PUBLISHED: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": config(
        model_type="llama", vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False, max_position_embeddings=131_072,
    ),
    "llama-3.1-70b": config(
        model_type="llama", vocab_size=128_256, hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80,
        num_attention_heads=64, num_key_value_heads=8, tie_word_embeddings=False, max_position_embeddings=131_072,
    ),
    "llama-3.2-1b": config(
        model_type="llama", vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
        max_position_embeddings=131_072,
    ),
    "mistral-7b": config(
        model_type="mistral", vocab_size=32_000, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, sliding_window=4096, tie_word_embeddings=False,
        max_position_embeddings=32_768,
    ),
    "llama-2-7b": config(
        model_type="llama", vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, tie_word_embeddings=False, max_position_embeddings=4096,
    ),
    "qwen3-0.6b": config(
        model_type="qwen3", vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        max_position_embeddings=40_960,
    ),
    "mixtral-8x7b": config(
        model_type="mixtral", vocab_size=32_000, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, num_local_experts=8, num_experts_per_tok=2,
        tie_word_embeddings=False, max_position_embeddings=32_768,
    ),
    "qwen3-30b-a3b": config(
        model_type="qwen3_moe", vocab_size=151_936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=48,
        num_attention_heads=32, num_key_value_heads=4, head_dim=128, num_experts=128, num_experts_per_tok=8,
        moe_intermediate_size=768, tie_word_embeddings=False, max_position_embeddings=40_960,
    ),
}  # fmt: skip
_BASE = config(vocab_size=512, hidden_size=128, intermediate_size=256, num_attention_heads=8, num_key_value_heads=2)
_MOE = config(num_experts_per_tok=2, moe_intermediate_size=64)
TINY: dict[str, dict[str, Any]] = {
    "llama": config(model_type="llama", **_BASE, num_hidden_layers=3),
    "qwen2": config(model_type="qwen2", **_BASE, num_hidden_layers=3, tie_word_embeddings=True),
    "gpt2": config(model_type="gpt2", vocab_size=512, n_embd=128, n_head=8, n_layer=3, bos_token_id=0, eos_token_id=0),
    "mixtral": config(model_type="mixtral", **_BASE, num_hidden_layers=2, num_local_experts=4),
    "qwen3_moe": config(model_type="qwen3_moe", **_BASE, head_dim=16, num_hidden_layers=2, num_experts=4, **_MOE),
    "mistral, sliding": config(model_type="mistral", **_BASE, num_hidden_layers=3, sliding_window=32),
    "gemma3": config(
        model_type="gemma3_text", **_BASE, head_dim=16, num_hidden_layers=6, sliding_window=32, pad_token_id=0
    ),
    "gpt_oss": config(
        model_type="gpt_oss", **_BASE, head_dim=16, num_hidden_layers=4, sliding_window=32, num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "deepseek_v3": config(
        model_type="deepseek_v3", vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=8, num_key_value_heads=8, n_routed_experts=8, n_group=2, topk_group=1, kv_lora_rank=32,
        q_lora_rank=48, qk_rope_head_dim=16, qk_nope_head_dim=32, v_head_dim=32, first_k_dense_replace=1, **_MOE,
    ),
    "qwen3_next": config(
        model_type="qwen3_next", **_BASE, head_dim=16, num_hidden_layers=4, linear_key_head_dim=16,
        linear_value_head_dim=16, linear_num_key_heads=4, linear_num_value_heads=8, num_experts=4,
        shared_expert_intermediate_size=64, **_MOE,
    ),
    "mamba2": config(
        model_type="mamba2", vocab_size=512, hidden_size=64, num_hidden_layers=3, num_heads=8, head_dim=16,
        state_size=16, n_groups=2,
    ),
    "falcon_h1": config(
        model_type="falcon_h1", **_BASE, num_hidden_layers=3, mamba_d_ssm=128, mamba_n_heads=8, mamba_d_head=16,
        mamba_d_state=16,
    ),
    "lfm2": config(model_type="lfm2", **_BASE, num_hidden_layers=4, layer_types=["conv", "full_attention"] * 2),
}  # fmt: skip


def real_model(shape: dict[str, Any], **options: Any) -> Any:
    """The model of a config with random weights, as transformers makes it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in shape.items() if key != "model_type"}
    with torch.random.fork_rng():
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(shape["model_type"], **fields), **options)
