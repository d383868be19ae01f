"""The dry run against the same step in real tensors: shapes of models, checkpointing, precisions and methods."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from memory_shapes import TINY

from studio.loading import LoadPlan
from studio.memory.step import Step
from studio.models import ModelRef, Precision

ROOT = Path(__file__).parents[1]
HANG_SECONDS = 900
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear"}
PHI = {key: value for key, value in TINY["llama"].items() if key != "model_type"}
# As few layers as there are kinds, and two of one: each costs a second in fake tensors, whatever its size.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": TINY["llama"] | {"num_hidden_layers": 2},
    "gpt2": TINY["gpt2"] | {"n_layer": 1},
    "mixtral": TINY["mixtral"] | {"num_hidden_layers": 1},
    "gemma3": TINY["gemma3"] | {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": PHI | {"model_type": "phi3", "num_hidden_layers": 1, "pad_token_id": 0},
    "deepseek_v3": TINY["deepseek_v3"] | {"num_hidden_layers": 2},
    "qwen3": TINY["qwen3_moe"] | {"model_type": "qwen3", "num_hidden_layers": 1},
    "lfm2": TINY["lfm2"] | {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
}
PAIRS = list(product(SHAPES, (False, True), ("fp32", "bf16"), ("full", "lora")))
SPECIAL: dict[str, Step] = {
    "re-entrant checkpointing": Step(SHAPES["llama"], checkpointing=True, reentrant=True),
    "padded": Step(SHAPES["llama"], padded=True),
    "dropout": Step(SHAPES["llama"], adapter=LORA | {"lora_dropout": 0.1}),
    "attention dropout": Step(SHAPES["llama"] | {"attention_dropout": 0.1}),
    "a shifted copy of the logits": Step(SHAPES["llama"], loss="copied"),
    "logits reassigned to fp32": Step(SHAPES["llama"], loss="upcast"),
    "logits kept": Step(SHAPES["llama"], loss="kept"),
    "autocast": Step(SHAPES["llama"], precision=Precision.FP32, autocast="bf16", checkpointing=True),
    "one copy more in the optimizer": Step(SHAPES["llama"], optimizer="adamw foreach"),
    "8-bit optimizer": Step(SHAPES["llama"], optimizer="adamw 8-bit"),
    "adafactor": Step(SHAPES["llama"], optimizer="adafactor"),
    "sgd": Step(SHAPES["llama"], optimizer="sgd"),
    "two batches added up": Step(SHAPES["llama"], accumulates=True),
    "dora": Step(SHAPES["llama"], adapter=LORA | {"use_dora": True}),
    "no layer to train": Step(SHAPES["llama"], adapter={"peft_type": "IA3", "task_type": "CAUSAL_LM"}),
}
PROFILED = {f"profiled {way}": step for way, step in {
    "full": Step(SHAPES["llama"], precision=Precision.FP32),
    "lora": Step(SHAPES["gpt2"], adapter=LORA, checkpointing=True, precision=Precision.FP32),
}.items()}  # fmt: skip

DEEP: dict[str, Step] = {
    "sliding": Step(TINY["gpt_oss"] | {"num_hidden_layers": 7, "layer_types": None}),
    "one dense, then experts": Step(TINY["deepseek_v3"] | {"num_hidden_layers": 7}, checkpointing=True),
    "int8": Step(SHAPES["llama"] | {"num_hidden_layers": 6}, precision=Precision.INT8, adapter=LORA),
    "nf4": Step(
        SHAPES["llama"] | {"num_hidden_layers": 6},
        precision=Precision.NF4,
        adapter=LORA | {"use_dora": True},
        checkpointing=True,
    ),
}  # fmt: skip
CARRIED_OUT = {"sliding": [3, 5], "one dense, then experts": [4, 6], "int8": [3, 5], "nf4": [3, 5]}


def named(shape: str, checkpointing: bool, precision: str, method: str) -> str:
    return f"{shape}, {'checkpointed' if checkpointing else 'kept'}, {precision}, {method}"


def cases() -> list[dict[str, Any]]:
    """All steps, small enough for a second each."""
    steps = {
        named(*pair): Step(
            SHAPES[pair[0]],
            precision=Precision(pair[2]),
            checkpointing=pair[1],
            adapter=LORA if pair[3] == "lora" else None,
        )
        for pair in PAIRS
    }
    found = []
    for name, step in (steps | SPECIAL | PROFILED | DEEP).items():
        fields = asdict(step) | {"batch": 2, "tokens": 256 if name in PROFILED else 48, "workspace": 0}
        found.append({"name": name, "step": fields, "profiled": name in PROFILED, "deep": name in DEEP})
    return found


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What each case held, in fake and in real tensors: two processes share them all."""
    with ThreadPoolExecutor(2) as executor:
        halves = executor.map(carried_out, (cases()[::2], cases()[1::2]))
        return {found["name"]: found for half in halves for found in half}


def carried_out(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "rehearsal_pairs.py")],
        input="".join(json.dumps(case) + "\n" for case in some),
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_SECONDS,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def within(ours: int, theirs: int, share: float) -> bool:
    return abs(ours / theirs - 1) <= share


@pytest.mark.parametrize("name", [named(*pair) for pair in PAIRS])
def test_a_dry_run_holds_what_the_real_step_holds(measured, name):
    found = measured[name]
    # Fake tensors add no error of their own: it is 0 to the byte today.
    assert within(found["fake"]["peak"], found["real"]["peak"], 0.001)
    assert found["fake"]["moments"].keys() == found["real"]["moments"].keys()
    for phase, bytes_ in found["real"]["moments"].items():
        assert within(found["fake"]["moments"][phase], bytes_, 0.001), phase


@pytest.mark.parametrize("name", SPECIAL)
def test_each_way_to_train_holds_what_the_real_one_holds(measured, name):
    found = measured[name]
    assert within(found["fake"]["peak"], found["real"]["peak"], 0.001)


@pytest.mark.parametrize("name", PROFILED)
def test_the_tracker_sees_what_the_profiler_of_pytorch_sees(measured, name):
    found = measured[name]
    assert within(found["fake"]["peak"], found["profiled"], 0.05)


def test_what_decides_the_peak_is_told_apart(measured):
    def peak(name: str) -> int:
        return int(measured[name]["fake"]["peak"])

    plain = peak(named("llama", False, "bf16", "full"))
    assert peak(named("llama", True, "bf16", "full")) < plain
    assert peak(named("llama", False, "fp32", "full")) > plain
    assert peak("8-bit optimizer") < plain
    assert peak("sgd") < peak("8-bit optimizer")
    assert peak("two batches added up") > plain
    assert peak("logits kept") >= plain


@pytest.mark.parametrize("name", DEEP)
def test_a_few_layers_tell_of_all_of_them(measured, name):
    few, all_ = measured[name]["few"], measured[name]["all"]
    assert few["carried_out"] == CARRIED_OUT[name]
    assert all_["carried_out"] == [DEEP[name].config["num_hidden_layers"]]
    assert within(few["bytes"], all_["bytes"], 1e-4)
    assert sum(few["parts"].values()) == few["bytes"]
    for part in few["parts"].keys() | all_["parts"].keys():
        assert abs(few["parts"].get(part, 0) - all_["parts"].get(part, 0)) < 0.01 * all_["bytes"], part
    assert few["trainable"] == all_["trainable"]
    assert few["resident"] == all_["resident"]


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_quantized_weights_take_what_they_will_take_once_loaded(measured, name):
    from studio.loading.skeleton import build_skeleton
    from studio.memory.fake_model import config_of

    plan = LoadPlan(ModelRef("folder", "/"), DEEP[name].precision)
    exact = build_skeleton(config_of(DEEP[name].config), plan).bytes
    rounding = 512 * 400  # the allocator rounds every tensor up, and these are small
    assert exact <= measured[name]["all"]["parts"]["weights"] <= exact + rounding
