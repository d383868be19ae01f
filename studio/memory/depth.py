"""How deep a model has to be for its memory to be known: layers that repeat are counted on, from two shallow models.

What is in memory at one operation of one layer grows by the same bytes with every layer more. The overall peak does
not: it moves from one operation to another. So every operation is counted on by itself, and the fullest is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.memory.fake_step import layers_of
from studio.memory.tracker import Key, Tracker

if TYPE_CHECKING:
    import torch

_SHALLOWEST = 3
_UNIFORM_STRIDE = 2


@dataclass(frozen=True, slots=True)
class Depths:
    """Which depths of a model are carried out: one, all of it, or two from which the rest follows."""

    layers: int
    carried_out: tuple[int, ...]
    first: int
    """Layers at the start that are told apart: those before the pattern begins, a period of it, and one."""
    last: int
    """The same at the end."""


def depths_of(model: Any) -> Depths:
    """The depths to carry out for a model on the meta device, by the pattern in which its layers repeat."""
    layers = layers_of(model)
    count = len(layers)
    whole = Depths(count, (count,), count, count)
    signs = [_sign(layer, _kind(model, number)) for number, layer in enumerate(layers)]
    if (found := pattern(signs)) is None:
        return whole
    prefix, period = found
    repeats = _SHALLOWEST
    while repeats <= period or (count - prefix - repeats) % period:
        repeats += 1
    shallow = prefix + repeats
    deeper = shallow + (_UNIFORM_STRIDE if period == 1 else period)
    return whole if deeper >= count else Depths(count, (shallow, deeper), prefix + period + 1, period + 1)


def pattern(signs: list[Any]) -> tuple[int, int] | None:
    """How many layers come before the pattern, and how long it is; None where nothing repeats three times."""
    count = len(signs)
    for period in range(1, count // 3 + 1):
        prefix = next((at for at in range(count - period, 0, -1) if signs[at - 1] != signs[at - 1 + period]), 0)
        if prefix + 3 * period <= count:
            return prefix, period
    return None


def _kind(model: Any, number: int) -> Any:
    kinds = getattr(model.config.get_text_config(), "layer_types", None)
    return kinds[number] if kinds else None


def _sign(layer: torch.nn.Module, kind: Any) -> tuple[Any, ...]:
    """What makes layers alike: their parameters and their settings, all but their number."""
    plain = (bool, int, float, str)
    settings = [
        (name, key, value)
        for name, module in layer.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, plain) and key not in ("layer_idx", "layer_id", "layer_number", "_layer_idx")
    ]
    shapes = [(name, tuple(p.shape), p.dtype) for name, p in (*layer.named_parameters(), *layer.named_buffers())]
    return (kind, type(layer), tuple(settings), tuple(shapes))


@dataclass(frozen=True, slots=True)
class Fullest:
    """What memory held at its fullest, and what each phase of the work came to."""

    bytes: int
    operation: str
    parts: dict[str, int]
    moments: dict[str, int]
    reserved: int
    resident: int
    """What stays once the work is done: weights, adapter, cache and workspace."""
    trainable: int


def fullest(depths: Depths, trackers: list[Tracker], trainable: list[int]) -> Fullest:
    """What the whole model takes, from the trackers of the depths that were carried out."""
    line = _line(depths)
    keys = [key for key in trackers[0].fullest if all(key in tracker.fullest for tracker in trackers)]
    counted = {key: line([tracker.fullest[key][0] for tracker in trackers]) for key in keys}
    peak = max(keys, key=lambda key: counted[key])
    at = [tracker.parts(tracker.fullest[peak][1]) for tracker in trackers]
    moments: dict[str, int] = {}
    for key in keys:
        if key.phase == "start":  # the model is put into memory
            continue
        moments[key.phase] = max(moments.get(key.phase, 0), counted[key])
    return Fullest(
        bytes=counted[peak],
        operation=_operation(peak),
        parts=_whole(_lined(at, line), counted[peak]),
        moments=moments,
        reserved=max(counted[peak], line([tracker.allocator.peak_reserved for tracker in trackers])),
        resident=line([_resident(tracker) for tracker in trackers]),
        trainable=line(trainable),
    )


def _line(depths: Depths) -> Any:
    if len(depths.carried_out) == 1:
        return lambda values: values[0]
    shallow, deeper = depths.carried_out
    return lambda values: values[0] + (values[1] - values[0]) * (depths.layers - shallow) // (deeper - shallow)


def _lined(at: list[dict[str, int]], line: Any) -> dict[str, int]:
    names = {name: None for parts in at for name in parts}
    return {name: line([parts.get(name, 0) for parts in at]) for name in names}


def _whole(parts: dict[str, int], total: int) -> dict[str, int]:
    """The parts with what rounding left, so that their sum is the total."""
    parts["temporaries"] = parts.get("temporaries", 0) + total - sum(parts.values())
    return parts


def _resident(tracker: Tracker) -> int:
    return sum(count for part, count in tracker.left.items() if part in ("weights", "adapters", "cache", "workspace"))


def _operation(key: Key) -> str:
    name = key.operation.removeprefix("aten.").rpartition(".")[0] or key.operation
    return f"{key.phase}, {name.strip('_')}" + (f" in {key.place}" if key.place != "outside" else "")
