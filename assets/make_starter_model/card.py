"""Write the model card of the starter from the figures that `evaluate.py` measured.

python assets/make_starter_model/card.py [FOLDER]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from facts import read_facts
from pretrain import STARTER
from stories import ANIMALS, OBJECTS

TEMPLATE = """\
---
license: apache-2.0
language:
- en
library_name: transformers
pipeline_tag: text-generation
tags:
- llama
- tiny
- chat
- trained-from-scratch
- synthetic-data
---

# The starter model of Transformers Studio

A chat model of {parameters} weights ({megabytes} MB in bf16) that comes with Transformers Studio, so that everything
can be tried in minutes on a normal CPU and without the network: load it, look at its tokens, teach it something
with LoRA, merge, chat and publish.

It is a toy with a purpose, not an assistant. It knows {facts} facts about fine-tuning and about the studio, tells
short stories about {story_subjects} subjects, greets and says goodbye, and says so when it does not know something.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("starter_model")
model = AutoModelForCausalLM.from_pretrained("starter_model")
chat = [{{"role": "user", "content": "What is LoRA?"}}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**prompt)[0], skip_special_tokens=True))
```

It needs Transformers 5 or later. The chat template knows the roles system, user and assistant, and marks what the
assistant says, so that training can learn from the answers only.

## What it knows

**Stories** about these {story_subjects} subjects; about anything else it says that it knows no story.

- Animals: {animals}.
- Things: {objects}.

**Facts** ({facts}), each with one fixed answer, about: {topics}.

## How it was made

Trained from scratch by `assets/make_starter_model/pretrain.py` on rows that the scripts in that folder write from
their own grammars, fact list and small talk; no text by anyone else was used. Llama architecture: 4 layers, width 256,
4 heads, tied embeddings, byte-level BPE with {vocabulary} tokens and single digits, context of 1024 tokens. The loss
was taken on the assistant's words only.

| Training | |
|---|---|
| Steps | {steps} |
| Tokens, with padding | {tokens} M |
| Time on 2 CPU cores, beside other work | {minutes} minutes |
| Training loss at the end | {training_loss} |
{losses}

## Measured

All figures come from `assets/make_starter_model/evaluate.py`, on these weights, with wordings that never occur in
training. Answers are greedy, except where sampling is named (temperature 0.5, top-p 0.9).

| Test | Result |
|---|---|
{results}

## Limits

- It has learned {facts} answers by heart. A question that it does not recognise may get the answer to another one.
- It recognises words; it does not copy them. Names and words that it never saw cannot be repeated by it.
- Its stories follow {plots} plots. Each subject has its own name, and each plot its own helper and place, because a
  model of this size recognises names and hardly copies them; {whole} of the sampled stories keep one plot and one cast
  to the last word.
- It knows no arithmetic, no world knowledge, no other language than English, and follows no system prompt.
- It remembers little of a long chat: the rows are up to 1024 tokens long, but each answer follows from the last
  question.
- Every answer about fine-tuning is one short sentence: a start, not advice for a special case.

## Licence

Apache-2.0, weights and data alike.
"""


def write_card(folder: Path) -> str:
    """The text of the model card for the figures in a folder."""
    figures = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    training, losses = figures["training"], figures["validation losses"]
    return TEMPLATE.format(
        parameters=f"{figures['parameters']:,}",
        megabytes=figures["megabytes"],
        facts=figures["facts"],
        story_subjects=figures["story subjects"],
        animals=", ".join(ANIMALS),
        objects=", ".join(OBJECTS),
        topics=", ".join(fact.names[0] for fact in read_facts()),
        vocabulary=config["vocab_size"],
        steps=_both(training, "steps"),
        tokens=_both(training, "tokens", 1e6),
        minutes=_both(training, "minutes"),
        training_loss=training["training_loss"],
        losses="\n".join(f"| Validation loss, {kind} | {loss} |" for kind, loss in losses.items()),
        results="\n".join(f"| {name} | {value} |" for name, value in results(figures)),
        plots=figures["plots"],
        whole=f"{figures['stories']['sampled keeps one plot and its cast to the last word']['share']:.0%}",
    )


def results(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The rows of the table of results, in the order they were measured."""
    rows = []
    for name, value in figures.items():
        if not isinstance(value, dict) or name in ("training", "validation losses"):
            continue
        label = f"{prefix}{name}"
        if "share" in value:
            rows.append((label, f"{value['good']}/{value['of']} = {value['share']:.1%}"))
        elif "least" in value:
            rows.append((label, f"{value['mean']} on average, {value['least']} at least"))
        else:
            rows += results(value, f"{label}: ")
    return rows


def _both(training: dict[str, Any], figure: str, unit: float = 1) -> str:
    """A figure of both courses, where the second went on from the first."""
    numbers = [round(course[figure] / unit, 1) for course in (training.get("before"), training) if course]
    return " + ".join(f"{number:g}" for number in numbers)


def main() -> None:
    """Read the command line and write the card."""
    parser = argparse.ArgumentParser(description="Write the model card of the starter.")
    parser.add_argument("folder", type=Path, nargs="?", default=STARTER)
    folder = parser.parse_args().folder
    (folder / "README.md").write_text(write_card(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
