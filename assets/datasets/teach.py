"""Teach the starter both datasets with LoRA on the CPU, and measure before and after.

python assets/datasets/teach.py [FOLDER]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "make_starter_model"))

import facts
import make
from batches import batches, loss_of
from evaluate import LONGEST_ANSWER, LONGEST_STORY, answer, load, share
from pretrain import STARTER
from tokenizer import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CARD = """\
---
license: apache-2.0
language:
- en
tags:
- synthetic-data
---

# The starter datasets

Two small sets that teach the starter model something it cannot do, each in about a minute or two on a CPU.

- **persona** teaches a pirate's voice. Each row of `train.jsonl` and `test.jsonl` is `{{"messages": [...]}}` with one
  question and one answer. Facts, stories, small talk and "I do not know" are all said in the new voice, so that the
  tuned model keeps to the point and forgets little. The questions in `test.jsonl` do not occur in `train.jsonl`.
- **orders** turns a sentence into JSON. Each row is `{{"prompt": "...", "completion": "..."}}`, and the completion
  holds name, city, item and count. Each held-out part tests one thing: `test_combinations.jsonl` uses known words in
  new combinations, `test_frames.jsonl` new sentences, and `test_unseen_words.jsonl` names, cities and items that occur
  in no training row.

`checks.json` in each folder declares how the studio measures what was learnt, and `persona/checks` holds what it asks
for that: data alone, which a dataset of your own may bring too.

Both were written by `make.py` in this folder, from grammars and a seed; no text by anyone else was used.
Licence: Apache-2.0.

## Measured

`teach.py` in this folder trains a LoRA (rank {rank}, alpha {alpha}, all linear layers, learning rate {learning_rate})
on the training rows and asks the starter model before and after, greedily.

{tables}

*Voice* is the share of held-out answers with at least two of the pirate's marks. *On topic* means that most of the
longer words of the right fact, or the subject of the story, come back. *Retained facts* asks for all facts, in whatever
voice. The orders figures are exact matches of the whole JSON.

A model of this size recognises words and does not copy them: what it does with words that it never saw is shown by
`test_unseen_words`, and is no mistake in the training.
"""
SEED = 5
RANK = 16
LEARNING_RATE = 3e-3
WARMUP_STEPS = 20
EPOCHS = {"persona": 8, "orders": 18}
TOKENS_PER_STEP = 1024
PIRATE_MARKS = re.compile(
    r"\b(arr|ahoy|mateys?|ye|yer|aye|avast|shiver|timbers|yo ho|hearty|landlubber|sea dog|blow me|blackbeard|rum|"
    r"captain|hoist|sailor|pirate)\b",
    re.IGNORECASE,
)


def learn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[list[dict]], epochs: int) -> float:
    """Train a LoRA on rows of messages; gives the seconds it took."""
    torch.manual_seed(SEED)
    tuned = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    weights = [weight for weight in tuned.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=0.01)
    encoded, rng, started = encode(tokenizer, rows), random.Random(SEED), time.monotonic()
    plan = [batch for _ in range(epochs) for batch in batches(encoded, TOKENS_PER_STEP, rng)]
    for step, (ids, labels) in enumerate(plan):
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS, 1.5 * (1 - step / len(plan)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss_of(model.model, model.lm_head, ids, labels).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return round(time.monotonic() - started, 1)


def is_pirate(text: str) -> bool:
    """Whether a text sounds like the persona: at least two of its marks."""
    return len({mark.lower() for mark in PIRATE_MARKS.findall(text)}) >= 2


def stays_on_topic(text: str, topic: tuple[str, ...]) -> bool:
    """Whether most of the words that matter come back."""
    return sum(word in text.lower() for word in topic) >= 0.7 * len(topic)


def measure_persona(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Voice, topic and stopping on the held-out persona rows, and facts that the persona set does not contain."""
    rows = make.persona()["test"]
    answers = answer(model, tokenizer, [row.question for row in rows], limit=LONGEST_STORY)
    pairs = list(zip(rows, answers, strict=True))
    with_topic = {kind: [pair for pair in pairs if pair[0].kind == kind] for kind in ("fact", "story")}
    figures = {
        "voice": share(pairs, lambda pair: is_pirate(pair[1].text)),
        "stops by itself": share(pairs, lambda pair: pair[1].stopped),
    }
    for kind, chosen in with_topic.items():
        figures[f"{kind} on topic"] = share(chosen, lambda pair: stays_on_topic(pair[1].text, pair[0].topic))
    return {**figures, "retained facts": _retained(model, tokenizer)}


def _retained(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """All facts, asked in a plain way: is the right content still there, in whatever voice?"""
    known = facts.read_facts()
    answers = answer(model, tokenizer, [facts.ask("What is {x}?", fact.names[0]) for fact in known], limit=80)
    topics = [make.topic_words(make.translate(fact.answer)) for fact in known]
    return share(list(zip(topics, answers, strict=True)), lambda pair: stays_on_topic(pair[1].text, pair[0]))


def measure_orders(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Exact match of the JSON on each held-out part."""
    figures = {}
    for part, rows in make.orders().items():
        if part != "train":
            answers = answer(model, tokenizer, [row["prompt"] for row in rows], limit=LONGEST_ANSWER)
            pairs = list(zip(rows, answers, strict=True))
            figures[part] = share(pairs, lambda pair: pair[1].text == pair[0]["completion"])
    return figures


def teach(name: str, folder: Path) -> dict[str, Any]:
    """Train on one dataset and give the figures before and after."""
    model, tokenizer = load(folder)
    measure = measure_persona if name == "persona" else measure_orders
    rows = [json.loads(line) for line in (make.FOLDER / name / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    chats = [row.get("messages") or make.as_chat(row) for row in rows]
    before = measure(model, tokenizer)
    seconds = learn(model, tokenizer, chats, EPOCHS[name])
    return {"rows": len(rows), "epochs": EPOCHS[name], "seconds": seconds, "before": before,
            "after": measure(model.eval(), tokenizer)}  # fmt: skip


def write_card(figures: dict[str, Any]) -> str:
    """The card of the datasets with the measured figures."""
    tables = []
    for name, measured in figures.items():
        lines = [f"**{name}**: {measured['rows']} rows, {measured['epochs']} epochs, {measured['seconds']} seconds\n"]
        lines += ["| Test | Before | After |", "|---|---|---|"]
        for what, after in measured["after"].items():
            lines.append(f"| {what} | {measured['before'][what]['share']:.1%} | {after['share']:.1%} |")
        tables.append("\n".join(lines))
    return CARD.format(rank=RANK, alpha=2 * RANK, learning_rate=LEARNING_RATE, tables="\n\n".join(tables))


def main() -> None:
    """Read the command line, teach both sets, print and write the figures."""
    parser = argparse.ArgumentParser(description="Teach the starter both datasets and measure before and after.")
    parser.add_argument("folder", type=Path, nargs="?", default=STARTER)
    folder = parser.parse_args().folder
    disable_progress_bar()
    figures = {name: teach(name, folder) for name in EPOCHS}
    (make.FOLDER / "measured.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (make.FOLDER / "README.md").write_text(write_card(figures), encoding="utf-8")
    for name, measured in figures.items():
        print(f"{name}: {measured['rows']} rows, {measured['epochs']} epochs, {measured['seconds']} s")
        for what, after in measured["after"].items():
            print(f"  {what}: {measured['before'][what]['share']:.1%} -> {after['share']:.1%} of {after['of']}")


if __name__ == "__main__":
    main()
