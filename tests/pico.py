"""The smallest model that is a real one: made in a second, so that tests load, generate and break it for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def save_pico(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE, context: int = 512, **config: Any) -> Path:
    """Write a Llama with random weights from a fixed seed and a tokenizer of single bytes to `folder`; return it.

    `config` overrides any field of LlamaConfig.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = chat_template
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**{**shape, **config}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, *, targets: tuple[str, ...] = ("q_proj", "v_proj"), rank: int = 4) -> Path:
    """Write a LoRA adapter with random weights, so that it changes what the model says, to `folder`; return it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(
        r=rank, lora_alpha=16 * rank, target_modules=list(targets), task_type="CAUSAL_LM", init_lora_weights=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def load_pico(folder: Path, **plan: Any) -> Any:
    """The model of a folder in memory, in fp32 unless `plan` says otherwise."""
    from studio.loading import LoadPlan, load
    from studio.models import ModelRef, Precision

    work = load(LoadPlan(**{"model": ModelRef("folder", str(folder)), "precision": Precision.FP32, **plan}), folder)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def change_json(file: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def byte_tokenizer() -> Any:
    """A byte-level BPE tokenizer without merges: one token a byte, plus the special tokens of the template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>", additional_special_tokens=SPECIAL[2:]
    )
