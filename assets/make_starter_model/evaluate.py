"""Measure a starter model: what it knows, whether it stops, how varied its stories are, and what it admits not to know.

    python assets/make_starter_model/evaluate.py [FOLDER]

The figures are printed and written to `evaluation.json` in the folder of the model.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from corpus import HELD_OUT_STORY_PROMPTS
from facts import HELD_OUT_FRAMES, ask, read_facts
from pretrain import STARTER, validation_losses
from reading import Reading, read_story
from stories import NAMES, SUBJECTS, read_grammar, with_article
from talk import HELD_OUT_OUT_OF_SCOPE, HELD_OUT_WORDS, is_do_not_know, is_no_story, read_topics
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 96
SAMPLES = 20
SEED = 11
LONGEST_ANSWER = 60
LONGEST_STORY = 240


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and whether it ended by itself."""

    text: str
    stopped: bool


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in 32 bits and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], *, limit: int,
    sample: bool = False,
) -> list[Answer]:  # fmt: skip
    """Answer many questions, each in a chat of its own; sampling uses the model's own default settings."""
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        for text in questions
    ]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = tokenizer([prompts[place] for place in places], return_tensors="pt", padding=True, padding_side="left",
                          add_special_tokens=False, return_token_type_ids=False)  # fmt: skip
        settings = {"do_sample": True} if sample else {"do_sample": False, "temperature": None, "top_p": None}
        output = model.generate(**batch, max_new_tokens=limit, **settings)
        for place, ids in zip(places, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            answers[place] = _answer(tokenizer, ids)
    return [answers[place] for place in range(len(prompts))]


def _answer(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> Answer:
    stopped = tokenizer.eos_token_id in ids
    kept = ids[: ids.index(tokenizer.eos_token_id)] if stopped else ids
    return Answer(tokenizer.decode(kept, skip_special_tokens=True), stopped)


@dataclass
class Examination:
    """All tests of one model; every answer is kept, because stopping is judged over all of them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        self.answers: list[Answer] = []
        self.misses: list[tuple[str, str]] = []
        self.known: list[Answer] = []

    def ask(self, questions: Sequence[str], *, limit: int = LONGEST_ANSWER, sample: bool = False) -> list[Answer]:
        """Put questions to the model and remember the answers."""
        answers = answer(self.model, self.tokenizer, questions, limit=limit, sample=sample)
        self.answers += answers
        return answers

    def facts(self, questions: list[tuple[str, str]]) -> dict[str, Any]:
        """Exact match of the answers to questions about facts."""
        answers = self.ask([question for question, _ in questions])
        self.known += answers
        pairs = list(zip(questions, answers, strict=True))
        self.misses += [(question, given.text) for (question, right), given in pairs if given.text != right]
        return share(pairs, lambda pair: pair[1].text == pair[0][1])

    def talk(self) -> dict[str, Any]:
        """Small talk in wordings never trained: is the answer one that fits?"""
        asked = [(topic, prompt) for topic in read_topics() for prompt in topic.held_out]
        pairs = list(zip(asked, self.ask([prompt for _, prompt in asked]), strict=True))
        self.known += [given for _, given in pairs]
        table = [{"said": prompt, "answer": given.text} for (_, prompt), given in pairs]
        return {**share(pairs, lambda pair: pair[1].text in pair[0][0].answers), "table": table}

    def honesty(self) -> dict[str, Any]:
        """Does the model admit what it does not know, and only that?"""
        rng = random.Random(SEED)
        outside = self.ask(HELD_OUT_OUT_OF_SCOPE)
        wishes = [rng.choice(HELD_OUT_STORY_PROMPTS).format(a=with_article(word)) for word in HELD_OUT_WORDS]
        strangers = self.ask(wishes)
        return {
            "out of scope": share(outside, lambda given: is_do_not_know(given.text)),
            "unknown story subjects": share(strangers, lambda given: is_no_story(given.text)),
            "false do not know": share(self.known, lambda given: is_do_not_know(given.text)),
        }

    def stories(self) -> dict[str, Any]:
        """Stories about every subject: greedy in new wordings, and sampled many times."""
        rng = random.Random(SEED)
        asked = [rng.choice(HELD_OUT_STORY_PROMPTS).format(a=with_article(subject)) for subject in SUBJECTS]
        greedy = list(zip(SUBJECTS, self.ask(asked, limit=LONGEST_STORY), strict=True))
        torch.manual_seed(SEED)
        told = self.ask(asked * SAMPLES, limit=LONGEST_STORY, sample=True)
        sampled = list(zip(SUBJECTS * SAMPLES, told, strict=True))
        self.known += [given for _, given in greedy]
        distinct = [len({given.text for subject, given in sampled if subject == wanted}) for wanted in SUBJECTS]
        readings = [(subject, given, read_story(given.text)) for subject, given in sampled]
        plots = [len({reading.plot for subject, _, reading in readings if subject == wanted and reading})
                 for wanted in SUBJECTS]  # fmt: skip
        return {
            "greedy names its subject": share(greedy, lambda pair: pair[0] in pair[1].text),
            "sampled names its subject": share(sampled, lambda pair: pair[0] in pair[1].text),
            "sampled has two names": share(sampled, lambda pair: len(_names(pair[1].text)) >= 2),
            "sampled keeps one plot and its cast to the last word": share(readings, _is_whole),
            f"distinct stories in {SAMPLES}": _range(distinct),
            f"distinct plots in {SAMPLES}": _range(plots),
            "examples": [given.text for _, given in sampled[:: len(sampled) // 6]][:6],
        }


def share(items: Sequence[Any], good: Callable[[Any], Any]) -> dict[str, Any]:
    """How many of the items are good, and of how many."""
    count = sum(bool(good(item)) for item in items)
    return {"good": count, "of": len(items), "share": round(count / len(items), 4)}


def _names(text: str) -> set[str]:
    return set(re.findall("[A-Za-z]+", text)) & set(NAMES)


def _is_whole(item: tuple[str, Answer, Reading | None]) -> bool:
    subject, _, reading = item
    return reading is not None and reading.subject in (subject, "") and reading.hero != reading.helper


def _range(counts: list[int]) -> dict[str, float]:
    return {"mean": round(sum(counts) / len(counts), 2), "least": min(counts)}


def examine(folder: Path) -> dict[str, Any]:
    """All figures of the model in a folder."""
    model, tokenizer = load(folder)
    exam = Examination(model, tokenizer)
    rng = random.Random(SEED)
    framed = [(ask(frame, rng.choice(fact.names)), fact.answer) for fact in read_facts() for frame in HELD_OUT_FRAMES]
    free = [(wording, fact.answer) for fact in read_facts() for wording in fact.held_out]
    figures = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "megabytes": round((folder / "model.safetensors").stat().st_size / 1e6, 2),
        "facts": len(read_facts()),
        "story subjects": len(SUBJECTS),
        "plots": len(read_grammar()[1]),
        "facts in frames never trained": exam.facts(framed),
        "facts in free wordings never trained": exam.facts(free),
        "stories": exam.stories(),
        "small talk": exam.talk(),
        "honesty": exam.honesty(),
        "validation losses": validation_losses(model, tokenizer),
    }
    figures["stops by itself"] = share(exam.answers, lambda given: given.stopped)
    figures["facts missed"] = [{"asked": question, "answer": text} for question, text in exam.misses]
    return figures


def report(figures: dict[str, Any], indent: str = "") -> None:
    """Print the figures, without the long lists."""
    for name, value in figures.items():
        if isinstance(value, dict) and "share" in value:
            print(f"{indent}{name}: {value['good']}/{value['of']} = {value['share']:.1%}")
        elif isinstance(value, dict):
            print(f"{indent}{name}:")
            report(value, indent + "  ")
        elif not isinstance(value, list):
            print(f"{indent}{name}: {value}")
    for row in figures.get("table", []) + figures.get("small talk", {}).get("table", []):
        print(f"{indent}  {row['said']} -> {row['answer']}")


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description="Measure a starter model.")
    parser.add_argument("folder", type=Path, nargs="?", default=STARTER)
    folder = parser.parse_args().folder
    disable_progress_bar()
    figures = examine(folder)
    training = folder / "training.json"
    if training.exists():
        figures["training"] = json.loads(training.read_text(encoding="utf-8"))
    (folder / "evaluation.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    report(figures)


if __name__ == "__main__":
    main()
