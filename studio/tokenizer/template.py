"""A conversation as the text that the model reads: its own chat template, in a sandbox with a time limit."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from studio.errors import InputError, Unsupported
from studio.tokenizer.reading import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_SECONDS = 2.0
"""How long a chat template may take. Real ones need milliseconds; one that loops for ever is stopped."""

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


def render(tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...], *, continue_last: bool = False) -> str:
    """The text that the model reads for a conversation, by the chat template of its own tokenizer.

    It ends where the assistant is to begin, or, with `continue_last`, where the last message breaks off.
    Raises Unsupported without a template and InputError where the template fails or does not come to an end.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise Unsupported(
            "This model has no chat template: it was not made for conversations.",
            "Switch to Completion and let it continue a text, or choose a model whose name ends in Instruct or Chat.",
        )
    try:
        _refuse_powers(tokenizer.get_chat_template())
        with _deadline(TEMPLATE_SECONDS):
            rendered = tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                tokenize=False,
                add_generation_prompt=not continue_last,
                continue_final_message=continue_last,
            )
    except _TookTooLong as error:
        raise InputError(
            f"The chat template of this model did not come to an end within {TEMPLATE_SECONDS:g} seconds.",
            "Switch to Completion, or choose another model: this one's template is broken.",
        ) from error
    except (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ) as error:
        raise InputError(
            f"The chat template of this model refuses this conversation: {first_line(error)}",
            "Leave the system prompt empty or change the order of the turns; some templates allow neither.",
        ) from error
    return str(rendered)


def _refuse_powers(template: str) -> None:
    """Raise TemplateError where a template raises to a power.

    No template of a chat needs to, and 9**9**9 is one step of many minutes: no deadline ends it, and all threads wait.
    """
    from jinja2 import Environment, TemplateRuntimeError

    before = ""
    for _, kind, value in Environment().lex(template):  # noqa: S701 - it is read, not rendered
        # Behind a bracket or a comma it hands over keywords: macro(**options).
        if kind == "operator" and value == "**" and before not in ("(", ","):
            raise TemplateRuntimeError("powers are not allowed")
        before = before if kind == "whitespace" else value


class _TookTooLong(BaseException):
    """Not an Exception, so that nothing between here and the template swallows it."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Stop Python code of this thread that is still running after `seconds`.

    Templates become Python code when they are rendered, so a trace function sees each line of an endless loop. There is
    no other way to stop a thread that does not cooperate, and a process for each message would cost seconds.
    """
    end = time.monotonic() + seconds

    def check(_frame: FrameType, _event: str, _argument: Any) -> Any:
        if time.monotonic() > end:
            raise _TookTooLong
        return check

    before = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)
