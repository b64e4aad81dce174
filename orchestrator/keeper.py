"""The driver's side of the ledger: commits what trials left in staging, notes what failed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.exit_codes import InfrastructureError
from orchestrator.plan import PlannedCell
from orchestrator.worker import CellReport
from results.files import crash_point
from results.ledger import Ledger
from results.lock import LockError
from results.object_store import StoreError
from results.record import RecordError
from results.stored_ledger import StoredLedger


class LedgerKeeper:
    """Turns reports into records; lives in the driver, the ledger's only writer.

    ``fence`` is asked before every write; it raises LockError in a driver that was thought dead
    and lost the workspace to another one, whose records it must not touch. ``stored``: the ledger
    in a bucket, whose copy ``ledger`` is.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        fence: Callable[[], None] = lambda: None,
        stored: StoredLedger | None = None,
    ) -> None:
        self.ledger = ledger
        self._fence = fence
        self._stored = stored

    def keep(
        self, cell: PlannedCell, report: CellReport, environment: Mapping[str, str], attempts: int
    ) -> str | None:
        """Commit a cell; the reason where its outcome is nothing to build upon.

        Raises:
            InfrastructureError: the disk does not take the record, or the workspace is no
                longer this driver's.
        """
        self._check_fence()
        staging = Path(report.staging)
        try:
            if self._stored is not None:
                staging = self._stored.bring(cell.cell_id, staging)
            reason = _all_failed(staging)
            if reason is not None:
                return reason
            known = {**environment, "commit": source_commit()}
            self.ledger.commit(cell.cell_id, staging=staging, attempts=attempts, environment=known)
            if self._stored is not None:
                self._stored.record(cell.cell_id)
            crash_point(f"kept:{cell.arm}")
        except LockError as error:
            raise InfrastructureError(str(error)) from error
        except StoreError as error:
            raise InfrastructureError(f"{error}; give the same command again") from error
        except OSError as error:
            raise InfrastructureError(
                f"cell {cell.cell_id} cannot be written to {self.ledger.root}: {error}; make room "
                "or mend the folder's rights, and give the same command again"
            ) from error
        except RecordError as error:
            return str(error)
        return None

    def lose(self, cell: PlannedCell, error: str, attempts: int) -> None:
        """Note a failed cell; it runs again with the next command.

        Raises:
            InfrastructureError: the workspace is no longer this driver's.
        """
        self._check_fence()
        spec = cell.spec.model_dump(mode="json")
        self.ledger.fail(cell.cell_id, spec=spec, error=error, attempts=attempts)

    def _check_fence(self) -> None:
        try:
            self._fence()
        except LockError as error:
            raise InfrastructureError(str(error)) from error


def _all_failed(staging: Path) -> str | None:
    """The slots' reasons if no slot of a cell came out well; None if one did."""
    try:
        outcome: dict[str, Any] = json.loads((staging / "outcome.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return f"outcome.json cannot be read: {error}"
    slots = outcome["slots"]
    bad = [slot for slot in slots if slot["status"] == "failed"]
    if not bad or len(bad) < len(slots):
        return None
    reasons = dict.fromkeys(str(slot["reason"]) for slot in bad)
    return f"all {len(slots)} adapters failed: {'; '.join(reasons)}"


@cache
def source_commit() -> str:
    """Commit of this source tree, with ``+changes`` where files differ from it; else ``none``."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "none"
    return f"{commit}+changes" if changed else commit


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
