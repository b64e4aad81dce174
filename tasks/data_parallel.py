"""Data parallel training: each process takes its part of a step, gradients are summed.

A step's examples are fixed before they are dealt, so no example is repeated or left out, and the
sum of gradients is the one that a single process finds but for the order of additions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's number among those that train together; alone without a process group."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """As the process group says, if there is one."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def share(self, ordered: Sequence[T]) -> list[T]:
        """Every ``world``-th, from this rank on: of rows in order of length, like lengths."""
        return list(ordered[self.rank :: self.world])

    def add_up(self, *tensors: torch.Tensor) -> None:
        """Replace each tensor by its sum over all ranks."""
        if self.world > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def agreed(self, scores: Mapping[str, T]) -> Mapping[str, T]:
        """The first rank's scores: all ranks must stop at the same epoch."""
        if self.world == 1:
            return scores
        told: list[Mapping[str, T]] = [scores]
        distributed.broadcast_object_list(told, src=0)
        return told[0]
