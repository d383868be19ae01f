"""The curve of a run as a picture that lies beside its card."""

from __future__ import annotations

from studio.publishing.record import Record

CURVE = "loss.svg"
_WIDE, _HIGH, _EDGE = 720, 300, 48
_LINES = (("learnt", "#8a8f98", 1.2), ("held out", "#2f6f4f", 2.4))
Points = tuple[tuple[int, float], ...]


def curve(record: Record) -> str:
    """An SVG with what was learnt and what was held out; empty where a run has said of neither."""
    lines = [(points, *look) for points, look in zip((record.curve, record.held_out), _LINES, strict=True) if points]
    if not lines:
        return ""
    every = [point for points, *_ in lines for point in points]
    last, most = max(step for step, _ in every) or 1, max(loss for _, loss in every) or 1.0
    drawn = "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="{wide}" points="{_points(points, last, most)}"/>'
        f'<text x="{_WIDE - _EDGE}" y="{20 + 18 * number}" fill="{colour}" text-anchor="end">{name}</text>'
        for number, (points, name, colour, wide) in enumerate(lines)
    )
    floor = _HIGH - _EDGE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" font-family="sans-serif"'
        ' font-size="13">'
        f'<rect width="{_WIDE}" height="{_HIGH}" fill="#ffffff"/>'
        f'<path d="M{_EDGE} {_EDGE / 2} V{floor} H{_WIDE - _EDGE / 2}" fill="none" stroke="#c4c8ce"/>'
        f'<text x="{_EDGE - 6}" y="{_EDGE / 2 + 5}" text-anchor="end" fill="#555">{most:.3g}</text>'
        f'<text x="{_EDGE - 6}" y="{floor}" text-anchor="end" fill="#555">0</text>'
        f'<text x="{_WIDE - _EDGE / 2}" y="{floor + 20}" text-anchor="end" fill="#555">step {last}</text>'
        f"{drawn}</svg>\n"
    )


def _points(points: Points, last: int, most: float) -> str:
    wide, high = _WIDE - 1.5 * _EDGE, _HIGH - 1.5 * _EDGE
    return " ".join(
        f"{_EDGE + wide * step / last:.1f},{_HIGH - _EDGE - high * loss / most:.1f}" for step, loss in points
    )
