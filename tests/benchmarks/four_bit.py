"""How fast a 4-bit model writes on this CPU: guarded, as bitsandbytes does it by itself, and without its fast kernel.

    python tests/benchmarks/four_bit.py [REPEATS]

The three take turns on the same weights; medians are compared.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from running import endless_model, told

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
TOKENS = 60


def main(repeats: int) -> None:
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from studio import four_bit

    folder = endless_model(Path(tempfile.mkdtemp()) / "model", **SHAPE)
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    names = ("guarded", "bitsandbytes by itself", "without its fast kernel")
    models = {
        name: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=how).eval()
        for name in names
    }
    four_bit.guard(models["guarded"])
    for layer in models["without its fast kernel"].modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False
    speeds = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, model in models.items():
            begin = time.perf_counter()
            model.generate(torch.tensor([[7, 8, 9]]), max_new_tokens=TOKENS, do_sample=False)
            if turn:  # the first one packs the weights and starts the threads
                speeds[name].append(TOKENS / (time.perf_counter() - begin))
    guarded, theirs, plain = (told(name, speeds[name], "tokens/s") for name in names)
    print(f"{'guarded / bitsandbytes by itself':<46} {guarded / theirs:8.2f}")
    print(f"{'guarded / without the fast kernel':<46} {guarded / plain:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
