"""Two runs of one cell, item by item: does the baseline give the same replies again?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from results.ledger import Ledger

ITEMS_FILE = "items.parquet"
TOLERANCE_NATS = 1e-6
"""Tables are written with six decimals: likelihoods this close are equal in all of them."""
COLUMNS = ["item_id", "user_id", "output", "ended", "nll"]


@dataclass(frozen=True, slots=True)
class Repetition:
    """What a second run of a cell gave beside the first.

    ``items``: answered in either run; ``users``: whose; ``changed``: items with another reply, or
    one in only one of the runs; ``largest_nats``: largest difference of a true reply's likelihood,
    in nats per token, over the items of both (NaN if there is none).
    """

    items: int
    users: int
    changed: int
    largest_nats: float

    @property
    def same(self) -> bool:
        """Whether both runs lead to the same tables; False where no item was answered."""
        return self.items > 0 and self.changed == 0 and self.largest_nats <= TOLERANCE_NATS


def compare_runs(ledger: Ledger, *, first: str, again: str) -> Repetition | None:
    """Compare the items of two cells; None where one of them has no record with items.

    Raises:
        RecordError: a record that cannot be read.
    """
    frames = []
    for cell_id in (first, again):
        record = ledger.load(cell_id)
        if record is None or ITEMS_FILE not in record.files:
            return None
        table = pq.read_table(ledger.path(cell_id, ITEMS_FILE), columns=COLUMNS)
        frames.append(table.to_pandas())
    return compare_items(*frames)


def compare_items(first: pd.DataFrame, again: pd.DataFrame) -> Repetition:
    """Compare two tables of items: ``item_id, user_id, output, ended, nll``, one row per item."""
    keys = ["item_id", "user_id"]
    both = first.merge(again, on=keys, how="outer", suffixes=("", "_again"), indicator=True)
    shared = both[both["_merge"] == "both"]
    equal = (shared["output"] == shared["output_again"]) & (
        shared["ended"] == shared["ended_again"]
    )
    apart = np.abs(shared["nll"].to_numpy(float) - shared["nll_again"].to_numpy(float))
    return Repetition(
        items=len(both),
        users=int(both["user_id"].nunique()),
        changed=len(both) - int(equal.sum()),
        largest_nats=float(apart.max()) if len(apart) else float("nan"),
    )
