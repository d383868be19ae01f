"""Adapters of every kind with random weights that are not zero, made by PEFT on tiny bases: name → how it is made."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from training_shapes import made

_ATTENTION, _GPT2 = ["q_proj", "v_proj"], ["c_attn", "c_proj", "c_fc"]
_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@dataclass(frozen=True)
class Variant:
    """A base and the adapter on it."""

    shape: str
    lora: dict[str, Any]
    base: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    """The vocabulary is enlarged to so many rows before the adapter is put on; 0 leaves it."""


def _llama(**lora: Any) -> Variant:
    return Variant("llama", {"target_modules": _ATTENTION, **lora})


def _untied(**lora: Any) -> Variant:
    return Variant("llama", {"target_modules": _ATTENTION, **lora}, {"tie_word_embeddings": False})


VARIANTS: dict[str, Variant] = {
    "q and v": _llama(),
    "all linear": _llama(target_modules="all-linear"),
    "a regular expression": _llama(target_modules=r".*layers\.1\.(self_attn\.[qk]_proj|mlp\.up_proj)"),
    "all but one": _llama(target_modules="all-linear", exclude_modules=["o_proj"]),
    "one layer": _llama(layers_to_transform=[1]),
    "rsLoRA": _llama(use_rslora=True),
    "DoRA": _llama(target_modules="all-linear", use_dora=True),
    "rsLoRA and DoRA": _llama(use_rslora=True, use_dora=True),
    "patterns": _llama(rank_pattern={"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 6}, alpha_pattern={"v_proj": 64}),
    "OLoRA converted": _llama(init_lora_weights="gaussian"),
    "orthogonal": _llama(init_lora_weights="orthogonal"),
    "biases that are trained": Variant("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of its own": Variant("qwen2", {"target_modules": _ATTENTION, "lora_bias": True}),
    "a head, untied": _untied(modules_to_save=["lm_head"]),
    "a head, tied": _llama(modules_to_save=["lm_head"]),
    "an embedding, tied": _llama(modules_to_save=["embed_tokens"]),
    "both, tied, and so kept": _llama(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "both, tied, and apart": _llama(modules_to_save=["embed_tokens", "lm_head"]),
    "norms": _llama(modules_to_save=["input_layernorm", "norm"]),
    "tokens, tied": _llama(trainable_token_indices=[3, 77, 5]),
    "tokens, untied": _untied(trainable_token_indices={"embed_tokens": [3, 77], "lm_head": [5]}),
    "new tokens, tied": Variant(
        "llama", {"target_modules": _ATTENTION, "trainable_token_indices": [264, 265]}, rows=266
    ),
    "new tokens, untied": Variant(
        "llama",
        {"target_modules": _ATTENTION, "trainable_token_indices": {"embed_tokens": [264, 265], "lm_head": [264, 265]}},
        {"tie_word_embeddings": False},
        rows=266,
    ),
    "a larger vocabulary, tied": Variant("llama", {"target_modules": _ATTENTION}, rows=272),
    "a larger vocabulary, untied": Variant(
        "llama", {"target_modules": _ATTENTION}, {"tie_word_embeddings": False}, rows=272
    ),
    "embedding and head adapted": _untied(target_modules=[*_ATTENTION, "embed_tokens", "lm_head"]),
    "embedding adapted with DoRA": _untied(target_modules=["q_proj", "embed_tokens", "lm_head"], use_dora=True),
    "embedding adapted, tied": _llama(target_modules=[*_ATTENTION, "embed_tokens"]),
    "head adapted, tied": _llama(target_modules=[*_ATTENTION, "lm_head"]),
    "GPT-2": Variant("gpt2", {"target_modules": _GPT2}),
    "GPT-2 with DoRA": Variant("gpt2", {"target_modules": _GPT2, "use_dora": True, "fan_in_fan_out": True}),
    "GPT-2 with biases": Variant("gpt2", {"target_modules": ["c_attn"], "bias": "lora_only"}),
    "Phi-3": Variant("phi3", {"target_modules": "all-linear"}),
    "Gemma 2": Variant("gemma2", {"target_modules": "all-linear"}),
    "OPT": Variant("opt", {"target_modules": "all-linear"}),
    "Mistral": Variant("mistral", {"target_modules": "all-linear", "use_dora": True}),
    "Mixtral": Variant("mixtral", {"target_modules": _ATTENTION, "target_parameters": _EXPERTS}),
    "Mixtral, all linear": Variant("mixtral", {"target_modules": "all-linear"}),
    "Mixtral, one half of its experts": Variant(
        "mixtral", {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}
    ),
    "Qwen3 with experts": Variant("qwen3_moe", {"target_modules": _ATTENTION, "target_parameters": _EXPERTS}),
    "Qwen2 with experts": Variant("qwen2_moe", {"target_modules": ["q_proj"], "target_parameters": _EXPERTS}),
    "gpt-oss": Variant("gpt_oss", {"target_modules": _ATTENTION, "target_parameters": _EXPERTS}),
}  # fmt: skip


def save_variant(name: str, folder: Path, change: Callable[[Any], None] | None = None) -> tuple[Path, Path]:
    """Write the base and the adapter of a variant below `folder`; `change` may do something to the model with it on."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    variant = VARIANTS[name]
    base, adapter = folder / "base", folder / "adapter"
    made(variant.shape, **variant.base).save_pretrained(base, max_shard_size="30KB")
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        if variant.rows:
            model.resize_token_embeddings(variant.rows)
        usual = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
        adapted = get_peft_model(model, LoraConfig(**usual | variant.lora))
        disturb(adapted)
        if change:
            change(adapted)
        adapted.save_pretrained(adapter)
    return base, adapter


@torch.no_grad()
def disturb(adapted: Any) -> None:
    """Give everything that is trained other values than it began with: those that are zero, and those that are not."""
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.05)


def on_top(base: Path, adapter: Path, **options: Any) -> Any:
    """The adapter on its base, by PEFT alone, the vocabulary enlarged where the adapter has more of it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, **options)
    rows = _rows_of(adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if rows > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(rows, mean_resizing=False)
        return PeftModel.from_pretrained(model, str(adapter)).eval()


def _rows_of(adapter: Path) -> int:
    from studio.checkpoint import read_header

    told = json.loads((adapter / "adapter_config.json").read_text())["trainable_token_indices"] or []
    highest = max((row for some in (told.values() if isinstance(told, dict) else [told]) for row in some), default=-1)
    header = read_header(adapter / "adapter_model.safetensors")
    tables = [
        entry["shape"][0] for name, entry in header.items() if name.endswith(("embed_tokens.weight", "wte.weight"))
    ]
    return max([highest + 1, *tables])
