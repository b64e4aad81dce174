"""Workers that run no model, for tests of the sweep on a real Ray and a real Tuner."""

from __future__ import annotations

import os
import time
from pathlib import Path

from orchestrator.worker import NO_METRIC, CellReport, Places
from tasks.cell import CellSpec
from tests.patience import PATIENCE_SECONDS


class FakeWorker:
    """Writes the process id and the parent that was there; obeys words in the arm's name."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.cells = 0

    def run(
        self, cell_id: str, spec: CellSpec, *, staging: Path, smaller_passes: bool = False
    ) -> CellReport:
        self.cells += 1
        if "too-large" in spec.arm and not (smaller_passes and "always" not in spec.arm):
            self._note_size(cell_id, smaller_passes)
            error = "torch.OutOfMemoryError: planted"
            return CellReport(cell_id, False, "", error, NO_METRIC, 0.0, out_of_memory=True)
        if "raises" in spec.arm:
            return CellReport(cell_id, False, "", "Traceback: planted", NO_METRIC, 0.0)
        if "hungry" in spec.arm:
            self._eat_if_first(cell_id, always="hungry always" in spec.arm)
        if "dies" in spec.arm:
            self._die_if_first(cell_id, always="dies always" in spec.arm)
        if "outlived" in spec.arm:
            self._go_on_unseen(cell_id, staging)
        if "slow" in spec.arm:
            (self.places.staging.parent / f"began-{cell_id}").touch()
            time.sleep(600)
        if "brief" in spec.arm:
            self._wait_for_word(cell_id)
        if spec.parent is not None and not (self.places.ledger / spec.parent).is_dir():
            return CellReport(cell_id, False, "", "parent is missing", NO_METRIC, 0.0)
        staging.mkdir(parents=True)
        (staging / "made.txt").write_text(f"{os.getpid()} {self.cells}")
        return CellReport(cell_id, True, str(staging), "", 0.5, 0.0)

    def _wait_for_word(self, cell_id: str) -> None:
        """Until the test has seen that this cell runs, and says so."""
        root = self.places.staging.parent
        (root / f"began-{cell_id}").touch()
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not (root / "go").exists() and time.monotonic() < give_up:
            time.sleep(0.02)

    def _go_on_unseen(self, cell_id: str, staging: Path) -> None:
        """The first try dies for Ray, and writes after all once the second one has begun.

        Both in one: the second try writes into the first one's folder, as a worker on a node that
        was cut off would.
        """
        mark = self.places.staging.parent / f"first-{cell_id}"
        if not mark.exists():
            mark.write_text(str(staging))
            staging.mkdir(parents=True)
            os._exit(9)
        late = Path(mark.read_text())
        late.mkdir(parents=True, exist_ok=True)
        (late / "made.txt").write_text("late")

    def _eat_if_first(self, cell_id: str, *, always: bool) -> None:
        """Take more of the host's memory than Ray allows, until Ray kills this process."""
        mark = self.places.staging.parent / f"ate-{cell_id}"
        if always or not mark.exists():
            mark.touch()
            eaten = bytearray(9 << 29)
            eaten[:: 1 << 12] = b"x" * len(eaten[:: 1 << 12])
            time.sleep(60)

    def _note_size(self, cell_id: str, smaller_passes: bool) -> None:
        with (self.places.staging.parent / f"tried-{cell_id}").open("a") as file:
            file.write(f"{os.getpid()} {smaller_passes}\n")

    def environment(self) -> dict[str, str]:
        return {"worker": "fake"}

    def _die_if_first(self, cell_id: str, *, always: bool) -> None:
        mark = self.places.staging.parent / f"died-{cell_id}"
        if always or not mark.exists():
            mark.write_text("")
            os._exit(9)


class CountingWorker:
    """Ends no cell before ``wanted`` cells run at the same time, and notes how many ever did.

    How many are wanted stands in the file ``wanted`` beside the staging folder.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.root = places.staging.parent

    def run(
        self, cell_id: str, spec: CellSpec, *, staging: Path, smaller_passes: bool = False
    ) -> CellReport:
        mine = self.root / "running" / f"{cell_id} {spec.purpose}"
        mine.touch()
        self._wait_for_the_others()
        seen = sorted(path.name for path in mine.parent.iterdir())
        staging.mkdir(parents=True)
        (staging / "seen.txt").write_text("\n".join(seen))
        # Longer than the others look around: who runs beside this cell is seen by both.
        time.sleep(1.0)
        mine.unlink()
        return CellReport(cell_id, True, str(staging), "", 0.5, 0.0)

    def environment(self) -> dict[str, str]:
        return {"worker": "fake"}

    def _wait_for_the_others(self) -> None:
        wanted = int((self.root / "wanted").read_text())
        met = self.root / "met"
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not met.exists() and time.monotonic() < give_up:
            if len(list((self.root / "running").iterdir())) >= wanted:
                # Time for one more to appear, if the scheduler let it.
                time.sleep(3.0)
                met.touch()
            time.sleep(0.05)
