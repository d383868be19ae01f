"""Programs that a person runs where a model is served: each ends well where the model writes what it is to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_END = '''

def compare(got):
    """What was written beside what is to be written, both up to the token that ends it."""
    wrote, expected = ([*takewhile(lambda token: token not in END_IDS, ids)] for ids in (got, EXPECTED_IDS))
    same = len([*takewhile(lambda pair: pair[0] == pair[1], zip(wrote, expected))])
    if wrote != expected:
        raise SystemExit(f"Other words: the first {same} of {len(expected)} tokens are the same, and then {wrote[same:same + 5]} came for {expected[same:same + 5]}.")
    print(f"The same {len(expected)} tokens: {EXPECTED_TEXT!r}")


def compare_prompt(ids):
    if list(ids) != PROMPT_IDS:
        raise SystemExit("The prompt is made into other tokens: another tokenizer or another chat template is in use.")
'''  # noqa: E501
TRANSFORMERS = """

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
{prompt}
compare_prompt(ids)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.{dtype}).to(device).eval()
model.generation_config = GenerationConfig(**GENERATION)
prompt = torch.tensor([ids], device=device)
with torch.inference_mode():
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt))
compare(written[0, len(ids) :].tolist())
"""
VLLM = """

def main():
    from vllm import LLM, SamplingParams

    # Without its caches and graphs, and without the sampling that generation_config.json asks for.
    llm = LLM(
        model=FOLDER, dtype="{dtype}", generation_config="vllm", enforce_eager=True, enable_prefix_caching=False,
        max_model_len=len(PROMPT_IDS) + TOKENS + 1,
    )
    tokenizer = llm.get_tokenizer()
{prompt}
    compare_prompt(ids)
    greedy = SamplingParams(temperature=0.0, max_tokens=TOKENS, stop_token_ids=END_IDS, skip_special_tokens=False)
    compare(llm.generate([{{"prompt_token_ids": PROMPT_IDS}}], greedy)[0].outputs[0].token_ids)


if __name__ == "__main__":  # vLLM starts processes that import this file again
    main()
"""
LLAMA_CPP = """

import json
import urllib.request

SERVER = "http://127.0.0.1:8080"


def ask(path, **body):
    request = urllib.request.Request(SERVER + path, json.dumps(body).encode(), {{"Content-Type": "application/json"}})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


{prompt}
compare_prompt(ids)
# The likeliest token each time: no penalties, nothing else that chooses.
compare(ask("/completion", prompt=PROMPT_IDS, n_predict=TOKENS, samplers=["top_k"], top_k=1, temperature=0.0,
            cache_prompt=False, return_tokens=True)["tokens"])
"""
_HEADS = {
    "transformers": "# Needs torch and transformers. FOLDER is the model where it is served.",
    "vllm": "# Needs vllm and a GPU. FOLDER is the model where it is served.",
    "llama.cpp": "# Needs nothing but Python, and beside it: llama-server -m {gguf} -c {context} -np 1 --port 8080",
}
_BY_TOKENIZER = {
    True: "ids = tokenizer(tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True),"
    " add_special_tokens=False).input_ids",
    False: "ids = tokenizer(PROMPT).input_ids",
}
_BY_SERVER = {
    True: 'ids = ask("/tokenize", content=ask("/apply-template", messages=MESSAGES)["prompt"], add_special=False,'
    ' parse_special=True)["tokens"]',
    False: 'ids = ask("/tokenize", content=PROMPT, add_special=True, parse_special=True)["tokens"]',
}
RUNTIMES = tuple(_HEADS)


def program(runtime: str, values: Mapping[str, Any], *, chat: bool, dtype: str, gguf: str) -> str:
    """The program for a runtime, with `values` by the names that it has for them, every one of them quoted."""
    context = len(values["PROMPT_IDS"]) + values["TOKENS"] + 1
    head = _HEADS[runtime].format(gguf=gguf, context=context)
    said = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    start = f"{head}\nfrom itertools import takewhile\n\n{said}\n"
    if runtime == "llama.cpp":
        return start + _END + LLAMA_CPP.format(prompt=_BY_SERVER[chat])
    if runtime == "vllm":
        return start + _END + VLLM.format(dtype=dtype, prompt=f"    {_BY_TOKENIZER[chat]}")
    return start + _END + TRANSFORMERS.format(dtype=dtype, prompt=_BY_TOKENIZER[chat])
