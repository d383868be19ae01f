"""GGUF files of the studio in the real llama.cpp: the same tokens of some 10,000 texts, and the same greedy reply.

    python tests/benchmarks/llama_cpp.py PYTHON [FOLDER]

PYTHON is one that has llama-cpp-python, which is built from source in several minutes:

    python3 -m venv llama
    CMAKE_ARGS="-DLLAMA_BUILD_TOOLS=OFF -DLLAVA_BUILD=OFF" llama/bin/pip install llama-cpp-python

FOLDER is the starter by default. Prints a line for each kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from studio.events import outcome
from studio.exporting import KINDS, ExportPlan, export
from studio.exporting.greedy import reply, scores
from studio.exporting.texts import conversation, probes
from studio.exporting.vocabulary import normal_forms
from studio.loading import LoadPlan, load
from studio.models import ModelRef, Precision
from studio.settings import ASSETS
from studio.tokenizer import encode

TOKENS = 40
CHILD = """
import itertools, json, sys
from llama_cpp import Llama

order = json.load(sys.stdin)
# Keys and values in 32 bit: in 16, as is usual, a random model soon takes another of two tokens that are as likely.
model = Llama(order["file"], n_ctx=512, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0)
ids = [model.tokenize(text.encode(), add_bos=False, special=True) for text in order["texts"]]
new = []
for token in itertools.islice(model.generate(order["prompt"], top_k=1, temp=0.0, repeat_penalty=1.0), order["tokens"]):
    new.append(token)
    if token in order["ends"]:
        break
scores = model.scores[: len(order["prompt"])].tolist()
template = model.metadata.get("tokenizer.chat_template")
json.dump({"ids": ids, "new": new, "scores": scores, "template": template}, sys.stdout)
"""


def drained(work: Any) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def main() -> None:
    python, folder = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else ASSETS / "starter_model"
    loaded = drained(load(LoadPlan(ModelRef("folder", str(folder)), Precision.FP32), folder))
    tokenizer = loaded.tokenizer
    texts = normal_forms(tokenizer, probes(tokenizer))
    prompt = encode(tokenizer, conversation(tokenizer), special_tokens=False)
    reference = scores(loaded, prompt)
    answer = drained(reply(loaded, prompt, TOKENS))
    expected = [encode(tokenizer, text, special_tokens=False) for text in texts]
    with tempfile.TemporaryDirectory() as place:
        for kind in KINDS:
            done = drained(outcome(export(ExportPlan(folder, Path(place) / f"{kind}.gguf", kind))))
            order = {
                "file": str(done.file),
                "texts": texts,
                "prompt": prompt,
                "tokens": TOKENS,
                "ends": answer.ids[-1:],
            }
            ran = subprocess.run(
                [python, "-c", CHILD], input=json.dumps(order), capture_output=True, text=True, check=True
            )
            told = json.loads(ran.stdout)
            equal = sum(one == other for one, other in zip(expected, told["ids"], strict=True))
            pairs = enumerate(zip(answer.ids, told["new"], strict=False))
            same = next((at for at, (one, other) in pairs if one != other), min(len(answer.ids), len(told["new"])))
            own = torch.tensor(told["scores"])
            off = float((own - reference).norm() / reference.norm())
            template = "the same" if told["template"] == tokenizer.chat_template else "ANOTHER"
            print(
                f"{kind:5} {done.bytes / 1e6:7.2f} MB  tokens of {equal:,} of {len(texts):,} texts,"
                f" reply {same} of {len(answer.ids)}, scores {off:.1e} off, template {template},"
                f" weights {done.weight_error:.2%} off; transformers: reply {done.likeness and done.likeness.same}",
                flush=True,
            )


if __name__ == "__main__":
    main()
