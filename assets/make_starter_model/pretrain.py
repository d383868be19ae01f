"""Train the starter model from scratch on the CPU: tokenizer, weights and generation settings in one folder.

    python assets/make_starter_model/pretrain.py [--steps N] [--output DIR]
    python assets/make_starter_model/pretrain.py --resume DIR --steps 1800 --rate 8e-4 --seed 8

The budget is a number of steps, so the same seed sees the same rows on any machine. The second line goes on from
weights that were trained before; the starter was made by both.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import corpus
import torch
from batches import batches, loss_of
from tokenizer import MAX_TOKENS, build_tokenizer, encode, save_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig
from transformers.utils.logging import disable_progress_bar

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

STARTER = Path(__file__).resolve().parents[1] / "starter_model"
TOKENS_PER_STEP = 3072
ROWS_PER_CHUNK = 12_000
WARMUP_STEPS = 100
FAST_ATTENTION = {"attn_implementation": "eager", "dtype": torch.float32}
"""Plain attention is 1.4 times as fast as SDPA on a CPU for rows as short as these."""
WEIGHT_DECAY = 0.05
VALIDATION_ROWS = 150
VALIDATION_SEED = 999


STEPS = 6500
LEARNING_RATE = 2e-3
FLAT_SHARE = 0.4
"""The learning rate warms up, stays flat for this share of the steps, then goes straight down to almost zero."""


def rate_at(step: int, steps: int, highest: float) -> float:
    """The learning rate of one step."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    remaining = (1 - step / steps) / (1 - FLAT_SHARE)
    return highest * min(warmup, max(0.01, min(1.0, remaining)))


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama of 3.9 million weights: 4 layers of 256, 4 heads of 64 (faster on a CPU than 8 of 32)."""
    return AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=MAX_TOKENS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        **FAST_ATTENTION,
    )


def training_batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end, from rows that are written as they are needed."""
    for chunk in count():
        rows = list(corpus.rows(seed * 100_000 + chunk, ROWS_PER_CHUNK))
        encoded = [(ids[:MAX_TOKENS], labels[:MAX_TOKENS]) for ids, labels in encode(tokenizer, rows)]
        yield from batches(encoded, TOKENS_PER_STEP, random.Random(f"order {seed} {chunk}"))


@torch.no_grad()
def validation_losses(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """The loss on rows of each kind that were drawn apart from the training rows."""
    losses = {}
    for kind in corpus.KINDS:
        rows = encode(tokenizer, corpus.rows_of_kind(kind, VALIDATION_SEED, VALIDATION_ROWS))
        total = tokens = 0
        for ids, labels in batches(rows, TOKENS_PER_STEP, random.Random(0)):
            learned = int((labels[:, 1:] != -100).sum())
            total += loss_of(model.model, model.lm_head, ids, labels).item() * learned
            tokens += learned
        losses[kind] = round(total / tokens, 4)
    return losses


def begin(seed: int, folder: Path | None) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model and a tokenizer to train: fresh ones, or those of a folder."""
    torch.manual_seed(seed)
    if folder:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, **FAST_ATTENTION), tokenizer
    tokenizer = build_tokenizer(seed)
    return build_model(tokenizer), tokenizer


@dataclass(frozen=True, slots=True)
class Course:
    """How to train: for how many steps, from which seed, at which highest learning rate."""

    steps: int = STEPS
    seed: int = 7
    rate: float = LEARNING_RATE
    compiled: bool = False
    report_every: int = 250


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, course: Course) -> dict[str, Any]:
    """Train the model in place; gives what was measured."""
    steps, seed = course.steps, course.seed
    model.train()
    decoder = torch.compile(model.model, dynamic=True) if course.compiled else model.model
    optimizer = _optimizer(model)
    started, tokens, total = time.monotonic(), 0, 0.0
    for step, (ids, labels) in zip(range(steps), training_batches(tokenizer, seed)):  # noqa: B905
        total = 0.98 * total + 0.02 * _learn(decoder, model, optimizer, ids, labels, rate_at(step, steps, course.rate))
        recent = total / (1 - 0.98 ** (step + 1))  # a running mean that is right from the first step on
        tokens += ids.numel()
        if (step + 1) % course.report_every == 0 or step + 1 == steps:
            seconds, losses = time.monotonic() - started, validation_losses(model, tokenizer)
            print(f"step {step + 1}/{steps}  {seconds:.0f} s  {tokens / 1e6:.2f} M tokens  "
                  f"{tokens / seconds:.0f} tokens/s  loss {recent:.3f}  validation {losses}", flush=True)  # fmt: skip
    return {"steps": steps, "tokens": tokens, "minutes": round((time.monotonic() - started) / 60, 1),
                "training_loss": round(recent, 4), "validation_losses": losses, "seed": seed}  # fmt: skip


def _learn(
    decoder: torch.nn.Module, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, ids: torch.Tensor,
    labels: torch.Tensor, rate: float,
) -> float:  # fmt: skip
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(decoder, model.lm_head, ids, labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    norms = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, measured: dict, folder: Path) -> None:
    """Write everything beside the final folder first and then exchange the files one by one, so none is ever half."""
    draft = folder.with_name(folder.name + ".draft")
    draft.mkdir(parents=True)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.5, top_p=0.9, max_new_tokens=256,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model.to(torch.bfloat16).save_pretrained(draft)
    save_tokenizer(tokenizer, draft)
    (draft / "training.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for file in draft.iterdir():
        file.chmod(0o644)  # the weights are written for their owner only
        file.replace(folder / file.name)
    draft.rmdir()


def main() -> None:
    """Read the command line, train and save."""
    parser = argparse.ArgumentParser(description="Train the starter model from scratch on the CPU.")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer steps try it out")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=float, default=LEARNING_RATE, help="the highest learning rate")
    parser.add_argument("--resume", type=Path, help="go on from the weights in this folder")
    parser.add_argument("--output", type=Path, default=STARTER)
    parser.add_argument("--report-every", type=int, default=250, help="steps between two lines of progress")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=shutil.which("g++") is not None,
                        help="use torch.compile, 1.3 times as fast (default: where g++ is installed)")  # fmt: skip
    options = parser.parse_args()
    disable_progress_bar()
    model, tokenizer = begin(options.seed, options.resume)
    course = Course(options.steps, options.seed, options.rate, options.compile, options.report_every)
    measured = pretrain(model, tokenizer, course)
    if options.resume:
        measured["before"] = json.loads((options.resume / "training.json").read_text(encoding="utf-8"))
    save(model, tokenizer, measured, options.output)
    print(f"Saved {model.num_parameters():,} weights to {options.output.name}.")


if __name__ == "__main__":
    main()
