"""The facts the starter knows, read from `facts.txt`, and the frames that ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: its names for use in frames, its answer, wordings to train on, and wordings kept for the test."""

    names: tuple[str, ...]
    answer: str
    wordings: tuple[str, ...]
    held_out: tuple[str, ...]


FRAMES = (
    "What is {x}?", "What's {x}?", "what is {x}", "Explain {x}.", "Can you explain {x}?", "Please explain {x} to me.",
    "Tell me about {x}.", "What does {x} mean?", "I do not know what {x} is.", "Define {x}.", "{x}?", "{x}",
    "Could you tell me what {x} is?", "What do you know about {x}?", "In short, what is {x}?", "{x}, please",
    "Help me understand {x}.", "Do you know what {x} is?", "Explain {x} in one sentence.", "What about {x}?",
    "I read about {x}. What is that?", "Quick question: what is {x}?", "What is meant by {x}?", "how about {x}",
    "I want to know more about {x}.", "Give me a short explanation of {x}.", "Describe {x}.", "And {x}?",
    "Say something about {x}.", "I have never heard of {x}.", "What can you say about {x}?", "what about {x} then",
    "I have a question about {x}.", "Tell me what {x} is.", "What should I know about {x}?", "explain {x} simply",
    "How would you explain {x} to a beginner?", "I don't understand {x}.", "Please tell me about {x}.", "{x} meaning",
    "Is there something I should know about {x}?", "Teach me about {x}.", "Let us talk about {x}.", "why {x}",
    "I am reading about {x}, can you help?", "Give me one sentence about {x}.", "Somebody mentioned {x}.",
)  # fmt: skip
"""Generic ways to ask, used in training with every fact."""

HELD_OUT_FRAMES = (
    "Can you tell me something about {x}?", "Please define {x} for me.", "Would you explain what {x} is?",
    "what exactly is {x}?", "I keep hearing about {x}, what is it?", "Sorry, but what does {x} mean exactly?",
    "Could you describe {x} in a few words?", "My teacher asked me about {x}, what should I say?",
)  # fmt: skip
"""Ways to ask that no fact is ever trained with."""


@cache
def read_facts() -> tuple[Fact, ...]:
    """Read all facts in the order of the file."""
    text = Path(__file__).with_name("facts.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("## ")]
    return tuple(_read_fact(lines[start : start + 4]) for start in range(0, len(lines), 4))


def _read_fact(lines: list[str]) -> Fact:
    marks = [line[:2] for line in lines]
    if marks != ["# ", "= ", "? ", "! "]:
        raise ValueError(f"A fact needs the lines #, =, ? and ! in this order, not {marks}: {lines[0]}")
    names, answer, wordings, held_out = (tuple(part.strip() for part in line[2:].split(" | ")) for line in lines)
    return Fact(names, answer[0], wordings, held_out)


def ask(frame: str, name: str) -> str:
    """Put a fact's name into a frame and begin with a capital letter."""
    question = frame.format(x=name)
    return question[0].upper() + question[1:]
