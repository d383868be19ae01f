"""Small models of the kinds that can become GGUF files, tokenizers that learnt merges, and an export in a line."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from studio.events import Finished
from studio.exporting import Exported, ExportPlan, export
from studio.settings import ASSETS

STARTER = ASSETS / "starter_model"
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2, LLAMA3 = rf"{_WORD}|\p{{N}}{_REST}", rf"{_WORD}|\p{{N}}{{1,3}}{_REST}"
"""As the tokenizer.json of these families have them, which is not how llama.cpp does."""
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"]


def exported(folder: Path, target: Path, kind: str = "F32") -> Exported:
    """Export a folder and return what came of it."""
    *_, last = export(ExportPlan(folder, target, kind))
    assert isinstance(last, Finished)
    return last.result


def save_model(folder: Path, kind: str = "llama", tokenizer: Any = None, **config: Any) -> Path:
    """Write a model of that model_type with random weights and a tokenizer, the starter's by default; return it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = tokenizer or AutoTokenizer.from_pretrained(STARTER)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        # None of the defaults, so that each must have come from the file.
        "rms_norm_eps": 1e-4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **config}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:  # biases and norms are zeros and ones, with which nothing could be mixed up
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                elif "q_proj" in name or "k_proj" in name:
                    parameter.mul_(8)  # attention that looks somewhere, so that positions and heads count
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _sentences() -> tuple[str, ...]:
    from studio.tokenizer import bundled

    extra = (
        "I'LL say: it's 1234567 here,  there\n\nand WeirdCase everyWhere.\r\n",
        "a  12  B   c\t\td 3.14159 (x/y)...\n",
    )
    return (*(text for sample in bundled() for text in sample.texts), *extra * 30)


def trained(pre: Any, *, size: int = 900, whole_words: bool = False, normalizer: Any = None) -> Any:
    """A byte-level BPE tokenizer that learnt the bundled sentences, split by `pre` of the tokenizers library."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(ignore_merges=whole_words))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_sentences(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")


def split_by(pattern: str) -> Any:
    """A pre-tokenizer that cuts where a pattern says, and spells bytes."""
    from tokenizers import Regex, pre_tokenizers

    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
