"""What the tests of evaluation share: rows as examples on the disk, and a look at a model until its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from studio.dataset import Examples
from studio.evaluation import Exam, Standing, look
from studio.tokenizer import Masked, Message, mask_conversation

SHORT = "A man walks down the street with a long umbrella."
SLOW = r"(?b)(?:[a-z]+\d+){e<=12}\d{20}"
"""A pattern, found in nothing, that takes years to find out."""


def chat(question: str, answer: str) -> tuple[Message, ...]:
    return Message("user", question), Message("assistant", answer)


def examples(folder: Path, masked: Iterable[Masked]) -> Examples:
    """What a dataset is once it is prepared, in a folder."""
    from datasets import Dataset, Features, List, Value

    rows = [{"input_ids": m.ids, "trained": m.trained, "length": len(m.ids), "row": n} for n, m in enumerate(masked)]
    kinds = {"input_ids": List(Value("int32")), "trained": List(Value("bool"))}
    features = Features({**kinds, "length": Value("int32"), "row": Value("int32")})
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).save_to_disk(folder)
    lengths = [row["length"] for row in rows]
    file = next(folder.glob("*.arrow"))
    return Examples(file, len(rows), sum(lengths), sum(sum(row["trained"]) for row in rows), max(lengths))


def conversations(folder: Path, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> Examples:
    """Questions with their answers, prepared."""
    return examples(folder, [mask_conversation(tokenizer, chat(*pair)) for pair in pairs])


def standing(loaded: Any, exam: Exam, *, adapted: bool = True, model: Any = None) -> Standing:
    """What a look at a model ends with."""
    *_, last = look(loaded.model if model is None else model, loaded.tokenizer, exam, adapted=adapted)
    return last.result
