"""What a person asks of a model: a prompt, and how the reply is to be chosen."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from studio.errors import InputError
from studio.fields import check
from studio.tokenizer import Message


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How the next token is chosen, and when to end."""

    max_new_tokens: int = field(default=512, metadata={"help": "Longest reply, in tokens", "min": 1, "max": 8192})
    greedy: bool = field(default=False, metadata={"help": "Always take the likeliest token; the knobs below rest"})
    temperature: float = field(
        default=0.7,
        metadata={"help": "Lower is more certain, higher more varied", "min": 0.05, "max": 2.0, "step": 0.05},
    )
    top_p: float = field(
        default=0.95,
        metadata={"help": "Keep the likeliest tokens up to this share", "min": 0.05, "max": 1.0, "step": 0.05},
    )
    top_k: int = field(
        default=50, metadata={"help": "Keep this many of the likeliest tokens; 0 keeps all", "min": 0, "max": 200}
    )
    min_p: float = field(
        default=0.0,
        metadata={"help": "Drop what is less likely than this share of the best", "min": 0.0, "max": 1.0, "step": 0.01},
    )
    repetition_penalty: float = field(
        default=1.0,
        metadata={"help": "Above 1 makes repeating itself less likely", "min": 1.0, "max": 2.0, "step": 0.05},
    )
    beams: int = field(
        default=1,
        metadata={
            "help": "Follow this many texts at once; from 2 on the reply appears when it is complete",
            "min": 1,
            "max": 8,
        },
    )
    seed: int | None = field(
        default=None,
        metadata={"help": "The same seed gives the same reply; empty draws one", "min": 0, "max": 2**32 - 1},
    )

    def __post_init__(self) -> None:
        check(self)


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # what Python makes of a byte that is not UTF-8


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to answer or continue: a conversation, or a plain text that the model goes on with."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    """Continued as it stands, without a template, where there are no messages."""
    continue_last: bool = False
    """Go on inside the last message rather than answer it."""

    def __post_init__(self) -> None:
        if any(_LONE_SURROGATE.search(text) for text in (self.text, *(m.content for m in self.messages))):
            raise InputError("The prompt holds bytes that are not text.", "Type it anew, or save it as UTF-8.")
        last = self.messages[-1].content if self.messages else self.text
        if not last.strip():
            raise InputError("There is no prompt.", "Type something for the model to read.")
        if self.continue_last and (not self.messages or self.messages[-1].role != "assistant"):
            raise InputError("There is no reply to continue.", "Send a message first.")
