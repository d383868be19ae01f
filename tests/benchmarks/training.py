"""Tokens per CPU-second of a training of ours against TRL's SFTTrainer, and the memory that the loss takes, as ratios.

    python tests/benchmarks/training.py [ROUNDS] [ROWS]

Needs trl 1.16, which the studio does not: `pip install --no-deps --target FOLDER trl==1.16.0`, FOLDER in PYTHONPATH.
All take turns on the same rows and a Llama of 6.7 million weights with LoRA on all linear layers, on one thread;
padding does not count as tokens, nor what comes before the first step and after the last. Rows: the bundled persona set
by the tokenizer of the starter, and lengths as those of Alpaca (median 173, mean 221, at most 512) of random tokens.
The memory is that of one step of 4 rows of 512 tokens over a vocabulary of 64,000, in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from running import ROOT, told

LIMIT, VOCABULARY = 512, 8192
SETTINGS = {"rank": 8, "alpha": 16, "learning_rate": 1e-4, "batch_tokens": 2048, "warmup": 0.0, "epochs": 1.0}
Row = dict[str, Any]


def main(rounds: int, count: int) -> None:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name, rows in (("persona", persona(count * 4)), ("lengths of Alpaca", alpaca(count))):
        tokens, scored = sum(len(row["input_ids"]) for row in rows), sum(sum(row["trained"]) for row in rows)
        print(f"\n{name}: {len(rows)} rows, {tokens:,} tokens, {scored:,} trained")
        with tempfile.TemporaryDirectory() as folder:
            compare(rows, tokens, Path(folder), rounds)
    print("\nmemory of the loss over 64,000 entries")
    plain, ours = (statistics.median(alone(kind) for _ in range(rounds)) for kind in ("plain", "ours"))
    print(f"{'ours / plain Trainer':<46} {ours / plain:8.2f} ({ours:.0f} and {plain:.0f} MB on top of the model)")


def compare(rows: list[Row], tokens: int, folder: Path, rounds: int) -> None:
    """Let all ways take turns, after a check that they mean the same loss."""
    ways: dict[str, Callable[[bool], float]] = {
        "ours, fp32": lambda whole: ours(rows, folder, "fp32", whole=whole),
        "ours, bf16": lambda whole: ours(rows, folder, "bf16", whole=whole),
        "TRL, bfd packing 1 x 4, fp32": lambda whole: trl(rows, folder, packs=True, bf16=False, whole=whole),
        "TRL, bfd packing 1 x 4, bf16": lambda whole: trl(rows, folder, packs=True, bf16=True, whole=whole),
        "TRL, as it comes": lambda whole: trl(rows, folder, packs=False, bf16=True, whole=whole),
    }
    losses = {name: way(True) for name, way in ways.items()}
    print("loss over all rows: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    paces: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            paces[name].append(tokens / way(False))
    middle = {name: told(name, values, "tokens/s") for name, values in paces.items()}
    for compute in ("fp32", "bf16"):
        print(f"{f'ours / TRL with packing, {compute}':<46} "
              f"{middle[f'ours, {compute}'] / middle[f'TRL, bfd packing 1 x 4, {compute}']:8.2f}")  # fmt: skip
    print(f"{'ours, bf16 / TRL as it comes':<46} {middle['ours, bf16'] / middle['TRL, as it comes']:8.2f}")


def persona(count: int) -> list[Row]:
    """Rows of the bundled set as the starter reads them."""
    from studio.tokenizer import Message, load_tokenizer, mask_conversation

    tokenizer = load_tokenizer(ROOT / "assets" / "starter_model")
    lines = (ROOT / "assets" / "datasets" / "persona" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    rows = []
    for line in lines:
        messages = tuple(Message(turn["role"], turn["content"]) for turn in json.loads(line)["messages"])
        masked = mask_conversation(tokenizer, messages)
        rows.append({"input_ids": list(masked.ids), "trained": list(masked.trained)})
    return rows


def alpaca(count: int) -> list[Row]:
    """Random tokens in rows whose lengths are spread as Alpaca's; the first fifth is the question."""
    import numpy

    random = numpy.random.default_rng(0)
    lengths = numpy.clip(random.lognormal(numpy.log(173), 0.7, count), 20, LIMIT).astype(int)
    return [
        {
            "input_ids": random.integers(5, VOCABULARY, length).tolist(),
            "trained": [index >= length // 5 for index in range(length)],
        }
        for length in lengths.tolist()
    ]


def model(vocabulary: int = VOCABULARY, **shape: int) -> Any:
    """A Llama with random weights, always the same."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    usual = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, **{**usual, **shape}, max_position_embeddings=2048,
            bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip


class Silent:
    """Follows a training without a word, and remembers its losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def check(self) -> None:
        """Nobody stops it."""

    def stepped(self, step: Any) -> bool:
        """Remember the loss."""
        self.losses.append(step.loss)
        return False


def ours(rows: list[Row], folder: Path, compute: str, *, whole: bool, base: Any = None) -> float:
    """CPU-seconds of an epoch; with `whole` the loss of all rows in one step."""
    from types import SimpleNamespace

    from training_steps import prepared, run_of, written

    from studio.training import trainer
    from studio.training.readying import ready
    from studio.training.training import rows_of

    full = [{**row, "length": len(row["input_ids"]), "row": number} for number, row in enumerate(rows)]
    settings = run_of(folder, **SETTINGS, compute=compute, accumulation=1000 if whole else 1).settings
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    made = ready(base or model(), tokenizer, settings)
    batches, collator = rows_of(prepared(written(folder, full)).learn, made, tokenizer, settings)
    total, follower = trainer.steps_in(batches, settings), Silent()
    told_to = trainer.arguments(settings, folder, total, fp16=False)
    learner = trainer.build(made, batches, collator, settings, told_to, follower)
    began = time.process_time()
    learner.train()
    return follower.losses[0] if whole else time.process_time() - began


def trl(rows: list[Row], folder: Path, *, packs: bool, bf16: bool, whole: bool) -> float:
    """The same with SFTTrainer: packed as its documentation advises on a CPU, or as it comes."""
    from datasets import Dataset
    from peft import LoraConfig
    from pico import byte_tokenizer
    from trl import SFTConfig, SFTTrainer

    dataset = Dataset.from_list(
        [{"input_ids": row["input_ids"], "completion_mask": [int(each) for each in row["trained"]]} for row in rows]
    )
    how = {
        "packing": True, "packing_strategy": "bfd", "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 4, "gradient_checkpointing": False,
    } if packs else {}  # fmt: skip
    arguments = SFTConfig(
        output_dir=str(folder), max_length=LIMIT, learning_rate=1e-4, num_train_epochs=1, report_to=[], use_cpu=True,
        bf16=bf16, save_strategy="no", disable_tqdm=True, logging_steps=1, completion_only_loss=True,
        **how | ({"gradient_accumulation_steps": 1000} if whole else {}),
    )  # fmt: skip
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    learner = SFTTrainer(
        model=model(), args=arguments, train_dataset=dataset, processing_class=byte_tokenizer(), peft_config=lora
    )
    from transformers import PrinterCallback

    learner.remove_callback(PrinterCallback)
    began = time.process_time()
    learner.train()
    seconds = time.process_time() - began
    return float(learner.state.log_history[0]["loss"]) if whole else seconds


def alone(kind: str) -> float:
    """MB on top of the model in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "memory", kind], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def memory(kind: str) -> None:
    """Print how much more this process held in a step than before it."""
    import datasets
    import peft
    import torch
    import transformers

    from studio.compute import peak_memory
    from studio.training import loss

    assert all((datasets, peft, transformers.Trainer))  # what they take is not the step's

    torch.set_num_threads(1)
    if kind == "plain":
        loss._CHANGES_LOGITS = ("vocab_size",)  # every model has one, so this one computes its loss itself
    row = {"input_ids": [5 + index for index in range(512)], "trained": [index >= 100 for index in range(512)]}
    base = model(64_000, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
    with tempfile.TemporaryDirectory() as folder:
        before = peak_memory()
        ours([row] * 4, Path(folder), "fp32", whole=False, base=base)
    print((peak_memory() - before) / 1e6)


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        memory(sys.argv[2])
    else:
        main(*(int(word) for word in [*sys.argv[1:], *("3", "40")[len(sys.argv) - 1 :]]))
