"""Steps that tests of the proof of a merge share: bases, adapters and merges on the disk, and a proof to its end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from pico import CHAT_TEMPLATE, byte_tokenizer
from training_shapes import made

from studio import merging
from studio.models import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def save_base(
    folder: Path, shape: str = "llama", *, dtype: str = "fp32", shard: str = "1GB", seed: int = 0, **config: Any
) -> Path:
    """Write a small model with random weights and a tokenizer."""
    # What is sharp enough to be read apart and not so sharp that a random reply hangs on the last bit.
    model = made(shape, seed=seed, **{"initializer_range": 0.1, **config}).to(DTYPES[dtype])
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def save_lora(folder: Path, base: Path, *, seed: int = 1, rows: int = 0, **config: Any) -> Path:
    """Write an adapter with random weights. `rows` are tokens that the base has no row for."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(model.get_input_embeddings().weight.shape[0] + rows, mean_resizing=False)
    usual = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(**{**usual, **config}))
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                scale = 0.05 if "lora_" in name and "magnitude" not in name else 0.02
                parameter.data += scale * torch.randn(parameter.shape)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def save_merged(
    folder: Path, base: Path, adapter: Path, *, dtype: str = "fp32", once: bool = True, shard: str = "1GB", **how: Any
) -> Path:
    """Merge with PEFT alone: in fp32 and rounded `once` in the end, or in the dtype from the start."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from studio.loading.reading import make_room_for_tokens

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32 if once else DTYPES[dtype])
    make_room_for_tokens(model, adapter)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(**how)
    merged.to(DTYPES[dtype]).save_pretrained(folder, max_shard_size=shard)
    for file in base.iterdir():
        if not (folder / file.name).exists() and "model" not in file.name:
            shutil.copy(file, folder)
    return folder


def proven(base: Path, adapter: Path, merged: Path, precision: str = "fp32", **question: Any) -> merging.Proof:
    """The proof of a merge."""
    asked = {"reply_tokens": 8, **question}
    *_, last = merging.prove(merging.ProofQuestion(base, adapter, merged, Precision(precision), **asked))
    return last.result


def failed(proof: merging.Proof) -> set[str]:
    """The names of the checks that failed."""
    assert proof.passed is not bool(proof.failed)
    return {check.name for check in proof.failed}


def change_tensor(file: Path, name: str, change: Any) -> None:
    """Write a tensor of a safetensors file anew."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    tensors[name] = change(tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})


def edit(file: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **fields}), encoding="utf-8")
