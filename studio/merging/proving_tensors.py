"""A merged folder tensor by tensor, from its files: what changed, what should have, and whether each is as it must be.

How far a weight may be from what PEFT computes in fp32 follows from the dtype. Rounding to nearest moves a number by at
most u of itself: u is 2^-24 in fp32, 2^-11 in fp16, 2^-8 in bf16. A sound merge rounds the sum once; some round the
base or the update before they add. So a weight may be off by u of itself, and by what rounding its base and its update
to the dtype does, which is measured on the very numbers: 0 where they are representable. A hundredth more is allowed,
and beneath all is the arithmetic of fp32, taken for 2^-20. Every weight is held against that, not their mean: among
thousands some lie where rounding does its worst, and any other update moves these beyond it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, prod
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from studio.checkpoint import FLOATS, read_header
from studio.errors import Unsupported
from studio.events import Phase, Progress
from studio.loading.skeleton import held_dtypes, weights_dtype
from studio.merging.proof import Check, ProofQuestion
from studio.merging.proving_expected import Expectations, Expected
from studio.merging.proving_stored import Stored, empty_model
from studio.models import Precision
from studio.quality import GaveUp

if TYPE_CHECKING:
    from torch import Tensor

Say = Callable[[Progress], None]
_UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_SMALLEST = {"float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134}
"""Half of the smallest number above 0: what is closer to it becomes 0."""
_ARITHMETIC = 2.0**-20
_PIECE = 1 << 22
"""Numbers that are compared at a time, which takes 200 MB."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """What the files say."""

    checks: tuple[Check, ...]
    adapted: int
    """Tensors that the adapter reaches."""
    total: int
    numbers: bool
    """Whether all of them hold numbers, so that running the model says something."""
    vocabulary: int
    """Rows of the embedding."""
    weights: int
    """Parameters, tied ones once."""


@dataclass(slots=True)
class _Found:
    """What has been seen so far."""

    worst: tuple[float, str] = (0.0, "")
    """How many times what rounding explains, and where."""
    error: float = 0.0
    update: float = 0.0
    """Sums of squares: of how far all is from what it should be, and of what the adapter changes."""
    should: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    others: int = 0
    differ: list[str] = field(default_factory=list)
    infinite: list[str] = field(default_factory=list)


def check_tensors(question: ProofQuestion, say: Say, stop: Event) -> Tensors:
    """Hold the files of a merge against those of its base and its adapter. The headers must be whole.

    Takes the memory of the largest tensor a few times over. Raises Unsupported where no merge could be right: the
    adapter is not for this base, or what was merged is quantized.
    """
    base = Stored(question.base, empty_model(question.base))
    merged = Stored(question.merged, empty_model(question.merged, question.precision))
    if merged.quantized:
        raise Unsupported(
            "The merge is quantized, and only weights in 16 or 32 bit are proven.", "Measure its choices."
        )
    adapter = _numbers_of(question.adapter)
    expectations = Expectations(empty_model(question.base), question.adapter, base.read)
    names = _check_names(base, merged, expectations.names)
    checks = [adapter, names, _check_tying(merged), _check_dtypes(base, merged, question, expectations.names)]
    checks.append(_check_size(merged, question.precision))
    found = _Found()
    if names.state == "passed":
        _walk(base, merged, expectations, found, say, stop)
        checks += [_numbers(found), _adapted(found), _changed(found), _others(found)]
    else:
        why = "The names and shapes are not those of the model."
        checks += [Check(name, "not done", why) for name in ("numbers", "adapted weights", "changed", "other weights")]
    sound = adapter.state == "passed" and not found.infinite
    vocabulary = int(merged.model.get_input_embeddings().weight.shape[0])
    return Tensors(tuple(checks), len(expectations.names), len(merged.shapes), sound, vocabulary, _weights(merged))


def _walk(base: Stored, merged: Stored, expectations: Expectations, found: _Found, say: Say, stop: Event) -> None:
    names = sorted(merged.shapes.keys() & merged.names)
    done = 0

    def count() -> None:
        nonlocal done
        if stop.is_set():
            raise GaveUp
        say(Progress(Phase.CHECK, done, len(names)))
        done += 1

    for expected in expectations.each():
        count()
        _compare(expected, merged.read(expected.name), found)
    for name in names:
        if name not in expectations.names:
            count()
            found.others += 1
            stored = merged.read(name)
            _note_infinite(name, stored, found)
            if not _same(base.read(name), stored):
                found.differ.append(name)


def _compare(expected: Expected, stored: Tensor, found: _Found) -> None:
    """Hold one tensor of the merge against what it has to be."""
    _note_infinite(expected.name, stored, found)
    flat = [tensor.reshape(-1).split(_PIECE) for tensor in (expected.before, expected.after, stored)]
    pieces = [_Piece(*parts) for parts in zip(*flat, strict=True)]
    found.worst = max(found.worst, (max(piece.worst for piece in pieces), expected.name))
    found.error += sum(piece.error for piece in pieces)
    found.update += sum(piece.update for piece in pieces)
    if any(piece.should for piece in pieces):
        found.should.append(expected.name)
        if not any(piece.changed for piece in pieces):
            found.unchanged.append(expected.name)


class _Piece:
    """So much of a tensor as is looked at in one go, and the sums that become norms of all of it."""

    def __init__(self, before: Tensor, after: Tensor, stored: Tensor) -> None:
        import torch

        kind, dtype = str(stored.dtype).removeprefix("torch."), stored.dtype
        defined = ~after.isnan()
        if not defined.all():
            before, after, stored = before[defined], after[defined], stored[defined]
        before = torch.where(before.isnan(), after, before)  # a row that is new was nothing else before
        update, mine = after - before, stored.float()
        off, rounded = (mine - after).abs(), after.to(dtype).float()
        parts = [(part.to(dtype).float() - part).abs() for part in (before, update)]
        noise = _ARITHMETIC * (before.abs() + (update.abs().max() if len(update) else 0.0))
        within = 1.01 * (_UNIT[kind] * (after.abs() + sum(parts)) + sum(parts) + _SMALLEST[kind]) + noise
        times = torch.where(off == 0, 0.0, off / within).nan_to_num(inf)
        self.worst = float(times.max()) if len(off) else 0.0
        self.error = _squares(off)
        self.update = _squares(update)
        self.should = not torch.equal(rounded, before.to(dtype).float())
        self.changed = not torch.equal(mine, before.to(dtype).float())


def _squares(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _same(base: Tensor, stored: Tensor) -> bool:
    """Bit for bit, once the base is rounded to what the merge holds. Rows of added tokens are not looked at."""
    import torch

    base, stored = base.to(stored.dtype), stored[: base.shape[0]] if stored.ndim else stored
    raw = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (base, stored)]
    return bool(torch.equal(*raw))


def _note_infinite(name: str, stored: Tensor, found: _Found) -> None:
    if stored.is_floating_point() and not bool(stored.isfinite().all()):
        found.infinite.append(name)


def _numbers_of(adapter: Path) -> Check:
    from safetensors import safe_open

    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise Unsupported(
            f"There is no adapter_model.safetensors in {adapter.name}.", "Pickles are refused; convert it."
        )
    names = sorted(read_header(file).keys() - {"__metadata__"})
    with safe_open(file, "pt") as stored:
        broken = [name for name in names if not bool(stored.get_tensor(name).isfinite().all())]
    words = f"All {len(names)} tensors of the adapter hold numbers." if not broken else f"{_some(broken)}: NaN or Inf."
    return _check("adapter", not broken, words, len(broken), 0)


def _check_names(base: Stored, merged: Stored, adapted: frozenset[str]) -> Check:
    """Every parameter is there, in its shape, and the model is that of the base."""
    missing = sorted(merged.shapes.keys() - merged.names)
    other = sorted(merged.shapes.keys() ^ base.shapes.keys())
    strange = [key for key in merged.strangers if key not in base.strangers]
    lost = sorted(adapted - merged.shapes.keys())
    shapes = [name for name in sorted(merged.names - set(missing)) if merged.shape(name) != merged.shapes[name]]
    inner = [
        name
        for name in sorted(merged.shapes.keys() & base.shapes.keys())
        if merged.shapes[name][1:] != base.shapes[name][1:] or _rows(merged, name) < _rows(base, name)
    ]
    parts = [
        (missing, "missing"),
        (strange, "unknown to the model"),
        (shapes, "of another shape than the config says"),
        ([*other, *lost], "in one of base and merge only"),
        (inner, "of another shape than in the base"),
    ]
    wrong = [f"{_some(names)}: {why}" for names, why in parts if names]
    words = "; ".join(wrong) + "." if wrong else f"All {len(merged.shapes)} tensors are there, in their shapes."
    return _check("names and shapes", not wrong, words, sum(len(names) for names, _ in parts), 0)


def _rows(stored: Stored, name: str) -> int:
    return stored.shapes[name][0] if stored.shapes[name] else 0


def _check_tying(merged: Stored) -> Check:
    """Where the config ties two parameters, the files do not hold two that differ."""
    import torch

    apart = [
        name
        for name, twin in merged.tied.items()
        if merged.holds_itself(name) and merged.holds_itself(twin)
        if not torch.equal(merged.read(name).clone(), merged.read(twin))
    ]
    tied = f"{len(merged.tied)} tied" if merged.tied else "nothing is tied"
    words = (
        f"{_some(apart)} should be tied and is stored with other values." if apart else f"As the config says: {tied}."
    )
    return _check("tying", not apart, words, len(apart), 0)


def _check_dtypes(base: Stored, merged: Stored, question: ProofQuestion, adapted: frozenset[str]) -> Check:
    """All as promised, but for what the architecture wants in fp32, and what the base itself holds otherwise."""
    import torch

    codes = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    dtype = weights_dtype(question.precision)
    held = held_dtypes(merged.model, dtype)
    usual = Counter(entry.dtype for entry in base.entries.values() if entry.dtype in FLOATS).most_common(1)
    wrong = []
    for name in sorted(merged.names):
        allowed = {codes[dtype], codes[held.get(name, dtype)]}
        if name in base.names and name not in adapted and base.entry(name).dtype not in [code for code, _ in usual]:
            allowed.add(base.entry(name).dtype)
        if (stored := merged.entry(name).dtype) in FLOATS and stored not in allowed:
            wrong.append(f"{name} ({stored})")
    words = (
        f"Not in {question.precision}: {_some(wrong)}." if wrong else f"All are in {question.precision}, as promised."
    )
    return _check("dtype", not wrong, words, len(wrong), 0)


def _check_size(merged: Stored, precision: Precision) -> Check:
    """No more on the disk than the model takes in this format, and no less."""
    wanted = _weights(merged) * (precision.bits or 0) // 8
    found = sum(entry.bytes for entry in merged.entries.values())
    # A tied partner may be stored as well, some tensors be held in fp32, and buffers come along.
    most = wanted + sum(4 * prod(merged.shapes[name]) for name in merged.tied) + wanted // 20 + 65_536
    words = f"{found / 1e6:,.2f} MB of tensors, {wanted / 1e6:,.2f} MB are expected."
    return _check("size on disk", wanted <= found <= most, words, found, most)


def _weights(merged: Stored) -> int:
    return sum(prod(shape) for name, shape in merged.shapes.items() if name not in merged.tied)


def _numbers(found: _Found) -> Check:
    broken = found.infinite
    words = f"NaN or Inf in {_some(broken)}." if broken else "No NaN and no Inf."
    return _check("numbers", not broken, words, len(broken), 0)


def _adapted(found: _Found) -> Check:
    """Whether what the adapter reaches is what PEFT makes of it."""
    worst, name = found.worst
    lost = (found.error / found.update) ** 0.5 if found.update else 0.0
    tells = f"{lost:.2%} of the update is lost to rounding" if found.update else "the adapter changes nothing"
    if worst <= 1:
        words = f"All {len(found.should)} are within rounding of what PEFT computes in fp32; {tells}."
    else:
        words = f"{name} is {worst:,.1f} times as far from what PEFT computes in fp32 as rounding explains."
    return _check("adapted weights", worst <= 1, words, worst, 1.0)


def _changed(found: _Found) -> Check:
    should, did = len(found.should), len(found.should) - len(found.unchanged)
    words = f"{did} of {should} tensors changed that should have."
    words += f" As in the base is {_some(found.unchanged)}." if found.unchanged else ""
    return _check("changed", not found.unchanged, words, did, should)


def _others(found: _Found) -> Check:
    words = f"All {found.others} other tensors are those of the base, bit for bit."
    if found.differ:
        words = f"{len(found.differ)} of {found.others} tensors that no adapter reaches are not those of the base:"
        words += f" {_some(found.differ)}."
    return _check("other weights", not found.differ, words, len(found.differ), 0)


def _check(name: str, passed: bool, words: str, found: float, limit: float) -> Check:
    return Check(name, "passed" if passed else "failed", words, float(found), float(limit))


def _some(names: list[str]) -> str:
    """The first of them, and how many more."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
