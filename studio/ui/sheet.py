"""The parts that answers on the page are made of: a headline, tables, bars, folds. All foreign text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from studio.advice import Advice
from studio.ui import wording


def headline(first: str, second: str, *, good: bool) -> str:
    """What came out, and a quieter line about it."""
    mark = "good" if good else "bad"
    return f'<div class="headline {mark}"><strong>{html.escape(first)}</strong><span>{html.escape(second)}</span></div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of text under a head; it scrolls where it is wide or long."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def bars(title: str, sizes: dict[str, int]) -> str:
    """Bytes by name, as bars."""
    most = max(sizes.values(), default=1) or 1
    rows = "".join(bar(name, size, most) for name, size in sizes.items())
    return f'<div class="bars"><h4>{title}</h4>{rows}</div>'


def bar(name: str, size: int, most: int, *, mark: str = "", after: str = "") -> str:
    """One bar of bytes, as long as its share of the longest."""
    return _bar(name, size / most, f"{wording.size(size)}{after}", mark)


def counted(title: str, counts: Sequence[tuple[str, int]], total: int) -> str:
    """How many by name, as bars with their share of the total."""
    most = max((count for _, count in counts), default=1) or 1
    rows = (_bar(name, count / most, f"{count:,} · {_share(count, total)}") for name, count in counts)
    return f'<div class="bars"><h4>{html.escape(title)}</h4>{"".join(rows)}</div>'


def _share(count: int, total: int) -> str:
    share = count / max(1, total)
    return f"{share:.1%}" if share >= 0.001 or not count else "< 0.1%"


def _bar(name: str, share: float, said: str, mark: str = "") -> str:
    return (
        f'<div class="bar{mark}"><b>{html.escape(name)}</b><i style="width:{100 * share:.1f}%"></i>'
        f"<span>{said}</span></div>"
    )


def findings(found: Iterable[tuple[str, str, str]], *, label: str = "What was found") -> str:
    """What was checked and how it came out, each a severity, a message and a hint; the worst first."""
    order = ("error", "warning", "note", "good")
    items = "".join(
        f'<li data-severity="{severity}">{html.escape(message)}'
        f"{f' <small>{html.escape(hint)}</small>' if hint else ''}</li>"
        for severity, message, hint in sorted(found, key=lambda each: order.index(each[0]))
    )
    return f'<ul class="findings" aria-label="{html.escape(label)}">{items}</ul>'


def folded(title: str, body: str) -> str:
    """What is there to be opened; `body` is HTML."""
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def advice(rule: Advice) -> str:
    """One piece of advice with where it is from."""
    return (
        f'<div class="advice" data-severity="{rule.severity}"><span>{html.escape(rule.why)}</span>'
        f"<small>{html.escape(rule.source)}</small></div>"
    )
