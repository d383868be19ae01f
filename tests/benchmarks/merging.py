"""A merge past the memory against PEFT's own, with and without its check: memory, time, and the bits that differ.

    python tests/benchmarks/merging.py [REPEATS]

A random Llama of 336 million weights in bf16, in three files, and a LoRA adapter of rank 16 on all linear layers. Each
merge runs in a process of its own; the three take turns, and medians are compared. Importing the libraries takes each
longer than the merge itself, and is told apart: a studio that is open has done it before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from running import ROOT, told

SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 32_000,
    "tie_word_embeddings": True,
}
OURS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import time
from studio import compute
from studio.merging import MergePlan, merge
for waiting in compute.imports():
    pass
started = time.perf_counter()
base, adapter, output = map(Path, sys.argv[1:4])
for event in merge(MergePlan(base, adapter, output, shard_size=0.25)):
    pass
print("seconds", time.perf_counter() - started)
"""
PEFT = """
import sys, time
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
started = time.perf_counter()
base, adapter, output, safe = sys.argv[1:5]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), adapter)
model.merge_and_unload(safe_merge=safe == "safe").save_pretrained(output, max_shard_size="250MB")
print("seconds", time.perf_counter() - started)
"""
WAYS = {"past the memory": (OURS, str(ROOT)), "PEFT, unsafe": (PEFT, "unsafe"), "PEFT, safe": (PEFT, "safe")}


def main(repeats: int) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        # Not in this process: what it once held would be counted as the most of those that it starts.
        subprocess.run([sys.executable, __file__, "make", str(folder)], check=True)
        base, adapter = folder / "base", folder / "adapter"
        print(f"{sum(file.stat().st_size for file in base.glob('*.safetensors')) / 1e6:.0f} MB in the base")
        peaks: dict[str, list[float]] = {name: [] for name in WAYS}
        whole: dict[str, list[float]] = {name: [] for name in WAYS}
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for turn in range(repeats + 1):
            for name, (code, last) in WAYS.items():
                output = folder / name
                shutil.rmtree(output, ignore_errors=True)
                all_of_it, took, peak = alone(code, base, adapter, output, last)
                if turn:  # in the first one the files are read from the disk
                    whole[name].append(all_of_it)
                    seconds[name].append(took)
                    peaks[name].append(peak / 1e6)
        ours, unsafe, safe = (told(f"{name}: memory at most", peaks[name], "MB") for name in WAYS)
        fast, slow, slower = (told(f"{name}: the merge itself", seconds[name], "s") for name in WAYS)
        first, second, _ = (told(f"{name}: with all imports", whole[name], "s") for name in WAYS)
        for what, ratio in {
            "memory / unsafe (at most 0.4)": ours / unsafe,
            "memory / safe (at most 0.3)": ours / safe,
            "time / unsafe (at most 0.8)": fast / slow,
            "time / safe": fast / slower,
            "time with all imports / unsafe": first / second,
        }.items():
            print(f"{what:<46} {ratio:8.2f}")
        print(
            f"{'numbers that differ from PEFT, unsafe':<46} {differing(*(folder / name for name in list(WAYS)[:2])):8}"
        )
    finally:
        shutil.rmtree(folder)


def make(folder: Path) -> None:
    """Write the base and the adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16)
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    model.save_pretrained(folder / "base", max_shard_size="250MB")
    config = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(folder / "adapter")


def alone(code: str, base: Path, adapter: Path, output: Path, last: str) -> tuple[float, float, int]:
    """Run it in a process of its own: its seconds, those of the merge, and the most bytes that it held."""
    started = time.perf_counter()
    arguments = [sys.executable, "-c", code, str(base), str(adapter), str(output), last]
    log = os.open(output.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    child = os.posix_spawn(
        sys.executable,
        arguments,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
    )
    _, status, used = os.wait4(child, 0)
    os.close(log)
    said = output.with_suffix(".log").read_text()
    if status:
        sys.exit(said[-2000:])
    return time.perf_counter() - started, float(said.split()[-1]), used.ru_maxrss * 1024


def differing(one: Path, other: Path) -> int:
    """How many numbers of two folders are not the same to the last bit."""
    import torch
    from safetensors.torch import load_file

    tensors = [
        {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
        for folder in (one, other)
    ]
    assert tensors[0].keys() == tensors[1].keys()
    return sum(
        int((tensors[0][name].view(torch.int16) != tensors[1][name].view(torch.int16)).sum()) for name in tensors[0]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
