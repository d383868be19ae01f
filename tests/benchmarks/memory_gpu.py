"""The estimate of memory against a real GPU: the same step predicted, and carried out in a process of its own.

    python tests/benchmarks/memory_gpu.py [PART OF A NAME] [--at-once N] [--csv TABLE.csv]

Models have the shape of published ones and random weights, so nothing is downloaded. What is measured is
torch.cuda.max_memory_allocated, and whose step it is says the first column: the Trainer of transformers on rows of one
length, `generate` of transformers, or a run of the studio's own, as `python -m studio train` does it. The table that
ships beside this script, memory_gpu.csv, is what one card gave.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import running
from memory_shapes import PUBLISHED, config

from studio import memory
from studio.errors import StudioError
from studio.events import Finished
from studio.memory import Question
from studio.memory.dry_run import rehearse
from studio.memory.step import Step, step_of
from studio.models import Precision

SHAPES = PUBLISHED | {
    "gpt2": config(
        model_type="gpt2", vocab_size=50_257, n_embd=768, n_head=12, n_layer=12, n_positions=1024,
        bos_token_id=50_256, eos_token_id=50_256,
    ),
    "gemma-2-2b": config(
        model_type="gemma2", vocab_size=256_000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
        num_attention_heads=8, num_key_value_heads=4, head_dim=256, sliding_window=4096, max_position_embeddings=8192,
    ),
    "mixtral, 4 layers": PUBLISHED["mixtral-8x7b"] | {"num_hidden_layers": 4},
}  # fmt: skip
LONG = 3600
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A question, and who carries it out: trainer, generate or studio."""

    name: str
    who: str
    question: Question


def trained(shape: str, **fields: Any) -> Case:
    """A step of the Trainer."""
    told = ", ".join(f"{name} {value}" for name, value in fields.items())
    return Case(f"{shape}: {told}", "trainer", Question(model=shape, **fields))


def generated(shape: str, **fields: Any) -> Case:
    """A prompt that is read and a few tokens that are written."""
    case = trained(shape, task="generate", **fields)
    return replace(case, who="generate")


def own(shape: str, **fields: Any) -> Case:
    """A run of the studio."""
    case = trained(shape, loss="chunked", kbit_preparation="on", autocast="bf16", **fields)
    return replace(case, who="studio")


CASES = [
    trained("qwen3-0.6b", precision="bf16", context=2048, batch=4),
    trained("qwen3-0.6b", precision="bf16", context=2048, batch=2, checkpointing=False),
    trained("qwen3-0.6b", precision="bf16", method="full", context=2048, batch=2),
    trained("qwen3-0.6b", precision="fp32", autocast="bf16", method="full", context=1024, batch=2),
    trained("qwen3-0.6b", precision="bf16", context=1024, batch=2, attention="eager", checkpointing=False),
    trained("llama-3.2-1b", precision="bf16", context=2048, batch=2, packing=False),
    trained("llama-3.2-1b", precision="bf16", context=1024, batch=2, accumulation=4, targets="q_proj, v_proj"),
    trained("llama-3.2-1b", precision="fp32", context=1024, batch=1, checkpointing=False),
    trained("llama-3.2-1b", precision="bf16", method="full", optimizer="adamw 8-bit", context=1024, batch=1),
    trained("llama-3.2-1b", precision="bf16", method="full", optimizer="adafactor", context=1024, batch=1),
    trained("llama-3.2-1b", precision="bf16", method="full", optimizer="sgd", context=1024, batch=1),
    trained("llama-3.2-1b", precision="nf4", context=2048, batch=1),
    trained("llama-3.2-1b", precision="int8", context=1024, batch=1),
    trained("llama-3.1-8b", precision="bf16", context=4096, batch=1),
    trained("llama-3.1-8b", precision="nf4", context=4096, batch=1),
    trained("mistral-7b", precision="bf16", method="dora", context=1024, batch=1),
    trained("gpt2", precision="fp32", method="full", context=1024, batch=8, checkpointing=False),
    trained("gemma-2-2b", precision="bf16", context=1024, batch=1, attention="eager"),
    trained("mixtral, 4 layers", precision="bf16", context=1024, batch=1, rank=8),
    generated("llama-3.1-8b", precision="bf16", context=8192, reply=512),
    generated("llama-3.1-8b", precision="nf4", context=8192, reply=512),
    generated("qwen3-0.6b", precision="bf16", context=4096, batch=8, reply=64),
    own("llama-3.2-1b", precision="bf16", context=2048, batch=2),
    own("llama-3.2-1b", precision="nf4", context=2048, batch=2),
    own("qwen3-0.6b", precision="bf16", method="full", context=1024, batch=4, checkpointing=False),
    own("llama-3.1-8b", precision="nf4", context=2048, batch=1),
]


def main(part: str, at_once: int, table: Path | None) -> None:
    cases = [case for case in CASES if part in case.name]
    with ThreadPoolExecutor(at_once) as executor:
        rows = list(executor.map(row, cases))
    wide = max(len(row["case"]) for row in rows)
    for found in rows:
        print(
            f"{found['who']:9}{found['case']:{wide}} {found['predicted']:>15} {found['measured']:>15} {found['error']}"
        )
    errors = [abs(float(found["error"])) for found in rows if found["error"]]
    if errors:
        print(
            f"{sum(error <= 5 for error in errors)} of {len(rows)} within 5 %, median {statistics.median(errors):.2f} %"
        )
    if table:
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def row(case: Case) -> dict[str, Any]:
    """Predicted and measured, in bytes, and how far they are apart, in percent."""
    found: dict[str, Any] = {"who": case.who, "case": case.name, "predicted": "", "measured": "", "error": ""}
    try:
        found["predicted"] = predicted(case.question)
    except StudioError as error:
        found["predicted"] = f"none: {error}"
    done = subprocess.run(
        [sys.executable, __file__, "--measure", case.name], capture_output=True, text=True, timeout=LONG, check=False
    )
    if done.returncode:
        found["measured"] = (done.stderr.strip().splitlines() or ["?"])[-1][:160]
    else:
        found |= json.loads(done.stdout.splitlines()[-1])
        if isinstance(found["predicted"], int):
            found["error"] = f"{100 * (found['predicted'] / found['measured'] - 1):+.2f}"
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def predicted(question: Question) -> int:
    """What the dry run says, with the workspace that cuBLAS takes on this card."""
    step = replace(step_of(question, SHAPES[question.model]), workspace=memory.device(memory.THIS).workspace)
    *_, last = rehearse(step)
    assert isinstance(last, Finished)
    return int(last.result.peak)


def measure(case: Case) -> None:
    """Carry it out, in this process."""
    import torch
    import transformers

    question = case.question
    step = step_of(question, SHAPES[question.model])
    took = {"trainer": by_trainer, "generate": by_generate, "studio": by_studio}[case.who](question, step)
    free = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"measured": took, **free}))


def saved(step: Step, folder: str) -> Path:
    """The model with random weights as a folder, in 16 bit."""
    import torch
    from transformers import AutoModelForCausalLM

    from studio.memory import fake_model

    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(fake_model.config_of(step.config), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return Path(folder)


def built(step: Step) -> Any:
    """The model on the GPU, quantized where it is to be."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from studio.memory import fake_model

    if step.precision.quantizes:
        four = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=step.double_quant,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        quantized = four if step.precision is Precision.NF4 else BitsAndBytesConfig(load_in_8bit=True)
        with tempfile.TemporaryDirectory() as folder:
            return AutoModelForCausalLM.from_pretrained(
                saved(step, folder), quantization_config=quantized, dtype=torch.bfloat16, device_map={"": 0},
                attn_implementation=step.attention,
            )  # fmt: skip
    dtype = torch.float32 if step.precision is Precision.FP32 else torch.bfloat16
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(
            fake_model.config_of(step.config), dtype=dtype, attn_implementation=step.attention
        )


def by_trainer(question: Question, step: Step) -> int:
    """Bytes at the peak of a few steps of the Trainer."""
    import torch
    from peft import get_peft_config, get_peft_model
    from transformers import Trainer, TrainingArguments, default_data_collator

    model = built(step)
    if step.adapter:
        if step.checkpointing:
            model.enable_input_require_grads()
        model = get_peft_model(model, get_peft_config(dict(step.adapter)))
    size = model.get_input_embeddings().num_embeddings
    ids = torch.randint(5, size, (STEPS * step.batch * max(1, question.accumulation), step.tokens)).tolist()
    rows = [{"input_ids": row, "labels": row} | mask(step) for row in ids]
    names = {"adamw fused": "adamw_torch_fused", "adamw 8-bit": "adamw_bnb_8bit"}
    with tempfile.TemporaryDirectory() as folder:
        told = TrainingArguments(
            folder, max_steps=STEPS, per_device_train_batch_size=step.batch,
            gradient_accumulation_steps=question.accumulation, optim=names.get(step.optimizer, step.optimizer),
            gradient_checkpointing=step.checkpointing, bf16=step.autocast == "bf16", report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, told, train_dataset=rows, data_collator=default_data_collator)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
    return int(torch.cuda.max_memory_allocated())


def mask(step: Step) -> dict[str, list[int]]:
    """What says that a row is padded, where it is."""
    return {"attention_mask": [1] * (step.tokens - 1) + [0]} if step.padded else {}


def by_generate(question: Question, step: Step) -> int:
    """Bytes at the peak of reading a prompt and writing a reply."""
    import torch

    model = built(step).eval()
    ids = torch.randint(5, model.config.vocab_size, (step.batch, question.prompt), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=question.reply, min_new_tokens=question.reply,
        do_sample=False, pad_token_id=0,
    )  # fmt: skip
    return int(torch.cuda.max_memory_allocated())


def by_studio(question: Question, step: Step) -> int:
    """Bytes that a run of the studio writes down as measured."""
    from transformers import AutoTokenizer

    from studio.settings import STARTER_FOLDER

    with tempfile.TemporaryDirectory() as place:
        folder = saved(step, f"{place}/model")
        AutoTokenizer.from_pretrained(STARTER_FOLDER).save_pretrained(folder)
        rows = Path(place) / "rows.jsonl"
        text = " ".join(f"{number * 7919 % 100_003} words" for number in range(step.tokens))
        rows.write_text("".join(json.dumps({"text": f"{number} {text}"}) + "\n" for number in range(4 * step.batch)))
        chosen = {
            "limit": step.tokens, "batch_tokens": step.tokens * step.batch, "method": question.method, "epochs": 1,
            "rank": question.rank, "checkpointing": "on" if step.checkpointing else "off", "held_out": 0,
        }  # fmt: skip
        command = [sys.executable, "-m", "studio", "train", str(folder), "--data", str(rows), "--json"]
        command += ["--precision", question.precision]
        for name, value in chosen.items():
            command += ["--set", f"{name}={value}"]
        env = os.environ | {"STUDIO_WORKSPACE": f"{place}/workspace", "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, env=env, cwd=running.ROOT, stdout=subprocess.DEVNULL, timeout=LONG)
        (told,) = Path(place).glob("workspace/runs/*/estimate.json")
        return int(json.loads(told.read_text())["measured"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", default="")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--measure")
    asked = parser.parse_args()
    if asked.measure:
        measure(next(case for case in CASES if case.name == asked.measure))
    else:
        main(asked.part, asked.at_once, asked.csv)
