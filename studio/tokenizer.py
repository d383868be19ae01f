"""Text into ids: the tokenizer of a model and its chat template, the same for chat, training and export."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from studio import gguf
from studio.errors import Damaged, InputError, Unsupported

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


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a model folder, or of a GGUF file. Never uses the network, never runs code from the folder.

    Raises Unsupported where there is none and Damaged where its files cannot be read.
    """
    from transformers import AutoTokenizer

    packed = gguf.found(folder)
    if not packed and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise Unsupported(
            "This model comes without a tokenizer.",
            "Take the tokenizer files (tokenizer.json, tokenizer_config.json) from the model it was made from.",
        )
    try:
        options = gguf.load_options(packed) if packed else {}
        place = packed.parent if packed else folder
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False, **options)
    except BaseException as error:
        # The Rust part has no class of its own: it raises Exception itself, for a file of a newer version too.
        if type(error) is not Exception and not isinstance(error, _UNREADABLE):
            raise
        raise Damaged(
            f"The tokenizer cannot be read: {_first_line(error)}",
            "Download the model again, or take the tokenizer files from the model it was made from.",
        ) from error
    if len(tokenizer) == 0:
        raise Damaged("The tokenizer has an empty vocabulary.", "Download the model again.")
    return tokenizer


_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RecursionError)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")


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
            f"The chat template of this model refuses this conversation: {_first_line(error)}",
            "Leave the system prompt empty or change the order of the turns; some templates allow neither.",
        ) from error
    return str(rendered)


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special_tokens: bool) -> list[int]:
    """Token ids of `text`. `special_tokens` adds those of the tokenizer around it; a chat template brings its own."""
    return list(tokenizer(text, add_special_tokens=special_tokens).input_ids)


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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
