"""What accelerate estimate-memory, hf-mem and the studio say a model takes, and what is true, as ratios.

    python tests/benchmarks/estimates.py [--hf-mem PYTHON] [MODEL...]

Everything is a number over the true one: 1.000 is right, a dash is no answer. Nothing is downloaded: the models are
configs as they are published, or small ones of the same architecture. What is true:

- weights in bf16: the parameters and buffers of the class that is loaded, built without its weights;
- weights in nf4: a real matrix of each shape, quantized by bitsandbytes in the modules where transformers has it do so;
- cache: what the caches of transformers hold after the whole model has read the whole text on the meta device.

accelerate answers with its own command, which is only spared the question whether the repository exists. hf-mem reads
headers: they are those of the checkpoint that transformers would save in bf16. With `--hf-mem`, the Python of an
environment where it is installed, its own functions answer for the cache; without, the formula that they had in 0.5.6.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import running  # noqa: F401 - makes the studio and the shapes importable
import torch
from memory_shapes import PUBLISHED, config

from studio import memory
from studio.memory import Question
from studio.models import Precision

CONTEXT = 32_768
MOE = config(num_experts_per_tok=4, moe_intermediate_size=512)
MODELS: dict[str, dict[str, Any]] = {
    **{name: PUBLISHED[name] for name in ("llama-3.1-8b", "mistral-7b", "qwen3-0.6b", "mixtral-8x7b", "qwen3-30b-a3b")},
    "gemma-2-2b": config(
        model_type="gemma2", vocab_size=256_000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
        num_attention_heads=8, num_key_value_heads=4, head_dim=256, sliding_window=4096, max_position_embeddings=8192,
    ),
    "gpt2": config(model_type="gpt2", vocab_size=50_257, n_embd=768, n_head=12, n_layer=12, n_positions=1024),
    "deepseek-v3, small": config(
        model_type="deepseek_v3", vocab_size=129_280, hidden_size=2048, intermediate_size=8192, num_hidden_layers=8,
        num_attention_heads=32, num_key_value_heads=32, n_routed_experts=16, first_k_dense_replace=1,
        max_position_embeddings=163_840, **MOE,
    ),
    "qwen3-next, small": config(
        model_type="qwen3_next", vocab_size=151_936, hidden_size=2048, num_hidden_layers=8, num_attention_heads=16,
        num_key_value_heads=2, head_dim=256, num_experts=16, shared_expert_intermediate_size=512, **MOE,
        layer_types=["linear_attention"] * 3 + ["full_attention"] + ["linear_attention"] * 3 + ["full_attention"],
    ),
}  # fmt: skip


def main(names: list[str], python: str | None) -> None:
    print(f"hf-mem: {'its own functions' if python else 'the formula of 0.5.6, restated'}\n")
    head = ["", "bf16, GB", "accelerate", "hf-mem", "studio", "nf4, GB", "accelerate", "studio"]
    told = [[*head, "tokens", "cache, GB", "hf-mem", "studio"]]
    with torch.device("meta"):
        told += [list(row(name, python)) for name in names]
    widths = [max(map(len, column)) for column in zip(*told, strict=True)]
    for cells in told:
        print("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))


def row(name: str, python: str | None) -> Iterator[str]:
    """The cells of one model."""
    shape = MODELS[name]
    facts = memory.read_facts(shape)
    tokens = min(CONTEXT, facts.context or CONTEXT)
    question = Question(task="generate", context=tokens)
    wide, narrow = accelerate_says(shape)
    model = real_model(shape)
    truth = bytes_of(model)
    yield from (name, f"{truth / 1e9:.3f}", ratio(wide, truth), ratio(saved_bytes(model), truth))
    yield ratio(memory.estimate(facts, question).of("weights"), truth)
    truth = quantized_bytes(model)
    nf4 = Question(task="generate", context=tokens, precision=Precision.NF4)
    yield from (f"{truth / 1e9:.3f}", ratio(narrow, truth))
    yield ratio(memory.estimate(facts, nf4).of("weights"), truth)
    truth = remembered(shape, tokens)
    says = hf_mem_by_itself(python, shape, tokens) if python else hf_mem_cache(shape, tokens)
    yield from (f"{tokens:,}", f"{truth / 1e9:.3f}", ratio(says, truth))
    yield ratio(memory.cache_bytes(facts, question, tokens), truth)


def ratio(says: float | None, truth: int) -> str:
    return "–" if says is None else f"{says / truth:.3f}"


# What is true


def real_model(shape: dict[str, Any]) -> Any:
    """The model as it is loaded, without its weights."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16).eval()


def config_of(shape: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(**shape)


def bytes_of(model: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def saved_bytes(model: Any) -> int:
    """Of the files that transformers saves: what is tied is in them once."""
    held = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())


def quantized_bytes(model: Any) -> int:
    """The same model after transformers put the modules of bitsandbytes in; changes the model."""
    from transformers import BitsAndBytesConfig
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    torch.set_default_dtype(torch.bfloat16)  # of the biases, which take the dtype of the checkpoint
    try:
        kept = get_keys_to_not_convert(model)
        replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=how)
    finally:
        torch.set_default_dtype(torch.float32)
    total = bytes_of(model)
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            plain = module.weight.numel() * module.weight.element_size()
            total += packed_bytes(module.out_features, module.in_features) - plain
    return total


@cache
def packed_bytes(rows: int, columns: int) -> int:
    """A real matrix, quantized."""
    from bitsandbytes.functional import quantize_4bit

    with torch.device("cpu"):
        packed, state = quantize_4bit(torch.ones(rows, columns), compress_statistics=True, quant_type="nf4")
    nested = state.state2
    parts = (packed, state.absmax, state.code, state.offset, nested.absmax, nested.code)
    return sum(part.numel() * part.element_size() for part in parts)


def remembered(shape: dict[str, Any], tokens: int) -> int:
    """What the layers hold after the model has read so many tokens."""
    with torch.no_grad():
        read = real_model(shape)(torch.zeros((1, tokens), dtype=torch.long), use_cache=True)
    return sum(held(vars(layer)) for layer in read.past_key_values.layers)


def held(values: dict[Any, Any]) -> int:
    total = 0
    for value in values.values():
        if isinstance(value, torch.Tensor) and value.numel() > 1:
            total += value.numel() * value.element_size()
        elif isinstance(value, dict):
            total += held(value)
    return total


# What others say


def accelerate_says(shape: dict[str, Any]) -> tuple[float, float]:
    """The answers of accelerate estimate-memory for float16 and int4."""
    from accelerate.commands import estimate

    estimate.verify_on_hub = lambda repo, token=None: SimpleNamespace(config={}, library_name="transformers")
    with tempfile.TemporaryDirectory() as folder:
        config_of(shape).save_pretrained(folder)
        arguments = ["--library_name", "transformers", "--dtypes", "float16", "int4", "--", folder]
        asked = estimate.estimate_command_parser().parse_args(arguments)
        with redirect_stdout(None):
            (_, _, half, _), (_, _, quarter, _) = estimate.gather_data(asked)
    return half, quarter


def hf_mem_cache(shape: dict[str, Any], tokens: int) -> int | None:
    """Keys and values of every layer for every token; a model without full attention remembers its window.

    None where the config calls its sizes by other names.
    """
    if not {"hidden_size", "num_hidden_layers", "num_attention_heads"} <= shape.keys():
        return None
    depth, heads = shape["num_hidden_layers"], shape["num_attention_heads"]
    kinds = shape.get("layer_types", ["full_attention"] * depth)
    windowed = not any(kind in ("attention", "full_attention", "global_attention") for kind in kinds)
    each = min(tokens, shape.get("sliding_window") or tokens) if windowed else tokens
    width = shape.get("head_dim", shape["hidden_size"] // heads)
    return int(2 * each * depth * shape.get("num_key_value_heads", heads) * width * 2)


def hf_mem_by_itself(python: str, shape: dict[str, Any], tokens: int) -> int | None:
    """The same, asked of the package."""
    script = (
        "import json, sys; from hf_mem.safetensors.kv_cache import compute_safetensors_kv_cache_size as size\n"
        "shape, tokens = json.load(sys.stdin)\n"
        "named = {'hidden_size', 'num_hidden_layers', 'num_attention_heads'} <= shape.keys()\n"
        "json.dump(size(shape, 'BF16', tokens) if named else None, sys.stdout)"
    )
    done = subprocess.run([python, "-c", script], input=json.dumps([shape, tokens]), capture_output=True, text=True)
    return json.loads(done.stdout) if not done.returncode else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--hf-mem", type=Path, help="a Python that has it installed")
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    given = parser.parse_args()
    main(given.models, given.hf_mem and str(given.hf_mem))
