"""The sweep on a real local Ray and a real Tuner; only the cells' work is a fake."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread

import pytest

from orchestrator.cell_queue import CellQueue
from orchestrator.exit_codes import InfrastructureError
from orchestrator.placement import Placement
from orchestrator.plan import PlannedCell
from orchestrator.sweep import SweepOptions, run_sweep
from orchestrator.worker import CellReport, Places
from tasks.cell import CellSpec
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.ray

WORKER = "tests.fake_workers:FakeWorker"


def cell(name: str, *, arm: str = "arm", parent: str | None = None) -> PlannedCell:
    spec = CellSpec(
        arm=arm,
        purpose="evaluate",
        grouping="all",
        users=("user_1", "user_2"),
        parent=parent,
        data_sha256="d",
        items_sha256="i",
        template_sha256="t",
        model_sha256="m",
    )
    depends_on = () if parent is None else (parent,)
    return PlannedCell(name, spec, "global", arm, depends_on, 1.0)


@dataclass
class Book:
    """Stands for the ledger: moves staged folders to their final names."""

    ledger: Path
    started_cells: list[str] = field(default_factory=list)
    most_running: int = 0
    planned_cells: list[list[str]] = field(default_factory=list)
    finished_cells: list[str] = field(default_factory=list)
    failed_cells: dict[str, tuple[str, int]] = field(default_factory=dict)
    blocked_cells: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    def keep(
        self, cell: PlannedCell, report: CellReport, environment: dict[str, str], attempts: int
    ) -> str | None:
        assert environment == {"worker": "fake"}
        if cell.arm == "unusable":
            return "no adapter came out well"
        shutil.move(report.staging, self.ledger / cell.cell_id)
        self.attempts[cell.cell_id] = attempts
        return None

    def lose(self, cell: PlannedCell, error: str, attempts: int) -> None:
        self.failed_cells[cell.cell_id] = (error, attempts)

    def planned(self, cells: Sequence[PlannedCell], finished: Collection[str]) -> None:
        self.planned_cells.append([cell.cell_id for cell in cells])

    def started(self, cell: PlannedCell) -> None:
        self.started_cells.append(cell.cell_id)
        running = len(self.started_cells) - len(self.finished_cells)
        self.most_running = max(self.most_running, running)

    def finished(self, cell: PlannedCell, report: CellReport) -> None:
        self.finished_cells.append(cell.cell_id)

    def failed(self, cell: PlannedCell, error: str) -> None:
        assert self.failed_cells[cell.cell_id][0] == error

    def blocked(self, cell: PlannedCell, cause: PlannedCell) -> None:
        self.blocked_cells[cell.cell_id] = cause.cell_id

    def made_by(self, cell_id: str) -> tuple[int, int]:
        pid, count = (self.ledger / cell_id / "made.txt").read_text().split()
        return int(pid), int(count)


def sweep_options(folder: Path) -> SweepOptions:
    return SweepOptions(
        places=Places(folder / "shards", folder / "ledger", folder / "staging"),
        placement=Placement(1.0, 0.0, 2),
        tune_folder=folder / "tune",
        worker=WORKER,
    )


def sweep(folder: Path, cells: list[PlannedCell], **changes: object) -> tuple[Book, CellQueue]:
    book = Book(folder / "ledger")
    book.ledger.mkdir()
    (folder / "staging").mkdir()
    stop = changes.pop("stop", None)
    on_notice = changes.pop("on_notice", lambda running: None)
    more = changes.pop("more", None)
    queue = run_sweep(
        cells,
        finished=set(),
        options=replace(sweep_options(folder), **changes),  # type: ignore[arg-type]
        keeper=book,
        observers=[book],
        stop=stop,  # type: ignore[arg-type]
        on_notice=on_notice,  # type: ignore[arg-type]
        more=more,  # type: ignore[arg-type]
    )
    return book, queue


def test_children_wait_for_their_parents_and_actors_stay(tiny_ray: None, tmp_path: Path) -> None:
    cells = [cell("train"), *(cell(f"own{i}", parent="train") for i in range(4))]
    cells += [cell(f"base{i}") for i in range(3)]
    book, queue = sweep(tmp_path, cells)
    assert sorted(book.finished_cells) == sorted(c.cell_id for c in cells)
    assert queue.finished == set(book.finished_cells)
    # No child ran before its parent was in the ledger: the fake worker would have failed it.
    assert not book.failed_cells
    processes = {book.made_by(name)[0] for name in book.finished_cells}
    assert len(processes) <= 2, "an actor was replaced although it could be reused"
    assert not any((tmp_path / "tune").iterdir())
    assert not any((tmp_path / "staging").iterdir())


def test_one_trial_can_hold_several_cells(tiny_ray: None, tmp_path: Path) -> None:
    book, _ = sweep(tmp_path, [cell(f"c{i}") for i in range(5)], cells_per_trial=3)
    assert sorted(book.finished_cells) == [f"c{i}" for i in range(5)]


def test_a_cell_that_raises_blocks_its_children_alone(tiny_ray: None, tmp_path: Path) -> None:
    cells = [
        cell("bad", arm="raises"),
        cell("child", parent="bad"),
        cell("grandchild", parent="child"),
        cell("good"),
        cell("nan", arm="unusable"),
    ]
    book, queue = sweep(tmp_path, cells)
    assert book.finished_cells == ["good"]
    assert book.failed_cells == {
        "bad": ("Traceback: planted", 1),
        "nan": ("no adapter came out well", 1),
        # Never run, but noted, so that the report can say why they are missing.
        "child": ("needs raises (bad), which failed", 0),
        "grandchild": ("needs raises (bad), which failed", 0),
    }
    assert set(book.started_cells) == {"bad", "good", "nan"}
    assert set(book.blocked_cells) == {"child", "grandchild"}
    assert queue.exhausted


def test_no_more_cells_are_said_to_run_than_can(tiny_ray: None, tmp_path: Path) -> None:
    def go_on() -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while len(list(tmp_path.glob("began-*"))) < 2 and time.monotonic() < give_up:
            time.sleep(0.05)
        # Tune takes a third trial now, which waits for the resources of the two that run.
        time.sleep(1.0)
        (tmp_path / "go").touch()

    helper = Thread(target=go_on)
    helper.start()
    book, _ = sweep(tmp_path, [cell(f"c{n}", arm="brief") for n in range(5)])
    helper.join()
    assert len(book.started_cells) == len(book.finished_cells) == 5
    assert book.most_running == 2


def test_a_killed_worker_is_replaced_and_the_attempts_are_counted(
    tiny_ray: None, tmp_path: Path
) -> None:
    cells = [cell("once", arm="dies"), cell("good"), cell("child", parent="once")]
    book, _ = sweep(tmp_path, cells)
    assert sorted(book.finished_cells) == ["child", "good", "once"]
    assert book.attempts == {"once": 2, "good": 1, "child": 1}


def test_a_worker_that_outlives_its_retry_is_never_heard(tiny_ray: None, tmp_path: Path) -> None:
    book, _ = sweep(tmp_path, [cell("twice", arm="outlived")])
    assert book.attempts == {"twice": 2}
    late = Path((tmp_path / "first-twice").read_text())
    assert (late / "made.txt").read_text() == "late"
    # Not even in the same folder: the record holds what the second try wrote, and that alone.
    assert (tmp_path / "ledger" / "twice" / "made.txt").read_text() != "late"


def test_a_worker_that_always_dies_fails_its_cell_after_three_retries(
    tiny_ray: None, tmp_path: Path
) -> None:
    book, _ = sweep(tmp_path, [cell("bad", arm="dies always"), cell("good")])
    assert book.finished_cells == ["good"]
    error, attempts = book.failed_cells["bad"]
    assert attempts == 4
    assert "died 4 times" in error


def test_a_cell_that_does_not_fit_is_tried_once_more_on_another_actor_in_smaller_passes(
    tiny_ray: None, tmp_path: Path
) -> None:
    cells = [cell("fits", arm="too-large"), cell("never", arm="too-large always"), cell("good")]
    book, _ = sweep(tmp_path, cells)
    assert sorted(book.finished_cells) == ["fits", "good"]
    assert book.attempts == {"fits": 2, "good": 1}
    assert book.failed_cells["never"] == ("torch.OutOfMemoryError: planted", 2)
    tried = {name: (tmp_path / f"tried-{name}").read_text().split() for name in ("fits", "never")}
    assert tried["fits"][1:] == ["False"]
    assert tried["never"][1::2] == ["False", "True"]
    # Another process each time: an allocator keeps what it took.
    assert int(tried["fits"][0]) != book.made_by("fits")[0]
    assert len(set(tried["never"][::2])) == 2
    assert not list((tmp_path / "staging").glob("*.smaller"))


def test_a_disk_that_takes_no_record_ends_the_sweep(tiny_ray: None, tmp_path: Path) -> None:
    class Full(Book):
        def keep(self, *_: object) -> str | None:  # type: ignore[override]
            raise InfrastructureError("no space left")

    book = Full(tmp_path / "ledger")
    options = SweepOptions(
        places=Places(tmp_path / "shards", book.ledger, tmp_path / "staging"),
        placement=Placement(1.0, 0.0, 2),
        tune_folder=tmp_path / "tune",
        worker=WORKER,
    )
    with pytest.raises(InfrastructureError, match="no space left"):
        run_sweep([cell("a")], finished=set(), options=options, keeper=book)


def test_trials_that_never_get_their_resources_end_the_sweep(
    tiny_ray: None, tmp_path: Path
) -> None:
    with pytest.raises(InfrastructureError, match="no trial could start within 1 s"):
        sweep(tmp_path, [cell("a")], placement=Placement(64.0, 0.0, 1), stall_seconds=1.0)


def test_a_sweep_grows_when_all_cells_have_ended_and_keeps_its_actors(
    tiny_ray: None, tmp_path: Path
) -> None:
    bad = cell("bad", arm="raises")
    steps = [
        ([cell("one", parent="first"), cell("old"), bad], {"old"}),
        ([bad, cell("lost", parent="bad"), cell("two", parent="one")], set()),
        ([], set()),
    ]
    book, queue = sweep(tmp_path, [cell("first")], more=lambda: steps.pop(0))
    assert book.finished_cells == ["first", "one", "two"]
    assert list(book.failed_cells) == ["bad", "lost"]
    assert book.blocked_cells == {"lost": "bad"}
    assert book.planned_cells == [["one", "old", "bad"], ["lost", "two"], []]
    assert queue.exhausted
    assert not steps
    processes = {book.made_by(name)[0] for name in book.finished_cells}
    assert len(processes) <= 2, "an actor was replaced although it could be reused"
