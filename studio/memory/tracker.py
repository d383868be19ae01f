"""Follows every storage that PyTorch makes while it runs, real or fake, and knows what memory held at any moment."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.memory.allocator import Block, CachingAllocator

if TYPE_CHECKING:
    import torch

OUTSIDE = "outside"
"""Where an operation is that belongs to no layer: the embedding, the head, the optimizer."""


class Key(NamedTuple):
    """Where in the work a moment is, in words that a deeper model of the same kind has as well."""

    step: int
    phase: str
    operation: str
    place: str


@dataclass(slots=True)
class _Life:
    """A storage from its first moment to its last."""

    size: int
    born: int
    phase: tuple[int, str]
    part: str = ""
    died: int | None = None
    left: tuple[int, str] | None = None
    """The phase in which it died."""


class Tracker:
    """What is in memory while a model works, by part and by moment; `watching` makes it see what PyTorch does.

    `layers` is how many layers the model has; of them, `first` are told apart by their number from the start, and
    `last` by their number from the end.
    """

    def __init__(self, layers: int, first: int, last: int) -> None:
        self.allocator = CachingAllocator()
        self.assumed = 0
        """How often a value was read that a fake tensor does not have."""
        self.left: dict[str, int] = {}
        """Bytes by part when the work was done; `done` sets it."""
        self.fullest: dict[Key, tuple[int, int]] = {}
        """Key → most bytes that were ever allocated at it, and when."""
        self._lives: list[_Life] = []
        self._alive: dict[int, tuple[Any, int, Block]] = {}
        self._clock = 0
        self._phase = (0, "start")
        self._operation = "start"
        self._layers, self._first, self._last = layers, first, last
        self._layer: int | None = None
        self._starts: list[int] = []
        self._entered: list[int | None] = []
        self._head_from: int | None = None

    # What the work says

    def phase(self, step: int, name: str) -> None:
        """The work goes on with something else."""
        self._phase = (step, name)
        if name == "forward":
            self._starts, self._entered, self._head_from = [], [], None
        self._layer = None

    def layer(self, number: int | None) -> None:
        """The work enters a layer, or leaves the one it was in."""
        import torch

        self._layer = number
        # Autograd numbers what it records in order; backward, the number says which layer an operation belongs to.
        self._starts.append(torch.autograd._get_sequence_nr())
        self._entered.append(number)

    def phase_of_loss(self) -> None:
        """What is recorded from here on is the loss."""
        import torch

        self._head_from = torch.autograd._get_sequence_nr()
        self._phase, self._layer = (self._phase[0], "loss"), None

    def hold(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """These tensors, and what they share memory with, are this part, whenever they were made."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if not storage.nbytes():
                continue
            self._see(storage)
            self._lives[self._alive[storage._cdata][1]].part = part

    def reserve(self, count: int, part: str) -> None:
        """Something that takes memory from now on and is no tensor."""
        self._begin(count, part)

    def passing(self, sizes: Iterable[int]) -> None:
        """What a kernel takes for itself and gives back before it returns."""
        taken = [(self._begin(size, ""), size) for size in sizes if size > 0]
        self._note()
        for (life, block), _ in taken:
            self._end(life, block)

    def done(self) -> None:
        """The work is done, and all of it is still there."""
        self.left = self.parts()

    def assume(self, *, number: bool) -> float | bool:
        """What a value is taken for that a fake tensor does not have: a scale is 1, and a decision is yes.

        But nothing unusual is there, which is what `any` is asked for: an infinity in what was computed.
        """
        self.assumed += 1
        return 1.0 if number else not self._operation.startswith("aten.any")

    # What PyTorch does

    def ran(self, operation: Any, out: Any) -> None:
        """An operation returned `out`."""
        import torch
        from torch.utils._pytree import tree_leaves

        self._operation = str(operation)
        before = self._clock
        for tensor in [out] if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.nbytes():
                    self._see(storage)
        if self._clock != before:
            self._note()

    def _see(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._alive:
            return
        life, block = self._begin(storage.nbytes(), "")

        def gone(_: Any) -> None:
            del self._alive[address]
            self._end(life, block)

        self._alive[address] = (weakref.ref(storage, gone), life, block)

    def _begin(self, size: int, part: str) -> tuple[int, Block]:
        self._clock += 1
        block = self.allocator.take(size)
        if not part and self._phase[1] == "backward" and self._in_loss():
            part = "logits and loss"
        self._lives.append(_Life(block.asked, self._clock, self._phase, part))
        return len(self._lives) - 1, block

    def _end(self, life: int, block: Block) -> None:
        self._clock += 1
        self.allocator.give_back(block)
        self._lives[life].died, self._lives[life].left = self._clock, self._phase

    def _note(self) -> None:
        now = self.allocator.allocated
        step, phase = self._phase
        if phase == "backward" and self._in_loss():
            phase = "loss"
        for place in self._places():
            key = Key(step, phase, self._operation, place)
            if now > self.fullest.get(key, (0, 0))[0]:
                self.fullest[key] = (now, self._clock)

    # Where that is

    def _node(self) -> int | None:
        """The number of what autograd is working off; None where it is at nothing that it recorded."""
        import torch

        node = torch._C._current_autograd_node()
        number = node._sequence_nr() if node is not None else None
        return None if number is None or number >= 1 << 63 else number  # a gradient's last step has no number

    def _in_loss(self) -> bool:
        number = self._node()
        if self._head_from is None or number is None or number < self._head_from:
            return False
        # What a layer records while it computes once more comes later still, and is no loss.
        return self._starts[bisect_right(self._starts, number) - 1] <= self._head_from if self._starts else True

    def _places(self) -> list[str]:
        layer = self._layer
        if self._phase[1] == "backward" and (number := self._node()) is not None:
            at = bisect_right(self._starts, number) - 1
            layer = self._entered[at] if at >= 0 else None
        if layer is None:
            return [OUTSIDE]
        found = [f"layer {layer}"] if layer < self._first else []
        if layer >= self._layers - self._last:
            found.append(f"layer {layer - self._layers}")
        return found

    # What it was

    def parts(self, moment: int | None = None) -> dict[str, int]:
        """Bytes by part at a moment, or now."""
        moment = self._clock if moment is None else moment
        found: dict[str, int] = {}
        for life in self._lives:
            if life.born <= moment and (life.died is None or life.died > moment):
                part = life.part or _part(life)
                found[part] = found.get(part, 0) + life.size
        return found


def _part(life: _Life) -> str:
    """What a storage is that nobody named: kept for the backward pass, or of use for a moment only."""
    phase = life.phase[1]
    if phase == "loss":
        return "logits and loss"
    kept = life.left != life.phase
    return "activations" if phase == "forward" and kept else "temporaries"


Internals = Callable[[Any, tuple[Any, ...]], Iterable[int]]
Perform = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def _perform(operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return operation(*arguments, **options)


@contextmanager
def watching(tracker: Tracker, internals: Internals, perform: Perform = _perform) -> Iterator[None]:
    """Within it, the tracker sees what PyTorch does.

    `internals(operation, arguments)` are the bytes that its kernel on a GPU takes beside what it returns;
    `perform` carries it out. Where a fake tensor is read as a number, the tracker assumes one.
    """
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException
    from torch.utils._python_dispatch import TorchDispatchMode

    read = torch.ops.aten._local_scalar_dense.default

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        """Sees every operation below autograd."""

        def __torch_dispatch__(
            self, operation: Any, _types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
        ) -> Any:
            try:
                out = perform(operation, arguments, options or {})
            except DataDependentOutputException:
                if operation is not read or arguments[0].dtype not in (torch.bool, torch.float32):
                    raise
                return tracker.assume(number=arguments[0].is_floating_point())
            if operation.namespace != "prim":
                tracker.ran(operation, out)
                tracker.passing(internals(operation, arguments))
            return out

    with Watch():
        yield
