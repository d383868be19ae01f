"""The tensors of a merged model, each computed from base and adapter a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from studio.adapters import BaseWeights, Replaced, Updates
from studio.adapters.packing import STATE, Packing, aligned, pack, part_name
from studio.adapters.stored import dtype_of, name_of, not_finite, steps
from studio.errors import Damaged
from studio.merging.composing import Output
from studio.merging.shards import Stored

if TYPE_CHECKING:
    import torch


class Merge:
    """Base and adapter as one, tensor by tensor; remembers which of them changed."""

    def __init__(self, weights: BaseWeights, updates: Updates) -> None:
        self._weights, self._updates = weights, updates
        self.changed: set[str] = set()

    def contents(self, output: Output) -> Iterator[Stored]:
        """A tensor of the model as the files are to have it. Raises Damaged, naming it, where a number is none."""
        if output.packing is None:
            yield Stored(output.name, output.dtype, output.shape, self._pieces(output))
            return
        for part, tensor in self._packed(output, output.packing).items():
            yield Stored(part_name(output.name, part), name_of(tensor.dtype), tuple(tensor.shape), [tensor])

    def _packed(self, output: Output, packing: Packing) -> dict[str, torch.Tensor]:
        """A matrix that is quantized again, in parts; as it was where the adapter has nothing to do with it."""
        before = self._weights.parts(output.source)
        if output.part.empty:
            return aligned(before)
        matrix, _ = self._rows(replace(output, dtype="F32"), 0, output.shape[0])
        if not_finite(matrix):
            raise _broken(output, by_adapter=True)
        after = pack(matrix, packing)
        if not all(tensor.equal(before[part]) for part, tensor in after.items() if not part.startswith(STATE)):
            self.changed.add(output.name)
        return after

    def _pieces(self, output: Output) -> Iterator[torch.Tensor]:
        match = output.part.update
        at_once = match is not None and match.flipped and self._updates.is_dora(match)
        for first, count in [(0, output.shape[0])] if at_once else steps(output.shape):
            rows, before = self._rows(output, first, count if output.shape else None)
            if not_finite(rows):
                raise _broken(output, by_adapter=before is not None and not not_finite(before))
            if before is not None and output.name not in self.changed and not rows.equal(before):
                self.changed.add(output.name)
            yield rows

    def _rows(self, output: Output, first: int, count: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rows of a tensor as they will be, and as they would be without the adapter where it has to do with them."""
        dtype, part = dtype_of(output.dtype), output.part
        have = self._weights.tensors[output.source].shape
        if part.empty:
            return self._read(output, first, count).to(dtype), None
        known = count if count is None or output.flipped else max(0, min(count, have[0] - first))
        before = self._read(output, first, known)
        rows = self._whole(part.whole, first, count) if part.whole else before
        if part.update:
            rows = self._added(output, rows, first)
        if part.bias and (more := self._updates.bias(part.bias)) is not None:
            rows = more[first : first + len(rows)].add_(rows)
        rows = rows.to(dtype, copy=rows is before)
        if count is not None and len(rows) < count:
            rows = _lengthened(rows, count)
        if part.rows:
            self._put(output, rows, first)
        return rows, before.to(dtype)

    def _read(self, output: Output, first: int, count: int | None) -> torch.Tensor:
        return self._weights.read(output.source, first, count, flipped=output.flipped)

    def _whole(self, whole: Replaced, first: int, count: int | None) -> torch.Tensor:
        if count is None:
            return self._updates.tensor(whole.key)
        return self._updates.rows(whole.key, first, max(0, min(count, whole.shape[0] - first)))

    def _added(self, output: Output, rows: torch.Tensor, first: int) -> torch.Tensor:
        import torch

        match, piece = output.part.update, output.piece
        assert match is not None
        if piece.expert is None and match.experts > 1:  # all experts in one tensor, whose rows they are
            each = [self._updates.added(match, one, expert=first + number) for number, one in enumerate(rows)]
            return torch.stack(each)
        return self._updates.added(match, rows, piece.first + first, expert=piece.expert)

    def _put(self, output: Output, rows: torch.Tensor, first: int) -> None:
        """Put trained rows in the place of those of the base."""
        told = output.part.rows
        assert told is not None
        assert told.rows is not None
        here = [(row - first, index) for index, row in enumerate(told.rows) if first <= row < first + len(rows)]
        if here:
            trained = self._updates.tensor(told.key)
            rows[[row for row, _ in here]] = trained[[index for _, index in here]].to(rows.dtype)


def _lengthened(rows: torch.Tensor, count: int) -> torch.Tensor:
    """More rows than the base has: what is in them comes from the adapter."""
    longer = rows.new_full((count, *rows.shape[1:]), float("nan"))  # and would be found if it did not
    longer[: len(rows)] = rows
    return longer


def _broken(output: Output, *, by_adapter: bool) -> Damaged:
    if by_adapter:
        return Damaged(
            f"{output.name} would hold values that are not numbers once the adapter is in it.",
            f"Its training broke, or {output.dtype} does not reach so far: bf16 and fp32 do.",
        )
    return Damaged(
        f"{output.name} of the base holds values that are not numbers in {output.dtype}.",
        "Choose another base, or bf16, which reaches as far as fp32.",
    )
