"""Keys and values of a pool of rows whose places are filled again as replies end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

CAPACITY_STEP_TOKENS = 64

LayerPair = tuple[torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values per layer, ``[rows, kv_heads, capacity, head_dim]``.

    Index on the capacity axis = absolute position: a row's prefix, then its prompt, then its
    reply. ``lengths`` is how much of each row is filled, ``[rows]``; what lies behind is never
    seen. Rows keep their places, so that a new row costs a copy of its own prompt alone.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    lengths: torch.Tensor

    @classmethod
    def empty(cls, rows: int, like: Sequence[LayerPair]) -> KeyValueCache:
        """No rows filled yet; heads, sizes and precision as in ``like``, one pair per layer."""

        def table(one: torch.Tensor) -> torch.Tensor:
            return one.new_zeros(rows, one.shape[1], 0, one.shape[3])

        lengths = torch.zeros(rows, dtype=torch.long, device=like[0][0].device)
        return cls([table(key) for key, _ in like], [table(value) for _, value in like], lengths)

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write one token per row, ``[rows, kv_heads, 1, head_dim]``, behind the filled part."""
        rows = torch.arange(key.shape[0], device=key.device)
        self.keys[layer][rows, :, self.lengths] = key[:, :, 0]
        self.values[layer][rows, :, self.lengths] = value[:, :, 0]

    def reserve(self, tokens: int) -> None:
        """Make room for ``tokens`` on the capacity axis; it never shrinks."""
        short = tokens - self.keys[0].shape[2]
        if short > 0:
            more = -(-short // CAPACITY_STEP_TOKENS) * CAPACITY_STEP_TOKENS
            self.keys = [pad(key, (0, 0, 0, more)) for key in self.keys]
            self.values = [pad(value, (0, 0, 0, more)) for value in self.values]

    def fill(
        self,
        places: Sequence[int],
        pairs: Sequence[LayerPair],
        *,
        sources: Sequence[int],
        lengths: Sequence[int],
    ) -> None:
        """Start rows anew: place ``places[i]`` gets the first ``lengths[i]`` of row ``sources[i]``.

        Args:
            places: rows of the cache.
            pairs: keys and values of a prefill, ``[prefilled, kv_heads, tokens, head_dim]``.
            sources: rows of the prefill; several places may take the same.
            lengths: tokens of each new row.
        """
        width = max(lengths)
        self.reserve(width)
        device = self.lengths.device
        to, source = torch.tensor(places, device=device), torch.tensor(sources, device=device)
        for tables, index in ((self.keys, 0), (self.values, 1)):
            for table, pair in zip(tables, pairs, strict=True):
                new = pair[index][:, :, :width].index_select(0, source)
                table[:, :, :width].index_copy_(0, to, new)
        self.lengths[to] = torch.tensor(lengths, device=device)

    def vacate(self, places: Sequence[int]) -> None:
        """Rows of which nothing is left to say."""
        self.lengths[list(places)] = 0

    def keep(self, places: Sequence[int]) -> None:
        """Drop all rows but these, and the room that they do not need."""
        index = torch.tensor(places, device=self.lengths.device)
        self.lengths = self.lengths.index_select(0, index)
        width = int(self.lengths.max())
        self.keys = [key[:, :, :width].index_select(0, index) for key in self.keys]
        self.values = [value[:, :, :width].index_select(0, index) for value in self.values]
