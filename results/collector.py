"""From records to one tidy table, and an explicit list of what is missing and why.

A user's value of an item-level metric is the mean over the user's items; items with nothing to
score (NaN) are left out and counted in ``n_items``. ``output_length_std`` is made here from the
outputs' word counts. A swapped control appears as an arm of its own, ``<arm>_swapped``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from results.cold_warm import PURPOSE as FROM_FEW
from results.cold_warm import few_scores, joined
from results.ledger import Ledger
from results.record import ARM_PURPOSES, GATE_SPLIT, MetricInfo, Record, RecordError, SlotRecord
from results.score_table import SWAPPED, ScoreTable, metrics_of
from results.updates import PURPOSE as TRACE
from results.updates import Traced, traced_scores
from results.updates import joined as joined_traces

ITEMS_FILE = "items.parquet"
EVERY_SLICE_SCORES = 20_000_000
"""Up to so many scores all metrics are sliced, past it only ``SLICED_METRIC``."""
SLICED_METRIC = "rouge_l"
EVERYBODY = "all"
"""Stands for the users of a shared adapter."""
WHOLE_STUDY = ("train", "adopt", "identify")
"""Purposes of cells that are about all users at once."""
MISSING_COLUMNS = ["arm", "seed", "user_id", "reason"]
SLOT_COLUMNS = [
    *("arm", "seed", "user_id", "status", "reason", "steps", "examples", "trained_tokens"),
    *("shift_norm", "shift_norms", "losses"),
]
CURVE_COLUMNS = ["arm", "seed", "epoch", "step", "train_loss", "val_rouge_l"]
SAME_FOR_ALL = ("items_sha256", "data_sha256", "decoding", "evaluation", "prompt", "model_sha256")


@dataclass(frozen=True, slots=True)
class ExpectedCell:
    """A cell of the study's plan: its record is looked for, its absence reported."""

    cell_id: str
    arm: str
    seed: int
    users: tuple[str, ...]
    split: str
    purpose: str


@dataclass(frozen=True, slots=True)
class Collected:
    """All results of a study.

    Attributes:
        table: scores: arm, seed, user_id, metric, split, slice, value, n_items; text columns are
            categorical; sorted.
        slots: trained adapters: arm, seed, user_id (or ``all``), status, reason, steps, examples,
            trained_tokens, shift_norm, shift_norms, losses.
        curves: arm, seed, epoch, step, train_loss, val_rouge_l.
        missing: arm, seed, user_id, reason.
        metrics: direction, unit and title of each metric.
        records: the records behind all this, by cell id, without what is in ``slots`` and
            ``curves``.
        ledger: where they and their items are.
        few: scores after few exchanges, of users cold and warm: ``cold_warm.SCORE_COLUMNS``.
        traced: validation likelihoods along the micro-updates, and who has none; those are not in
            ``missing``, which is about the arms.
    """

    table: pd.DataFrame
    slots: pd.DataFrame
    curves: pd.DataFrame
    missing: pd.DataFrame
    metrics: Mapping[str, MetricInfo]
    records: Mapping[str, Record]
    ledger: Ledger
    few: pd.DataFrame
    traced: Traced

    def items(
        self,
        arm: str,
        *,
        seed: int,
        split: str = "test",
        columns: Sequence[str] | None = None,
        item_ids: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Items of one arm (``…_swapped`` for a control): one row per item, read by column.

        Args:
            arm: the arm or control.
            seed: one of its seeds.
            split: ``test`` or ``val``.
            columns: only these, where they are there; None: all.
            item_ids: only these items; the others are dropped file by file.
        """
        plain = arm.removesuffix(SWAPPED)
        control = "swapped" if arm.endswith(SWAPPED) else "own"
        wanted = None if columns is None else list(dict.fromkeys([*columns, "control"]))
        keep = ds.field("control") == control
        if item_ids is not None:
            keep &= ds.field("item_id").isin(list(item_ids))
        tables = [
            pq.read_table(
                self.ledger.path(record.cell_id, ITEMS_FILE), columns=wanted, filters=keep
            )
            for record in self.records.values()
            if (record.arm, record.seed, record.split) == (plain, seed, split)
            and ITEMS_FILE in record.files
        ]
        if not tables:
            return pd.DataFrame(columns=wanted)
        frame: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        return frame


def collect(ledger: Ledger, expected: Sequence[ExpectedCell]) -> Collected:
    """Read what the ledger has of the expected cells.

    Raises:
        RecordError: arms were scored on different items, data, decoding, prompt or base model.
    """
    records: dict[str, Record] = {}
    slots, curves = SlotRows(), []
    missing, untraced = MissingRows(), MissingRows()
    failures = ledger.failures()
    for cell in dict.fromkeys(expected):
        record = ledger.load(cell.cell_id)
        lost = untraced if cell.purpose == TRACE else missing
        if record is None:
            lost.cell(cell, failures)
            continue
        slots.add(record)
        # Who cannot pass the gate falls back, and is not missing.
        if record.split != GATE_SPLIT:
            lost.slots(record)
        curves += [{"arm": record.arm, "seed": record.seed, **row} for row in record.curve]
        # Of 100,000 users the tracks of every step would be most of the memory.
        records[cell.cell_id] = record.model_copy(update={"slots": (), "curve": ()})
    scored = [
        record
        for record in records.values()
        if ITEMS_FILE in record.files and record.purpose in ARM_PURPOSES
    ]
    check_comparable(scored)
    metrics = metrics_of(scored)
    table = ScoreTable(list(metrics), sliced_metrics=_sliced(scored, metrics))
    for record in records.values():
        if record.purpose not in ARM_PURPOSES:
            continue
        if ITEMS_FILE in record.files:
            found = table.add(record, ledger.path(record.cell_id, ITEMS_FILE))
        elif record.purpose == "train":
            continue
        else:
            found = {}
        if record.split != GATE_SPLIT:
            missing.items(record, found)
    return Collected(
        table=table.frame(),
        slots=slots.frame(),
        curves=pd.DataFrame(curves, columns=CURVE_COLUMNS),
        missing=missing.frame(),
        metrics=metrics,
        records=records,
        ledger=ledger,
        few=joined(
            [
                few_scores(record, ledger.path(record.cell_id, ITEMS_FILE))
                for record in records.values()
                if record.purpose == FROM_FEW and ITEMS_FILE in record.files
            ]
        ),
        traced=Traced(
            scores=joined_traces(
                traced_scores(record, ledger.path(record.cell_id, ITEMS_FILE))
                for record in records.values()
                if record.purpose == TRACE and ITEMS_FILE in record.files
            ),
            missing=untraced.frame(),
        ),
    )


def _sliced(scored: Sequence[Record], metrics: Mapping[str, MetricInfo]) -> list[str]:
    """Metrics that are given by slice too."""
    scores = sum(len(record.users) for record in scored) * len(metrics)
    if scores <= EVERY_SLICE_SCORES:
        return list(metrics)
    return [name for name in metrics if name == SLICED_METRIC]


def check_comparable(records: Sequence[Record]) -> None:
    """Refuse arms that were scored on different things, by name.

    Raises:
        RecordError: which arms differ, and in what.
    """
    for split in sorted({record.split for record in records}):
        first: dict[str, tuple[str, Any]] = {}
        for record in records:
            if record.split != split:
                continue
            for name in SAME_FOR_ALL:
                arm, value = first.setdefault(name, (record.arm, record.spec[name]))
                if record.spec[name] != value:
                    raise RecordError(
                        f"arms {arm!r} and {record.arm!r} cannot be compared on {split}: "
                        f"their {name} differ ({value} and {record.spec[name]}); "
                        "run both with the same settings, or use another workspace"
                    )


class SlotRows:
    """Rows of trained adapters, column by column."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in SLOT_COLUMNS}

    def add(self, record: Record) -> None:
        """Take the slots of a record that trained some."""
        if record.purpose not in ("train", "personalize"):
            return
        for slot in record.slots:
            for name, value in zip(SLOT_COLUMNS, _slot_row(record, slot), strict=True):
                self._columns[name].append(value)

    def frame(self) -> pd.DataFrame:
        """One row per adapter."""
        frame = pd.DataFrame(self._columns, columns=SLOT_COLUMNS)
        return frame.astype({"shift_norm": float}) if len(frame) else frame


def _slot_row(record: Record, slot: SlotRecord) -> tuple[Any, ...]:
    last = slot.shift_norms[-1] if slot.shift_norms else float("nan")
    tracks = np.array(slot.shift_norms), np.array(slot.losses)
    work = slot.steps, slot.examples, slot.trained_tokens
    return (record.arm, record.seed, slot.slot, slot.status, slot.reason, *work, last, *tracks)


class MissingRows:
    """What is missing of the plan, each with the reason."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, str, str]] = []
        self._named: set[tuple[str, int, str, str]] = set()

    def _add(self, arm: str, seed: int, split: str, user: str, reason: str) -> None:
        if (arm, seed, split, user) not in self._named:
            self._named.add((arm, seed, split, user))
            self._rows.append((arm, seed, user, reason))

    def cell(self, cell: ExpectedCell, failures: Mapping[str, Mapping[str, Any]]) -> None:
        """A cell without a record."""
        reason = _why(cell.cell_id, failures)
        for user in (EVERYBODY,) if cell.purpose in WHOLE_STUDY else cell.users:
            self._add(cell.arm, cell.seed, cell.split, user, reason)

    def slots(self, record: Record) -> None:
        """Adapters that failed or were skipped."""
        for slot in record.slots:
            if slot.status != "ok":
                reason = f"{slot.status}: {slot.reason}"
                self._add(record.arm, record.seed, record.split, slot.slot, reason)

    def items(self, record: Record, found: Mapping[str, set[str]]) -> None:
        """Users of a scored record without an item, unless a slot has given the reason."""
        reason = f"no item was scored on {record.split}"
        for control in {"own": "", **found}:
            arm = record.arm + (SWAPPED if control == "swapped" else "")
            there = found.get(control, set())
            for user in record.users:
                if user not in there and not self._has(record, user):
                    self._add(arm, record.seed, record.split, user, reason)

    def _has(self, record: Record, user: str) -> bool:
        return (record.arm, record.seed, record.split, user) in self._named

    def frame(self) -> pd.DataFrame:
        """One row per arm, seed and user, in the plan's order."""
        return pd.DataFrame(self._rows, columns=MISSING_COLUMNS)


def _why(cell_id: str, failures: Mapping[str, Mapping[str, Any]]) -> str:
    if cell_id not in failures:
        return "not run"
    last = str(failures[cell_id]["error"]).strip().splitlines()
    return f"failed: {last[-1] if last else 'no reason is known'}"
