"""A block that is run again because some of its adapters failed: what came out well stays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch

from tasks.adapters.bank import AdapterState
from tasks.cell import CellOutcome, SlotReport

ANSWERS = ("user_id", "control", "adapter_of", "exchanges", "variant", "epochs", "item_id")
"""Columns that tell one row of items from another; a purpose has some of them."""


def with_kept(
    outcome: CellOutcome,
    *,
    slots: Sequence[SlotReport],
    items: pd.DataFrame | None,
    adapters: AdapterState | None,
) -> CellOutcome:
    """The outcome of a block's second run, with the finished part of its first one unchanged.

    The whole block runs again, because the composition of passes is part of its identity; but
    numbers that were told once must not move, were it by the last bit on another machine.

    Args:
        outcome: of the second run.
        slots, items, adapters: of the first run; items only of what came out well.
    """
    before = {slot.slot: slot for slot in slots if slot.status == "ok"}
    return replace(
        outcome,
        slots=[before.get(slot.slot, slot) for slot in outcome.slots],
        items=_items(outcome.items, items),
        adapters=_adapters(outcome.adapters, adapters, keep=before),
        counts=outcome.counts | {"kept_adapters": len(before)},
    )


def _items(new: pd.DataFrame | None, old: pd.DataFrame | None) -> pd.DataFrame | None:
    """Rows of both, the old one where both have it, in the new one's order."""
    if new is None or old is None:
        return old if new is None else new
    keys = [name for name in ANSWERS if name in new]
    rows = pd.concat([new, old], ignore_index=True)
    order = rows.drop_duplicates(keys, keep="first")[keys]
    kept = rows.drop_duplicates(keys, keep="last")
    return order.merge(kept, on=keys, how="left", validate="one_to_one")[list(new.columns)]


def _adapters(
    new: AdapterState | None, old: AdapterState | None, *, keep: Collection[str]
) -> AdapterState | None:
    if new is None or old is None:
        return old if new is None else new
    return replace(new, tensors={name: _stacked(name, new, old, keep) for name in new.tensors})


def _stacked(
    name: str, new: AdapterState, old: AdapterState, keep: Collection[str]
) -> torch.Tensor:
    found = new.tensors[name].clone()
    places: Mapping[str, int] = {slot: place for place, slot in enumerate(old.slots)}
    for place, slot in enumerate(new.slots):
        if slot in keep:
            found[place] = old.tensors[name][places[slot]]
    return found
