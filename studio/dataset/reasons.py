"""Why a row cannot be learnt from."""

from __future__ import annotations

from enum import StrEnum

from studio.errors import InputError


class Reason(StrEnum):
    """What rows that are left out have in common."""

    UNREADABLE = "not what the columns are said to hold"
    NULL = "a cell that is null or empty"
    EMPTY = "nothing to learn in it"
    ORDER = "roles out of order"
    NO_REPLY = "no reply"
    REFUSED = "refused by the chat template or the tokenizer"
    UNPROVEN = "what is the assistant's cannot be proven"
    TOO_LONG = "longer than the limit"
    CUT_AWAY = "nothing to learn before the limit"
    HELD_OUT = "the same row is held out"


class BadRow(InputError):
    """A row that cannot be learnt from: where, what is there, and which kind of reason that is."""

    def __init__(self, message: str, hint: str, reason: Reason = Reason.UNREADABLE) -> None:
        super().__init__(message, hint)
        self.reason = reason  # outside of args, and still pickled: it is in __dict__
