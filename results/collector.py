"""From records to one tidy table, and an explicit list of what is missing and why.

A user's value of an item-level metric is the mean over the user's items; items with nothing to
score (NaN) are left out and counted in ``n_items``. ``output_length_std`` is made here from the
outputs' word counts. A swapped control appears as an arm of its own, ``<arm>_swapped``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from results.ledger import Ledger
from results.record import MetricInfo, Record, RecordError

ITEMS_FILE = "items.parquet"
SWAPPED = "_swapped"
RECORDS_PER_BATCH = 64
"""Records whose items are in memory at the same time."""
SLICES = {"all": None, "routine_driven": True, "spontaneous": False}
KEYS = ["arm", "seed", "split", "user_id"]
TABLE_COLUMNS = ["arm", "seed", "user_id", "metric", "split", "slice", "value", "n_items"]
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
        table: scores: arm, seed, user_id, metric, split, slice, value, n_items.
        slots: trained adapters: arm, seed, user_id (or ``all``), status, reason, steps, examples,
            trained_tokens, shift_norm, shift_norms, losses.
        curves: arm, seed, epoch, step, train_loss, val_rouge_l.
        missing: arm, seed, user_id, reason.
        metrics: direction, unit and title of each metric.
        records: the records behind all this, by cell id.
        ledger: where they and their items are.
    """

    table: pd.DataFrame
    slots: pd.DataFrame
    curves: pd.DataFrame
    missing: pd.DataFrame
    metrics: Mapping[str, MetricInfo]
    records: Mapping[str, Record]
    ledger: Ledger

    def items(
        self, arm: str, *, seed: int, split: str = "test", columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Items of one arm (``…_swapped`` for a control): one row per item, read by column."""
        plain = arm.removesuffix(SWAPPED)
        control = "swapped" if arm.endswith(SWAPPED) else "own"
        wanted = None if columns is None else list(dict.fromkeys([*columns, "control"]))
        tables = [
            pq.read_table(self.ledger.path(record.cell_id, ITEMS_FILE), columns=wanted)
            for record in self.records.values()
            if (record.arm, record.seed, record.split) == (plain, seed, split)
            and ITEMS_FILE in record.files
        ]
        if not tables:
            return pd.DataFrame(columns=wanted)
        frame: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        return frame[frame["control"] == control].reset_index(drop=True)


def collect(ledger: Ledger, expected: Sequence[ExpectedCell]) -> Collected:
    """Read what the ledger has of the expected cells.

    Raises:
        RecordError: arms were scored on different items, data, decoding, prompt or base model.
    """
    records = ledger.finished(cell.cell_id for cell in expected)
    scored = [record for record in records.values() if ITEMS_FILE in record.files]
    check_comparable(scored)
    metrics = {name: info for record in scored for name, info in record.metrics.items()}
    tables = [
        scores(ledger, batch, metrics) for batch in batched_records(scored, RECORDS_PER_BATCH)
    ]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=TABLE_COLUMNS)
    return Collected(
        table=table.sort_values(
            ["arm", "seed", "split", "slice", "metric", "user_id"], ignore_index=True, kind="stable"
        ),
        slots=slots_table(records.values()),
        curves=curves_table(records.values()),
        missing=missing_table(expected, records, ledger.failures()),
        metrics=metrics,
        records=records,
        ledger=ledger,
    )


def batched_records(records: Sequence[Record], size: int) -> Iterator[list[Record]]:
    """Records in groups, so that items of a large study are never all in memory."""
    for start in range(0, len(records), size):
        yield list(records[start : start + size])


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


def scores(
    ledger: Ledger, records: Sequence[Record], metrics: Mapping[str, MetricInfo]
) -> pd.DataFrame:
    """Tidy scores of some records, per user and slice."""
    items = pd.concat([_items(ledger, record, metrics) for record in records], ignore_index=True)
    parts = []
    for name, driven in SLICES.items():
        chosen = items if driven is None else items[items["routine_driven"] == driven]
        if len(chosen):
            parts.append(_per_user(chosen, metrics).assign(slice=name))
    return pd.concat(parts, ignore_index=True)[TABLE_COLUMNS]


def _items(ledger: Ledger, record: Record, metrics: Mapping[str, MetricInfo]) -> pd.DataFrame:
    path = ledger.path(record.cell_id, ITEMS_FILE)
    there = set(pq.read_schema(path).names)
    fixed = ["user_id", "control", "routine_driven", "output_words"]
    frame: pd.DataFrame = pq.read_table(
        path, columns=fixed + [m for m in metrics if m in there]
    ).to_pandas()
    suffix = frame["control"].map({"own": "", "swapped": SWAPPED})
    return frame.assign(arm=record.arm + suffix, seed=record.seed, split=record.split)


def _per_user(items: pd.DataFrame, metrics: Mapping[str, MetricInfo]) -> pd.DataFrame:
    """Means over items and numbers of items, in long form."""
    names = [name for name in metrics if name in items.columns]
    groups = items.groupby(KEYS, sort=True, observed=True)
    values, counts = groups[names].mean(), groups[names].count()
    if "output_length_std" in metrics:
        values["output_length_std"] = groups["output_words"].std(ddof=0)
        counts["output_length_std"] = groups["output_words"].count()
    values.columns.name = counts.columns.name = "metric"
    long = pd.DataFrame({"value": values.stack(), "n_items": counts.stack()}).reset_index()
    return long[long["n_items"] > 0]


def slots_table(records: Any) -> pd.DataFrame:
    """One row per trained adapter."""
    rows = [
        (record.arm, record.seed, slot.slot, slot.status, slot.reason, slot.steps, slot.examples,
         slot.trained_tokens, slot.shift_norms[-1] if slot.shift_norms else None,
         slot.shift_norms, slot.losses)
        for record in records
        if record.purpose in ("train", "personalize")
        for slot in record.slots
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=SLOT_COLUMNS)


def curves_table(records: Any) -> pd.DataFrame:
    """Training curves of shared adapters."""
    rows = [
        {"arm": record.arm, "seed": record.seed, **row}
        for record in records
        for row in record.curve
    ]
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)


def missing_table(
    expected: Sequence[ExpectedCell],
    records: Mapping[str, Record],
    failures: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Users without a score of an arm, each with the reason."""
    rows: list[tuple[str, int, str, str]] = []
    for cell in expected:
        record = records.get(cell.cell_id)
        if record is None:
            reason = _why(cell.cell_id, failures)
            names = ("all",) if cell.purpose == "train" else cell.users
            rows += [(cell.arm, cell.seed, user, reason) for user in names]
            continue
        rows += [
            (cell.arm, cell.seed, slot.slot, f"{slot.status}: {slot.reason}")
            for slot in record.slots
            if slot.status != "ok"
        ]
    return pd.DataFrame(rows, columns=MISSING_COLUMNS)


def _why(cell_id: str, failures: Mapping[str, Mapping[str, Any]]) -> str:
    if cell_id not in failures:
        return "not run"
    last = str(failures[cell_id]["error"]).strip().splitlines()
    return f"failed: {last[-1] if last else 'no reason is known'}"
