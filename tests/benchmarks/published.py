"""Published measurements of memory on GPUs against the dry run, row by row.

    python tests/benchmarks/published.py MEASUREMENTS.csv [PART OF A ROW'S TEXT]

The columns that are read: hardware, model, method, framework, batch, seq, dtype, autocast, ckpt, optimizer, stack,
metric, value. A row that cannot be carried out is named with the reason, and the others go on. A row's stack names the
generation of the software, and with it the shape of the loss and the variant of checkpointing. Where a length is
"variable", the one that is unknown is fitted on the row of LoRA with rank 32. Sizes of models and adapters are those of
their public repositories, in published_models.json and published_adapters.json.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import running  # noqa: F401 - makes the studio importable

from studio.errors import StudioError
from studio.events import Finished
from studio.memory.dry_run import Rehearsed, rehearse
from studio.memory.step import WORKSPACE, Step
from studio.models import Precision

HERE = Path(__file__).parent
MODELS: dict[str, dict[str, Any]] = json.loads((HERE / "published_models.json").read_text(encoding="utf-8"))
ADAPTERS: dict[str, dict[str, Any]] = json.loads((HERE / "published_adapters.json").read_text(encoding="utf-8"))
SAME = {
    "llama-2-70b-hf": "meta-llama/Llama-2-70b-hf",
    "mixtral-8x7b-instruct-v0.1": "mistralai/Mixtral-8x7B-v0.1",
    "mistral-7b-v0.1-gptq": "mistralai/Mistral-7B-v0.1",
}
FITTED_ON = "lora/llama-3.2-3B-rank32"
HOPPER = ("H100", "H200", "H20", "GH200")
LETTERS = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "g": "gate_proj",
    "u": "up_proj",
    "d": "down_proj",
}
MIB = 1 << 20
UNITS = (("bytes", 1), ("MiB", MIB), ("GiB", MIB << 10), ("GB", 10**9), ("MB", 10**6))
COLUMNS = (
    *("source", "hardware", "model", "method", "framework", "batch", "seq", "dtype", "autocast", "ckpt"),
    *("optimizer", "stack", "metric", "value"),
)
INFERENCE = {"BF16": 0, "FP16": 0, "bfloat16": 0, "float16": 0, "GPTQ-Int8": 8, "GPTQ-Int4": 4}
"""Weights of an inference row, and the bits that they are packed in."""
GROUP = 128  # of GPTQ, in all of the Qwen3 repositories


@dataclass(frozen=True)
class Row:
    """A published measurement and the step that it was made with."""

    text: dict[str, str]
    kind: str
    """training, suite or inference."""
    step: Step
    bytes: int
    rest: int = 0
    """Bytes that the step does not show: packed weights against those it was carried out with."""
    fits: bool = False


def model_named(name: str) -> dict[str, Any]:
    """The config of a model by the name that a table gives it."""
    short = name.rpartition("/")[2].lower()
    if same := SAME.get(short):
        return MODELS[same]
    for known, config in MODELS.items():
        own = known.rpartition("/")[2].lower()
        if short in (own, own.removesuffix("-hf"), own.removesuffix("-it"), own.removeprefix("meta-")) or (
            re.fullmatch(re.escape(own.removesuffix("-hf")) + r"-(instruct|base|it|chat)(-hf)?", short)
        ):
            return config
    raise KeyError(f"{name} is not in published_models.json")


def read(path: Path) -> list[Row]:
    """The rows of a table that can be carried out; the others are named."""
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, text in enumerate(csv.DictReader(file), 2):
            try:
                rows.append(row_of({name: (text.get(name) or "").strip() for name in COLUMNS}))
            except (LookupError, ValueError, TypeError, StudioError) as error:
                named = ", ".join(str(text.get(name)) for name in ("model", "method"))
                print(f"left out: line {number}, {named}: {' '.join(map(str, error.args)) or error!r}")
    return rows


def row_of(text: dict[str, str]) -> Row:
    """A line of the table as a step."""
    config = model_named(text["model"])
    value = measured(text)
    hopper = any(name in text["hardware"] for name in HOPPER)
    step = Step(config, batch=int(text["batch"]), workspace=32 * MIB if hopper else WORKSPACE, depth="as needed")
    if "inference" in text["method"] or "generate" in text["method"]:
        return _inference(text, step, value)
    version = re.search(r"transformers\s*v?(\d+)\.(\d+)", text["stack"] + text["framework"])
    release = (int(version[1]), int(version[2])) if version else (5, 0)
    quantized = re.search(r"qlora|nf4|4-?bit|bnb", " ".join((text["method"], text["framework"], text["dtype"])).lower())
    loop = "loop" in text["framework"]
    eight = "8bit" in text["optimizer"] or "8-bit" in text["optimizer"]
    step = replace(
        step,
        precision=Precision.NF4 if quantized else _precision(text["dtype"]),
        autocast=text["autocast"] or "none",
        checkpointing=text["ckpt"] == "yes",
        reentrant=release < (5, 0),
        loss="kept" if loop else "freed" if release >= (5, 0) else "copied" if release >= (4, 46) else "upcast",
        optimizer="adamw 8-bit" if eight else "adamw fused" if "fused" in text["optimizer"] else "adamw foreach",
    )
    if "foak" in text["framework"]:
        raise ValueError("its fused kernels are not those of PyTorch")
    if quantized and "experts" in str(config) and release < (5, 0):
        raise ValueError("its experts were single linear layers, which the installed transformers does not have")
    if "liger" in text["framework"]:
        step = replace(step, loss="liger")
    if "/" in text["method"]:
        return _suite(text, step, round(value))
    prepared = bool(quantized) and "accelerated" not in text["framework"]
    step = replace(step, tokens=_number(text["seq"]), adapter=_lora(text), kbit_preparation=prepared, recast=prepared)
    if quantized and step.autocast == "none":
        step = replace(step, autocast="bf16")  # every run on 4-bit weights in these tables had it
    return Row(text, "training", step, round(value))


def _inference(text: dict[str, str], step: Step, value: float) -> Row:
    if text["dtype"] not in INFERENCE:
        raise ValueError(f"weights in {text['dtype']!r} are not known here")
    read_, _, written = text["seq"].removeprefix("in").partition("+")
    step = replace(step, train=False, tokens=_number(read_) + _number(written) - 1)  # one more is written to it
    bits = INFERENCE[text["dtype"]]
    rest = packed_bytes(text["model"], bits) if bits else 0
    return Row(text, "inference", step, round(value), rest)


def _suite(text: dict[str, str], step: Step, value: int) -> Row:
    """A row of PEFT's suite: reserved memory, batches padded to a longest that is not known."""
    adapter = ADAPTERS.get(text["method"])
    if adapter is None and not text["method"].startswith("full"):
        raise KeyError("its adapter is not in published_adapters.json")
    if adapter is not None:  # fields that the installed PEFT does not have any more
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING

        known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[adapter["peft_type"]])}
        adapter = {name: given for name, given in adapter.items() if name in known}
    fits = "variable" in text["seq"]
    step = replace(step, adapter=adapter, padded=True, depth="full", tokens=_number(text["seq"]))
    return Row(text, "suite", step, value, fits=fits)


def measured(text: dict[str, str]) -> float:
    """The bytes of a row, by the unit that its metric names."""
    if "nvidia-smi" in text["metric"]:
        raise ValueError("nvidia-smi shows what the allocator and other programs hold, and no peak")
    unit = next((size for name, size in UNITS if name in text["metric"]), None)
    if unit is None:
        raise ValueError(f"the metric {text['metric']!r} names no unit")
    if not float(text["value"]) > 0:
        raise ValueError(f"the value is {text['value']}")
    return float(text["value"]) * unit


def _number(text: str) -> int:
    found = re.search(r"\d+", text)
    if found is None:
        raise ValueError(f"{text!r} has no number")
    return int(found[0])


def _precision(dtype: str) -> Precision:
    known = {"float32": Precision.FP32, "float16": Precision.FP16, "bfloat16": Precision.BF16}
    short = {"fp32": Precision.FP32, "fp16": Precision.FP16, "bf16": Precision.BF16}
    return (known | short)[dtype.lower()]


def _lora(text: dict[str, str]) -> dict[str, Any] | None:
    """What "lora r16 qkvo" stands for; None for full fine-tuning."""
    method = text["method"].lower()
    if method.startswith("full"):
        return None
    if "lora" not in method:
        raise ValueError(f"the method {method!r} is not known here")
    rank = re.search(r"\br(?:ank)?\s*(\d+)", method)
    letters = re.search(r"\b([qkvogud]{1,7})\b(?!\S)", re.sub(r"\b(lora|qlora|r\s*\d+)\b", " ", method))
    targets = [LETTERS[letter] for letter in letters[1]] if letters else "all-linear"
    rank_ = int(rank[1]) if rank else 16
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank_,
        "lora_alpha": rank_,
        "lora_dropout": 0.1,
        "target_modules": targets,
    }


@cache
def packed_bytes(name: str, bits: int) -> int:
    """What GPTQ weights take beyond the 16-bit ones: the layers packed, with scales, zeros and the order of inputs."""
    from torch import nn

    from studio.memory import fake_model

    model = fake_model.build(Step(model_named(name)))
    head, more = model.get_output_embeddings(), 0
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            count, groups = module.weight.numel(), -(module.in_features // -GROUP)
            packed = count * bits // 8 + groups * module.out_features * (2 + bits / 8) + 4 * module.in_features
            more += round(packed) - 2 * count
    return more


def carried_out(step: Step) -> Rehearsed:
    """What a step took."""
    *_, last = rehearse(step, timeout=900)
    assert isinstance(last, Finished)
    return last.result


def ours(row: Row, found: Rehearsed) -> int:
    """Our number for what a row measured."""
    if row.kind == "inference":
        return found.resident + row.rest
    return found.reserved if "reserved" in row.text["metric"] else found.peak


def fitted(rows: list[Row]) -> int | None:
    """The longest batch of the suite, by bisection on its plain LoRA; None where that row is not there."""
    known = next((row for row in rows if row.fits and row.text["method"] == FITTED_ON), None)
    if known is None:
        return None
    low, high = known.step.tokens // 4, known.step.tokens
    off: dict[int, int] = {}
    while high - low > 1:
        middle = (low + high) // 2
        off[middle] = ours(known, carried_out(replace(known.step, tokens=middle))) - known.bytes
        low, high = (middle, high) if off[middle] <= 0 else (low, middle)
    return min(off, key=lambda length: abs(off[length]))  # what is reserved grows in steps


def group_of(row: Row) -> str:
    """Which goal a row counts for."""
    text = row.text
    if row.kind == "training":
        return f"{text['hardware'].partition('-')[0]} training"
    if row.kind == "suite":
        return "PEFT suite"
    long = _number(text["seq"]) >= 6144
    return f"inference, {text['dtype']}, {'6144 input tokens and more' if long else 'short inputs'}"


def main(path: Path, wanted: str) -> None:
    """Print our number against every published one, and a summary."""
    rows = [row for row in read(path) if wanted in " ".join(row.text.values())]
    length = fitted(rows)
    if length:
        print(f"the longest batch of the suite, fitted: {length} tokens")
    errors: dict[str, list[float]] = {}
    for row in rows:
        step = replace(row.step, tokens=length or row.step.tokens) if row.fits else row.step
        name = f"{row.text['model']:34} {row.text['method']:44} {row.text['batch']:>3} {row.text['seq'][:18]:18}"
        try:
            found = carried_out(step)
        except StudioError as error:
            errors.setdefault(group_of(row), []).append(float("inf"))
            print(f"{name} {row.text['dtype']:9} failed: {error}", flush=True)
            continue
        number = ours(row, found)
        off = 100 * (number / row.bytes - 1)
        errors.setdefault(group_of(row), []).append(off)
        print(
            f"{name} {row.text['dtype']:9} published {row.bytes / 1e9:8.3f} GB, ours {number / 1e9:8.3f} GB"
            f" {off:+7.2f} %  {found.operation}, {found.seconds:.1f} s{''.join(f'; {note}' for note in found.notes)}",
            flush=True,
        )
    for group, offs in errors.items():
        sizes = [abs(off) for off in offs]
        within = " ".join(
            f"{sum(size <= limit for size in sizes)} within {limit} %," for limit in (0.5, 1, 5)
        ).removesuffix(",")
        print(f"{group}: {len(sizes)} rows, {within}; median {statistics.median(sizes):.2f} %, most {max(sizes):.2f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
