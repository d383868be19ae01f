"""Architectures at their smallest, for what a fine-tuning has to know of each."""

from __future__ import annotations

from typing import Any

SMALL = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "tie_word_embeddings": True},
    "qwen2": {**SMALL, "tie_word_embeddings": False},
    "mistral": {**SMALL, "sliding_window": 8, "max_position_embeddings": 256},
    "gemma2": {**SMALL, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "phi3": {**SMALL},
    "gpt2": {
        "vocab_size": 264,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        "bos_token_id": 1,
        "eos_token_id": 1,
    },
    "opt": {
        "vocab_size": 264,
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 1,
    },
    "mamba": {"vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 2},
    "mixtral": {**SMALL, "num_local_experts": 4},
    "qwen2_moe": {**SMALL, **_EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {**SMALL, **_EXPERTS, "head_dim": 8},
    "gpt_oss": {**SMALL, "num_local_experts": 4, "head_dim": 8},
    "deepseek_v3": {
        **SMALL,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
}


def made(shape: str, *, seed: int = 0, **changes: Any) -> Any:
    """A model with random weights from a seed. Its attention is sharp, so that what leaks into it shows."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(shape, **{**SHAPES[shape], "initializer_range": 0.2, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def skeleton(shape: str, **changes: Any) -> Any:
    """The same on the meta device."""
    import torch

    with torch.device("meta"):
        model = made(shape, **changes)
    model.tie_weights()
    return model
