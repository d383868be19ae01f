"""What every tensor of a merged model is made of, decided before a byte is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from studio.adapters import Adapter, BaseWeights, Fit, Layout, Match, Piece, Replaced, Updates
from studio.adapters.packing import Packing
from studio.adapters.stored import dtype_of, is_float, name_of
from studio.errors import Damaged, Unsupported
from studio.merging.plan import AS_BASE


@dataclass(frozen=True, slots=True)
class Part:
    """What an adapter does to one parameter."""

    update: Match | None = None
    bias: Match | None = None
    """The module whose own update has one for this bias."""
    whole: Replaced | None = None
    rows: Replaced | None = None

    @property
    def empty(self) -> bool:
        """Whether it does nothing."""
        return self == Part()


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As the format spells it."""
    source: str
    """The tensor of the base that it begins with."""
    piece: Piece
    part: Part = Part()
    flipped: bool = False
    """Whether the base has it quantized, and the other way round."""
    packing: Packing | None = None
    """How it is to be quantized again; None where it is not."""

    @property
    def bytes(self) -> int:
        """Once written."""
        if self.packing:
            return self.packing.bytes(self.shape)
        return prod(self.shape) * int(dtype_of(self.dtype).itemsize)


@dataclass(frozen=True, slots=True)
class Composition:
    """All tensors of the merged model, and what its config has to say of them."""

    outputs: tuple[Output, ...]
    vocabulary: int
    enlarged: bool
    """Whether the vocabulary is another one than that of the base."""
    untied: bool


def compose(
    adapter: Adapter, fit: Fit, layout: Layout, weights: BaseWeights, updates: Updates, dtype: str
) -> Composition:
    """Decide what goes where. Raises Unsupported or Damaged where the result would not be base and adapter."""
    parts = _parts(adapter, fit, layout)
    tied = dict(layout.tied)
    untied = False
    for twin, source in layout.tied.items():
        if _stay_one(adapter, parts.get(twin, Part()), parts.get(source, Part()), updates, f"{twin} and {source}"):
            parts[twin] = parts.get(source, Part())
        else:
            untied = True
            del tied[twin]
    outputs = list(_outputs(layout, weights, parts, dtype))
    if untied:
        outputs += list(_split(layout, weights, parts, {output.name for output in outputs}, dtype))
    enlarged = [_enlarged(output, fit.vocabulary, layout) for output in outputs]
    before = layout.parameters[layout.embedding].shape[0]
    return Composition(tuple(enlarged), fit.vocabulary, fit.vocabulary != before, untied)


def _parts(adapter: Adapter, fit: Fit, layout: Layout) -> dict[str, Part]:
    """Parameter → what the adapter does to it. Raises Unsupported for an update of a bias that is not there."""
    parts: dict[str, Part] = {}
    biased = {module.path for module in adapter.modules if module.bias}
    for match in fit.matches:
        parts[match.parameter] = replace(parts.get(match.parameter, Part()), update=match)
        if match.module in biased:
            bias = match.parameter.removesuffix("weight") + "bias"
            if bias not in layout.parameters:
                raise Unsupported(
                    f"The adapter has an update for the bias of {match.module}, which has none in the base.",
                    "Use the adapter on top of its base, or train one without lora_bias.",
                )
            parts[bias] = replace(parts.get(bias, Part()), bias=match)
    for each in fit.replaced:
        part = parts.get(each.parameter, Part())
        parts[each.parameter] = replace(part, whole=each) if each.rows is None else replace(part, rows=each)
    return parts


def _stay_one(adapter: Adapter, twin: Part, source: Part, updates: Updates, names: str) -> bool:
    """Whether two parameters that share their weight go on sharing it once the adapter is in."""
    if adapter.ties and (twin.update or source.update):
        raise Unsupported(
            f"{names} share one weight, have an update, and are to stay one: PEFT does not read that back right.",
            "Train the adapter without embedding and head, or name them among the modules that are saved whole.",
        )
    if twin.empty:
        return source.update is None and (source.whole is None or adapter.ties)
    if twin.rows and not source.rows:
        raise Unsupported(
            f"{names} share one weight, and rows of only the first were trained.",
            "Train rows of the embedding: the head follows.",
        )
    if twin.update or source.update:
        return False
    return _same(twin.whole, source.whole, updates) and _same(twin.rows, source.rows, updates)


def _same(one: Replaced | None, other: Replaced | None, updates: Updates) -> bool:
    """Whether two tensors of the adapter are the same to the last bit."""
    if one is None or other is None:
        return one is other
    return one.rows == other.rows and updates.tensor(one.key).equal(updates.tensor(other.key))


def _outputs(layout: Layout, weights: BaseWeights, parts: dict[str, Part], dtype: str) -> Iterator[Output]:
    """Every tensor of the base under its name."""
    owners = {piece.tensor: (name, piece) for name, pieces in layout.pieces.items() for piece in pieces}
    for tensor, stored in weights.tensors.items():
        if tensor not in owners:
            target = layout.parameters.get(layout.rename(tensor))
            held = _held(stored.dtype, name_of(target.dtype) if target else stored.dtype, dtype)
            yield Output(tensor, stored.shape, held, tensor, Piece(tensor))
            continue
        name, piece = owners[tensor]
        parameter = layout.parameters.get(name)
        flipped = bool(parameter and parameter.flipped and stored.parts)
        shape = stored.shape[::-1] if flipped else stored.shape
        wanted = name_of(parameter.dtype) if parameter else stored.dtype
        yield Output(tensor, shape, _held(stored.dtype, wanted, dtype), tensor, piece, parts.get(name, Part()), flipped)


def _held(stored: str, wanted: str, dtype: str) -> str:
    return stored if dtype == AS_BASE or not is_float(stored) else wanted


def _split(
    layout: Layout, weights: BaseWeights, parts: dict[str, Part], there: set[str], dtype: str
) -> Iterator[Output]:
    """The tensors that the checkpoint left out because another one said the same."""
    for twin, source in layout.tied.items():
        for name, other in ((twin, source), (source, twin)):
            if name in layout.pieces:
                continue
            pieces = layout.pieces[other]
            if len(pieces) > 1 or layout.rename(name) != name or name in there:
                raise Unsupported(
                    f"{name} and {other} share one weight, and the first has no name of its own here.",
                    "Train the adapter without embedding and head.",
                )
            stored = weights.tensors[pieces[0].tensor]
            held = _held(stored.dtype, name_of(layout.parameters[name].dtype), dtype)
            yield Output(name, stored.shape, held, pieces[0].tensor, Piece(name), parts.get(name, Part()))


def _enlarged(output: Output, vocabulary: int, layout: Layout) -> Output:
    """A table with as many rows as the vocabulary will have. Raises Damaged where some would be made up."""
    before = layout.parameters[layout.embedding].shape[0]
    tables = {layout.embedding, layout.head} - {""}
    tables |= {name.removesuffix("weight") + "bias" for name in tables}
    if vocabulary == before or layout.rename(output.name) not in tables:
        return output
    whole, rows = output.part.whole, output.part.rows
    have = whole.shape[0] if whole else before
    if have < vocabulary:
        brought = set(rows.rows or ()) if rows else set()
        if absent := [row for row in range(have, vocabulary) if row not in brought]:
            raise Damaged(
                f"The vocabulary is to have {vocabulary:,} entries, and nothing says what row {absent[0]:,} of"
                f" {output.name} is.",
                "Save the adapter together with embedding and head, which PEFT calls save_embedding_layers.",
            )
    elif have > vocabulary:
        raise Damaged(f"{output.name} has {have:,} rows, and the vocabulary {vocabulary:,}.", "Choose another adapter.")
    return replace(output, shape=(vocabulary, *output.shape[1:]))
