"""Which row of a pass belongs to which slot of a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of a pass, grouped by slot without copying an adapter.

    Adapter weights are stacked per slot, ``[active, …]``, while rows come in any number per
    slot. Activations are small next to adapters, so it is the rows that move: they are laid
    into a padded ``[active, per_slot]`` grid, multiplied there and taken back. Where every
    slot has equally many rows in slot order (one example a step, one shared adapter), the
    grid is a mere view.

    Attributes:
        active: slots that have rows, ascending.
        per_slot: rows of the fullest slot.
        row_slots: slot of each row, ``[rows]``.
        row_active: index into ``active`` of each row, ``[rows]``.
        places: index of each row in the flattened grid; None where the grid is a view.
    """

    active: tuple[int, ...]
    per_slot: int
    row_slots: tuple[int, ...]
    row_active: torch.Tensor
    places: torch.Tensor | None

    @classmethod
    def of(cls, row_slots: Sequence[int], *, device: torch.device | str = "cpu") -> Layout:
        """Group rows by their slots; the rows keep their order."""
        active = tuple(sorted(set(row_slots)))
        index = {slot: place for place, slot in enumerate(active)}
        seen = [0] * len(active)
        ranks = []
        for slot in row_slots:
            ranks.append(seen[index[slot]])
            seen[index[slot]] += 1
        per_slot = max(seen, default=0)
        places = [index[slot] * per_slot + k for slot, k in zip(row_slots, ranks, strict=True)]
        is_view = places == list(range(len(active) * per_slot))
        return cls(
            active=active,
            per_slot=per_slot,
            row_slots=tuple(row_slots),
            row_active=torch.tensor([index[slot] for slot in row_slots], device=device),
            places=None if is_view else torch.tensor(places, device=device),
        )

    def to_grid(self, rows: torch.Tensor) -> torch.Tensor:
        """``[rows, tokens, width]`` → ``[active, per_slot · tokens, width]``.

        Gaps are zero where gradients are taken (they are summed over), else anything.
        """
        _, tokens, width = rows.shape
        if self.places is not None:
            shape = (len(self.active) * self.per_slot, tokens, width)
            if torch.is_grad_enabled():
                rows = rows.new_zeros(shape).index_copy(0, self.places, rows)
            else:
                rows = rows.new_empty(shape).index_copy_(0, self.places, rows)
        return rows.reshape(len(self.active), self.per_slot * tokens, width)

    def from_grid(self, grid: torch.Tensor, *, tokens: int) -> torch.Tensor:
        """The inverse of ``to_grid``: ``[active, per_slot · tokens, width]`` → rows."""
        rows = grid.reshape(len(self.active) * self.per_slot, tokens, grid.shape[-1])
        return rows if self.places is None else rows.index_select(0, self.places)

    def select(self, stacked: torch.Tensor) -> torch.Tensor:
        """``[slots, …]`` → ``[active, …]``, without a copy where the active slots are a run."""
        first, last = self.active[0], self.active[-1]
        if last - first + 1 == len(self.active):
            return stacked if len(self.active) == stacked.shape[0] else stacked[first : last + 1]
        index = torch.tensor(self.active, device=stacked.device)
        return stacked.index_select(0, index)
