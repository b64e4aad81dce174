"""Scores per user from items read by column: arrays and codes, never an object per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from results.record import MetricInfo, Record, RecordError

SWAPPED = "_swapped"
SLICES = ("all", "routine_driven", "spontaneous", "first_turn", "later_turns")
"""Kinds of items: a session's origin (neither where it is unknown) and the place of the reply."""
OWNERS = ("user_id", "control", "routine_driven", "turn")
FIRST_TURN = 1
"""Turn (index among the session's messages) of the first reply."""
LENGTH_STD, LENGTH = "output_length_std", "output_words"
TABLE_COLUMNS = ["arm", "seed", "user_id", "metric", "split", "slice", "value", "n_items"]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]


@dataclass(slots=True)
class _Part:
    """Rows of one slice: users × metrics, and who they are by code."""

    keys: list[Codes] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)
    counts: list[Codes] = field(default_factory=list)


class ScoreTable:
    """Grows record by record; what text repeats (arms, users) is kept once and named by code."""

    def __init__(self, metrics: Sequence[str], *, sliced_metrics: Sequence[str]) -> None:
        self.metrics = {"all": list(metrics)} | {name: list(sliced_metrics) for name in SLICES[1:]}
        self._known: dict[str, dict[str, int]] = {"arm": {}, "split": {}, "user_id": {}}
        self._parts = {name: _Part() for name in SLICES}

    def add(self, record: Record, path: Path) -> dict[str, set[str]]:
        """Take one record's items; returns the users that have some, by control.

        Raises:
            RecordError: the file lacks a column that says whose an item is.
        """
        metrics = self.metrics["all"]
        items = read_items(path, [*metrics, LENGTH])
        users, places = _encoded(items["user_id"])
        controls, sides = _encoded(items["control"])
        arms = [record.arm + (SWAPPED if name == "swapped" else "") for name in controls]
        groups = sides * len(users) + places
        for name, rows in _slices(items).items():
            columns = [_column(items, metric)[rows] for metric in self.metrics[name]]
            if not columns or not rows.any():
                continue
            found, values, counts = group_means(np.column_stack(columns), groups[rows])
            if LENGTH_STD in self.metrics[name]:
                place = self.metrics[name].index(LENGTH_STD)
                values[:, place] = group_stds(columns[place], groups[rows])
            side, user = np.divmod(found, len(users))
            keys = np.empty((len(found), 4), np.int32)
            keys[:, 0] = self._codes("arm", arms)[side]
            keys[:, 1] = record.seed
            keys[:, 2] = self._codes("split", [record.split])
            keys[:, 3] = self._codes("user_id", users)[user]
            part = self._parts[name]
            part.keys.append(keys)
            part.values.append(values)
            part.counts.append(counts)
        present = np.unique(groups)
        return {
            control: {users[group % len(users)] for group in present[present // len(users) == k]}
            for k, control in enumerate(controls)
        }

    def _codes(self, column: str, texts: Sequence[str]) -> Codes:
        known = self._known[column]
        return np.array([known.setdefault(text, len(known)) for text in texts], dtype=np.int32)

    def frame(self) -> pd.DataFrame:
        """The tidy table, sorted by slice, arm, seed, split, user and metric.

        Raises:
            RecordError: two records score the same user of an arm and seed.
        """
        names = {column: sorted(known) for column, known in self._known.items()}
        longs = [self._long(name, names) for name in SLICES if self._parts[name].keys]
        if not longs:
            return pd.DataFrame(columns=TABLE_COLUMNS)
        # Popped, so that no column is in memory twice for long.
        columns: dict[str, Any] = {
            name: np.concatenate([long.pop(name) for long in longs]) for name in list(longs[0])
        }
        names |= {"slice": list(SLICES), "metric": self.metrics["all"]}
        for name, texts in names.items():
            columns[name] = pd.Categorical.from_codes(columns[name], categories=pd.Index(texts))
        return pd.DataFrame({name: columns[name] for name in TABLE_COLUMNS}, copy=False)

    def _long(self, name: str, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """One slice's columns, long, codes in the names' order; the part is emptied."""
        part = self._parts[name]
        keys = self._ranked(np.concatenate(part.keys), names)
        order = np.lexsort(keys.T[::-1])
        keys = keys[order]
        _refuse_twice(keys, names)
        values, counts = np.concatenate(part.values)[order], np.concatenate(part.counts)[order]
        self._parts[name] = _Part()
        there = np.flatnonzero(counts)
        row, metric = np.divmod(there, counts.shape[1])
        place = np.array([self.metrics["all"].index(m) for m in self.metrics[name]], np.int16)
        return {
            "arm": keys[row, 0].astype(np.int16),
            "seed": keys[row, 1],
            "split": keys[row, 2].astype(np.int8),
            "user_id": keys[row, 3],
            "slice": np.full(len(there), SLICES.index(name), np.int8),
            "metric": place[metric],
            "value": values.ravel()[there],
            "n_items": counts.ravel()[there],
        }

    def _ranked(self, keys: Codes, names: Mapping[str, Sequence[str]]) -> Codes:
        for place, column in ((0, "arm"), (2, "split"), (3, "user_id")):
            known = self._known[column]
            rank = np.empty(len(known), np.int32)
            rank[[known[text] for text in names[column]]] = np.arange(len(known))
            keys[:, place] = rank[keys[:, place]]
        return keys


def _refuse_twice(keys: Codes, names: Mapping[str, Sequence[str]]) -> None:
    same = np.flatnonzero((keys[1:] == keys[:-1]).all(axis=1))
    if len(same):
        arm, seed, split, user = keys[same[0]]
        raise RecordError(
            f"two cells score user {names['user_id'][user]!r} of arm {names['arm'][arm]!r}, seed "
            f"{seed}, on {names['split'][split]}: one is needed; was the plan made twice?"
        )


def read_items(path: Path, names: Sequence[str]) -> pa.Table:
    """The columns of ``names`` that the file has, and those that say whose an item is.

    Raises:
        RecordError: one of the latter is not there.
    """
    file = pq.ParquetFile(path, memory_map=True)
    there = file.schema_arrow.names
    if lost := [name for name in OWNERS if name not in there]:
        raise RecordError(f"{path} has no column {lost[0]}; it has {', '.join(there)}")
    wanted = {*OWNERS, *names}
    names = [name for name in there if name in wanted]
    # Files are small: threads would cost more than they save.
    return file.read(columns=names, use_threads=False)


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], Codes]:
    """Distinct texts in order of appearance, and each row's place among them."""
    coded = column.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False).astype("i4")


def _slices(items: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
    """Which items belong to each slice, in the order of ``SLICES``: ``[n]`` each."""
    driven = _tristate(items["routine_driven"])
    first = np.asarray(items["turn"].to_numpy()) == FIRST_TURN
    chosen = (np.ones(len(first), np.bool_), driven == 1, driven == 0, first, ~first)
    return dict(zip(SLICES, chosen, strict=True))


def _tristate(column: pa.ChunkedArray) -> npt.NDArray[np.int8]:
    """1 yes, 0 no, -1 not known."""
    filled = column.cast(pa.int8()).fill_null(-1)
    return np.asarray(filled.to_numpy(), dtype=np.int8)


def _column(items: pa.Table, metric: str) -> Floats:
    """A metric's numbers per item (its words for the length's spread); NaN where there are none."""
    name = LENGTH if metric == LENGTH_STD else metric
    if name not in items.column_names:
        return np.full(items.num_rows, np.nan)
    return np.asarray(items[name].to_numpy(), dtype=np.float64)


def group_means(values: Floats, groups: Codes) -> tuple[Codes, Floats, Codes]:
    """Means per group and column; NaN is left out and not counted.

    Args:
        values: ``[n, m]``, n > 0.
        groups: ``[n]``.

    Returns:
        Groups that occur, ascending ``[g]``, means ``[g, m]`` (NaN where nothing counts), and how
        many values each comes from ``[g, m]``.
    """
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    scored = ~np.isnan(values[order])
    sums = np.add.reduceat(np.where(scored, values[order], 0.0), starts, axis=0)
    counts = np.add.reduceat(scored, starts, axis=0, dtype=np.int32)
    with np.errstate(invalid="ignore"):
        return ordered[starts], sums / counts, counts


def group_stds(values: Floats, groups: Codes) -> Floats:
    """Population standard deviation (ddof 0) of each group that occurs: ``[n]`` → ``[g]``."""
    found, means, _ = group_means(values[:, None], groups)
    centered = values - means[np.searchsorted(found, groups), 0]
    return np.asarray(np.sqrt(group_means(centered[:, None] ** 2, groups)[1][:, 0]))


def metrics_of(records: Sequence[Record]) -> dict[str, MetricInfo]:
    """All metrics of the records, in the order of their catalog.

    Raises:
        RecordError: two records read a metric in opposite directions.
    """
    found: dict[str, MetricInfo] = {}
    for record in records:
        for name, info in record.metrics.items():
            if found.setdefault(name, info).higher_is_better != info.higher_is_better:
                raise RecordError(
                    f"records disagree whether a higher {name} is better: they come from "
                    "different versions of this program; run the study in a new workspace"
                )
    return found
