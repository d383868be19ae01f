"""What one step of a chat template may make: every operation that makes much of little, with a limit.

No limit of time ends a step, and 'x' * 10**10 is one: what it would make is counted before it is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Literal

from jinja2 import TemplateRuntimeError
from jinja2.filters import do_indent, do_round

LARGEST = 10_000_000
"""Characters that a template may yield, or hold at once. The longest contexts, of a million tokens, have 5 million."""


def too_large() -> TemplateRuntimeError:
    return TemplateRuntimeError(f"it makes more than {LARGEST:,} characters")


def within(size: int) -> None:
    if size > LARGEST:
        raise too_large()


def weighed(value: Any) -> Any:
    """The value, unless it would be too long as text: a list of one list many times over is small until then."""
    if isinstance(value, list | tuple | dict):
        total, rest = 0, [value]
        while rest:
            item = rest.pop()
            total += len(item) + 1 if isinstance(item, str | list | tuple | dict) else 8
            within(total)
            if isinstance(item, dict):
                rest += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                rest += item
    return value


def joined(parts: Iterable[Any]) -> str:
    texts = [part if isinstance(part, str) else str(weighed(part)) for part in parts]
    within(sum(len(text) for text in texts))
    return "".join(texts)


def replaced(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    whole, old, new = str(weighed(text)), str(weighed(old)), str(weighed(new))
    within(len(whole) + whole.count(old) * len(new))
    return whole.replace(old, new, -1 if count is None else count)


def strung(separator: str, items: Iterable[Any]) -> str:
    texts = list(items)
    within(sum(len(text) for text in texts if isinstance(text, str)) + len(separator) * len(texts))
    return separator.join(texts)


def product(left: Any, right: Any) -> Any:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | bytes | list | tuple) and isinstance(times, int):
            within(len(many) * max(0, times))
    return left * right


def total(left: Any, right: Any) -> Any:
    if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        within(len(left) + len(right))
    return left + right


# A width of four digits, or one that is filled in itself.
_WIDE = {"%": r"%[^a-zA-Z%]*(?:\d{4}|\*)", "{": r"\{[^{}]*(?:\d{4}|\{)"}


def filled(text: Any, values: Any) -> Any:
    """The % of two values. Between texts it fills in, and each place may be given a width."""
    if isinstance(text, str):
        check_form(text, "%", values)
    return text % values


def check_form(form: str, mark: str, values: Any) -> None:
    weighed(values)
    longest = max((len(str(value)) for value in _leaves(values)), default=0)
    if re.search(_WIDE[mark], form.replace("{{", "").replace("}}", "")):
        raise TemplateRuntimeError("a place to fill in is too wide")
    within(len(form) + form.count(mark) * longest)


def _leaves(values: Any) -> Iterable[Any]:
    return values.values() if isinstance(values, dict) else values if isinstance(values, list | tuple) else [values]


def weighing(text_filter: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of texts, which would write out whatever else it is given."""

    @wraps(text_filter)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for value in args:
            weighed(value)
        return text_filter(*args, **kwargs)

    return checked


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    _check_small(indent)
    text = json.dumps(
        weighed(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    within(len(text))
    return text


def join_filter(items: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    held = [item.get(attribute, "") if isinstance(item, dict) else item for item in items] if attribute else items
    return strung(str(separator), [str(weighed(item)) for item in held])


def indented(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _check_small(width)
    within(len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else len(width)))
    return do_indent(text, width, first, blank)


def format_filter(form: str, *args: Any, **kwargs: Any) -> Any:
    return filled(form, kwargs or args)


def summed(items: Iterable[Any], attribute: str | None = None, start: float = 0) -> Any:
    held = [item[attribute] for item in items] if attribute else items
    return sum(held, float(start) if isinstance(start, float) else int(start))


def rounded(value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> float:
    _check_small(precision)
    return do_round(value, precision, method)


def _check_small(number: Any) -> None:
    if isinstance(number, int) and abs(number) > 1000:
        raise TemplateRuntimeError(f"{number} is too much for a filter")
