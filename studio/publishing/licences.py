"""Which licence may follow which: what is made of a model is bound by the licence of the model."""

from __future__ import annotations

import re

from studio.errors import InputError

UNKNOWN = "unknown"
_FREE = re.compile(r"cc0-1\.0|unlicense|wtfpl|pddl")
_PERMISSIVE = re.compile(
    r"apache-2\.0|mit|bsd(?:-[23]-clause(?:-clear)?)?|isc|zlib|ncsa|postgresql|ms-pl|bsl-1\.0|afl-3\.0|artistic-2\.0"
    r"|cc-by-[234]\.[05]|cdla-permissive-[12]\.0|odc-by|ecl-2\.0"
)


def may_follow(base: str, chosen: str) -> bool:
    """Whether something made of a model under `base` may be published under `chosen`.

    Of one without conditions anything may be made; one that asks for a notice may be bound more, but not set free; any
    other licence stays as it is.
    """
    if chosen == base or _FREE.fullmatch(base):
        return True
    return bool(_PERMISSIVE.fullmatch(base)) and not _FREE.fullmatch(chosen)


def check_licence(base: str | None, chosen: str) -> str:
    """The licence to publish under: the chosen one, or else that of the base. Raises InputError where it may not."""
    if not chosen:
        return base or UNKNOWN
    if base and base != UNKNOWN and not may_follow(base, chosen):
        raise InputError(
            f"The base is under {base}, and what is made of it cannot be published under {chosen}.",
            f"Leave the licence as it is, {base}, or ask the authors of the base.",
        )
    return chosen
