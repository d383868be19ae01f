"""What an adapter adds to a parameter, computed from its A and B in fp32, a few rows at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studio.adapters.adapter import PREFIX, WEIGHTS, Adapter
from studio.adapters.fitting import Match
from studio.adapters.stored import Place, places, read_rows
from studio.errors import Damaged

if TYPE_CHECKING:
    import torch


class Updates:
    """The updates of an adapter. The A and the B of one module are in memory at a time, and nothing else."""

    def __init__(self, adapter: Adapter) -> None:
        self._places = places([Path(adapter.folder, WEIGHTS)])
        self._held: tuple[str, torch.Tensor, torch.Tensor] | None = None

    def delta(
        self, match: Match, first: int = 0, count: int | None = None, *, expert: int | None = None
    ) -> torch.Tensor:
        """Rows of the update of a parameter, scaled, in fp32 and as the parameter lies: of one expert, or of all.

        It is B times A, computed in that order as PEFT does, so that it has the same bits.
        """
        a, b = self.factors(match.module)
        if match.experts > 1 and expert is None:
            import torch

            return torch.stack([self.delta(match, first, count, expert=each) for each in range(match.experts)])
        if expert is not None:
            a = a.reshape(match.experts, -1, a.shape[1])[expert]
            b = b.reshape(b.shape[0], -1, match.experts)[:, :, expert]
        end = None if count is None else first + count
        if match.flipped:
            return (b @ a[:, first:end]).t().mul_(match.scaling)
        return (b[first:end] @ a).mul_(match.scaling)

    def added(self, match: Match, weight: torch.Tensor, first: int = 0, *, expert: int | None = None) -> torch.Tensor:
        """Rows of a parameter with the update, in fp32: what is left to do is rounding it once.

        With DoRA a flipped parameter has to be whole: its lengths go over all rows.
        """
        import torch

        updated = self.delta(match, first, len(weight), expert=expert).add_(weight)
        if (lengths := self._lengths(match.module)) is None:
            return updated
        if match.flipped:
            norm = torch.linalg.norm(updated.t(), dim=1)
            return (lengths / norm).view(1, -1) * updated
        norm = torch.linalg.norm(updated, dim=1)
        return (lengths[first : first + len(weight)] / norm).view(-1, 1) * updated

    def is_dora(self, match: Match) -> bool:
        """Whether the lengths of the rows are learnt as well."""
        return self._place(match.module, "lora_magnitude_vector") is not None

    def bias(self, match: Match) -> torch.Tensor | None:
        """What is added to the bias beside the weight, scaled, in fp32; None where nothing is."""
        place = self._place(match.module, "lora_B.bias")
        return None if place is None else read_rows(place).float().mul_(match.scaling)

    def tensor(self, key: str) -> torch.Tensor:
        """A tensor of the file that is no update, as it is stored."""
        return read_rows(self._places[key])

    def rows(self, key: str, first: int, count: int) -> torch.Tensor:
        """Rows of such a tensor."""
        return read_rows(self._places[key], first, count)

    def place(self, key: str) -> Place:
        """Where a tensor of the file lies."""
        return self._places[key]

    def factors(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The A and the B of a module, in fp32 and without the scaling."""
        if self._held is None or self._held[0] != module:
            self._held = None  # before the next ones are read
            found = []
            for letter in "AB":
                names = (f"lora_{letter}.weight", f"lora_embedding_{letter}")
                place = next((place for name in names if (place := self._place(module, name))), None)
                if place is None:
                    raise Damaged(f"The update of {module} has no {letter}.", "Choose another adapter.")
                found.append(read_rows(place).float())
            self._held = (module, found[0], found[1])
        return self._held[1], self._held[2]

    def _lengths(self, module: str) -> torch.Tensor | None:
        place = self._place(module, "lora_magnitude_vector")
        return None if place is None else read_rows(place).float().reshape(-1)

    def _place(self, module: str, own: str) -> Place | None:
        key = f"{PREFIX}{module}.{own}"
        return self._places.get(key) or self._places.get(f"{key}.weight")
