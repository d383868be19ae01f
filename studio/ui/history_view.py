"""Runs as a list, and two beside each other, as HTML and as what makes a plot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from studio.runs import Broken, Comparison, Curve, Summary
from studio.ui import sheet, wording
from studio.ui.run_story import thinned
from studio.ui.run_view import STATES

_HEAD = ("Run", "State", "Steps", "Loss on held-out rows", "Model", "Data", "Begun", "Took", "On disk")


def name_of(run: Summary | Broken) -> str:
    """What a run is called where one of several is chosen."""
    if isinstance(run, Broken):
        return f"{run.id[:8]}, damaged"
    return f"{run.name} · {STATES[run.state]} · {_begun(run)}"


def table(there: Sequence[Summary | Broken]) -> str:
    """All of them."""
    if not there:
        return wording.done("There is no run yet. Press Start under Set up.")
    return f'<div class="sheet">{sheet.table(_HEAD, map(_row, there))}</div>'


def _row(run: Summary | Broken) -> tuple[str, ...]:
    if isinstance(run, Broken):
        return run.id[:8], f"damaged: {run.message}", "", "", "", "", "", "", ""
    left = f", {wording.duration(run.seconds_left)} left" if run.seconds_left else ""
    return (
        run.name,
        f"{STATES[run.state]}{left}",
        f"{run.step:,} of {run.total:,}" if run.total else "–",
        _losses(run),
        _short(run.model),
        _short(run.data),
        _begun(run),
        wording.duration(run.heard - run.started) if run.heard and run.started else "–",
        wording.size(run.bytes),
    )


def _losses(run: Summary) -> str:
    if run.held_out_loss is None or run.held_out_before is None:
        return "–"
    return f"{run.held_out_before:.3f} → {run.held_out_loss:.3f}"


def _short(name: str) -> str:
    return Path(name).name if name.startswith("/") else name


def _begun(run: Summary) -> str:
    at = run.started if run.started is not None else datetime.fromisoformat(run.made).timestamp()
    return time.strftime("%d %b %H:%M", time.localtime(at))


def differences(found: Comparison, names: tuple[str, str]) -> str:
    """The settings in which two runs differ, and no others."""
    if not found.differences:
        return f'<div class="sheet">{wording.done("They were asked to do the same.")}</div>'
    rows = [(_field(each.field), _said(each.one), _said(each.other)) for each in found.differences]
    return f'<div class="sheet">{sheet.table(("Setting", *names), rows)}</div>'


def _field(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ").capitalize()


def _said(value: Any) -> str:
    return "–" if value is None or value == "" else str(value)


def curves(found: Comparison, names: tuple[str, str]) -> dict[str, Any]:
    """The losses of both: on held-out rows where both have them, or else on those that are learnt."""
    import pandas

    one, other = names if names[0] != names[1] else (f"{names[0]} (1)", f"{names[1]} (2)")
    held_out = bool(found.one.held_out and found.other.held_out)
    points = [
        (step, loss, name)
        for name, curve in ((one, found.one), (other, found.other))
        for step, loss in thinned(_points(curve, held_out=held_out))
    ]
    title = "Loss on held-out rows" if held_out else "Loss"
    return {
        "value": pandas.DataFrame(points, columns=["Step", "Loss", "Run"]),
        "title": title,
        "visible": bool(points),
    }


def _points(curve: Curve, *, held_out: bool) -> Sequence[tuple[float, float]]:
    return curve.held_out if held_out else curve.learnt
