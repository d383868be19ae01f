"""Tokens per second at the page's API end, divided by those of plain `model.generate`, in one run.

    python tests/benchmarks/streaming.py [REPEATS]

The two take turns on the same machine, with the same weights, settings and length; medians are compared.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from running import STARTER_SHAPE, endless_model, free_port, process, told

TOKENS = 1000
PROMPT = "Tell me something."


def main(repeats: int) -> None:
    folder = endless_model(Path(tempfile.mkdtemp()) / "model", **STARTER_SHAPE)
    plain = plain_generate(folder)
    with process("app.py", port=free_port()) as (_, url, _):
        stream(url, folder, 20)  # waits for the imports and loads the model
        time.sleep(5)
        plain(20)
        ours, theirs, updates = [], [], 0
        for _ in range(repeats):
            theirs.append(speed(lambda: plain(TOKENS)))
            ours.append(speed(lambda: stream(url, folder, TOKENS)))
        updates = stream(url, folder, TOKENS)
    page = told("studio, at the API", ours, "tokens/s")
    library = told("transformers, model.generate", theirs, "tokens/s")
    print(f"{'ratio of the medians':<46} {page / library:8.2f}           ({updates} updates a reply)")


def stream(url: str, folder: Path, tokens: int) -> int:
    """Call the API as the page does and read the stream to its end; the number of updates.

    Not by gradio_client: it looks for updates a thousand times a second, on the cores that are measured.
    """
    body = json.dumps({"data": [str(folder), PROMPT, "", tokens, 0.7, 1]}).encode()
    request = urllib.request.Request(f"{url}gradio_api/call/generate", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    updates = 0
    with urllib.request.urlopen(f"{url}gradio_api/call/generate/{event}") as events:
        for line in events:
            updates += line.startswith(b"data:")
            if line.startswith((b"event: complete", b"event: error")):
                break
    return updates


def plain_generate(folder: Path):
    """The same reply by the library alone: template, tokens, generate, text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from studio import compute
    from studio.generation import GenerationSettings
    from studio.loading import best_precision

    held = best_precision(compute.machine())[0]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[held]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(compute.machine().device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chosen = GenerationSettings()
    sampling = {"temperature": chosen.temperature, "top_p": chosen.top_p, "top_k": chosen.top_k}

    def generate(tokens: int) -> str:
        torch.manual_seed(1)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        output = model.generate(**prompt, max_new_tokens=tokens, do_sample=True, **sampling)
        return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))

    return generate


def speed(work) -> float:
    started = time.perf_counter()
    work()
    return TOKENS / (time.perf_counter() - started)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
