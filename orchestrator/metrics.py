"""Our gauges and counters at Ray's metrics endpoint: how far a sweep is, and how good its arms are.

No metric carries a user's id: tags name stages and arms alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from ray.util.metrics import Counter, Gauge

from orchestrator.live_board import LiveBoard
from orchestrator.plan import PlannedCell
from orchestrator.tally import SweepTally
from orchestrator.worker import CellReport
from results.ledger import Ledger
from results.record_files import RECORD_FILE

TOKENS = ("trained_tokens", "generated_tokens")


class SweepMetrics:
    """Follows a sweep, after its tally and its board among the observers.

    ``sweep_trials_done`` and ``sweep_trials_failed`` by stage, ``sweep_users_done`` by arm (users
    scored on test), ``sweep_macro_rouge_l`` by arm, ``sweep_tokens_per_second`` trained and
    generated since the sweep began.
    """

    def __init__(self, tally: SweepTally, board: LiveBoard, ledger: Ledger) -> None:
        self._tally, self._board, self._ledger = tally, board, ledger
        self._tokens = 0
        self._done = Counter(
            "sweep_trials_done", description="Cells in the ledger.", tag_keys=("stage",)
        )
        self._failed = Counter(
            "sweep_trials_failed", description="Cells that failed.", tag_keys=("stage",)
        )
        self._users = Gauge(
            "sweep_users_done", description="Users scored on test.", tag_keys=("arm",)
        )
        self._macro = Gauge(
            "sweep_macro_rouge_l", description="Mean over users so far.", tag_keys=("arm",)
        )
        self._speed = Gauge(
            "sweep_tokens_per_second", description="Tokens trained and generated, all trials."
        )

    def planned(self, cells: Sequence[PlannedCell], finished: Collection[str]) -> None:
        """Those that were done before count as done."""

    def started(self, cell: PlannedCell) -> None:
        """Nothing is done yet."""

    def finished(self, cell: PlannedCell, report: CellReport) -> None:
        """A cell is in the ledger."""
        self._done.inc(tags={"stage": cell.stage})
        self._tokens += tokens_of(self._ledger.path(cell.cell_id, RECORD_FILE))
        self._speed.set(self._tokens / max(self._tally.seconds, 1e-9))
        for row in self._board.standings:
            self._users.set(row.users, tags={"arm": row.arm})
            self._macro.set(row.mean, tags={"arm": row.arm})

    def failed(self, cell: PlannedCell, error: str) -> None:
        """A cell failed."""
        self._failed.inc(tags={"stage": cell.stage})

    def blocked(self, cell: PlannedCell, cause: PlannedCell) -> None:
        """Counted with the failure that caused it."""


def tokens_of(record: Path) -> int:
    """Tokens that a kept cell trained on and generated; 0 where its record cannot be read."""
    try:
        counts = json.loads(record.read_text(encoding="utf-8"))["counts"]
        return sum(int(counts.get(name, 0)) for name in TOKENS)
    except (OSError, ValueError, KeyError):
        return 0
