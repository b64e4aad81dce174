"""A cluster of Ray nodes on this machine, and a study that is started on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.exit_codes import ExitCode
from orchestrator.shipping import ROOT
from tests.patience import PATIENCE_SECONDS
from tests.shared_studies import BASELINE, take_prepared_data


@contextmanager
def ray_nodes(*, head_cpus: int, workers: int = 0) -> Iterator[Any]:
    """A cluster of Ray nodes on this machine, in a folder of its own; its end ends them.

    For whoever asks for ``auto``, Ray notes its address below ``RAY_TMPDIR``, in a folder that it
    does not make: without one here it would be every Ray's on this machine.
    """
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))
    (folder / "ray").mkdir()
    head = {"num_cpus": head_cpus, "object_store_memory": 100 << 20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", str(folder))
        found: Any = Cluster(
            initialize_head=True, head_node_args=head | {"temp_dir": str(folder / "head")}
        )
        try:
            for _ in range(workers):
                add_worker(found)
            yield found
        finally:
            # At once: asking a busy head to drain its nodes first may time out.
            for node in list(found.worker_nodes):
                found.remove_node(node, allow_graceful=False)
            found.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def add_worker(cluster: Any) -> Any:
    """One more node, with one CPU."""
    return cluster.add_node(num_cpus=1, object_store_memory=100 << 20)


class Started:
    """A study that runs on a cluster, as a person started it.

    ``through`` stands before the command: it leads to the machine where the person sits.
    """

    def __init__(
        self,
        address: str,
        root: Path,
        *,
        through: Sequence[str] = (),
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        words = ["run", "--workspace", str(root), "--address", address, *BASELINE]
        take_prepared_data(root, BASELINE)
        self.root = root
        self.log = root.with_suffix(".log")
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                # Not from the repository: its code must reach the nodes by itself.
                [*through, sys.executable, "-m", "orchestrator", *words],
                cwd=root.parent,
                env={**environment, "PYTHONPATH": str(ROOT)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def records(self) -> list[Path]:
        """The folders of the cells that are in the ledger."""
        return list((self.root / "results" / "ledger").glob("[!.]*"))

    def wait_for_records(self, number: int) -> None:
        """Until so many cells are in the ledger."""
        while self.process.poll() is None and len(self.records()) < number:
            time.sleep(0.05)
        assert self.process.poll() is None, self.log.read_text()

    def end(self) -> str:
        """Its last word; it must have ended well."""
        assert self.process.wait(timeout=PATIENCE_SECONDS) == ExitCode.DONE, self.log.read_text()
        return self.log.read_text()
