"""Studies in a bucket: the tables of a folder, from whichever machine, killed or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode, InputError
from orchestrator.stored_workspace import Mirror, working_copy, workspace_at
from results.files import CRASH_CODE, CRASH_VARIABLE
from results.ledger import Ledger
from results.object_store import ObjectStore, StoreError
from results.stored_lock import stored_lock
from tests.cluster_study import add_worker, ray_nodes
from tests.faults import CountRecords
from tests.patience import PATIENCE_SECONDS
from tests.s3_server import VARIABLES
from tests.shared_studies import GLOBAL, all_tables, finished_study, on_one_cpu, shortened

POINTS = (
    "before-listing",
    "after-rename",
    "before-stored-record",
    "after-stored-record",
    "before-report",
    "before-sending",
)
"""The first is reached when the prepared data are sent."""
FEW_POINTS = ("after-stored-record", "before-sending")


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    with shortened():
        yield


@pytest.fixture(scope="module")
def alone() -> dict[str, bytes]:
    """The study's tables as they are made in a folder."""
    return all_tables(finished_study(GLOBAL))


def machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From here on, on a machine whose working copies lie in ``folder``."""
    monkeypatch.setenv("PERSONA_SWEEP_CACHE", str(folder))


def test_what_names_a_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, tmp_path)
    here = workspace_at("s3://bucket/some/study/")
    assert here.storage == here.name == "s3://bucket/some/study"
    assert here.root.parent == tmp_path
    assert here.root == working_copy("s3://bucket/some/study")
    assert here.root != working_copy("s3://bucket/some-study")
    assert workspace_at("runs/first").root == Path("runs/first").resolve()
    for text in ("gs://bucket/x", "s3://", "s3://bucket/../x"):
        with pytest.raises(InputError, match="s3://BUCKET/FOLDER is wanted"):
            workspace_at(text)


# ---------------------------------------------------------------- files beside the cells


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_csv", ".csv").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_copy_is_made_equal_and_nothing_else_travels(bucket: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    store = ObjectStore(f"{bucket}/study")
    write(one, data__manifest_json="m", results__stats__a_csv="1", data__shards__s="s")
    write(one, results__ledger__cell__record_json="r", results__tune__x="t", quarantine__q="q")
    Mirror(store, one).push()
    write(two, results__old_csv="of another study", data__manifest_json="older")
    Mirror(store, two).pull()
    wanted = {"data/manifest.json": "m", "data/shards/s": "s", "results/stats/a.csv": "1"}
    assert read(two) == wanted
    (one / "results/stats/a.csv").unlink()
    write(one, results__stats__b_csv="2")
    Mirror(store, one).push()
    Mirror(store, two).pull()
    assert "results/stats/a.csv" not in read(two)
    assert read(two)["results/stats/b.csv"] == "2"
    three = tmp_path / "three"
    write(three, own="stays")
    Mirror(store, three).pull(below="data/shards/")
    assert read(three) == {"data/shards/s": "s", "own": "stays"}


def test_what_is_being_sent_does_not_seem_whole(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    store = ObjectStore(f"{bucket}/study")
    write(one, data__manifest_json="m", data__shards__s="s", results__summary_json="1", keep="k")
    write(one, experiment_registry_csv="a\n")
    Mirror(store, one).push()
    write(one, data__shards__s="changed", experiment_registry_csv="a\nb\n")

    def broken(files: object) -> None:
        raise StoreError("the network is gone")

    monkeypatch.setattr(store, "upload", broken)
    with pytest.raises(StoreError, match="the network is gone"):
        Mirror(store, one).push()
    Mirror(store, two).pull()
    assert read(two) == {"keep": "k", "experiment_registry.csv": "a\n"}


def test_a_list_that_leads_elsewhere_is_refused(bucket: str, tmp_path: Path) -> None:
    store = ObjectStore(f"{bucket}/study")
    for name in ("../outside", "/etc/passwd"):
        store.write(".files.json", json.dumps({"files": {name: "0"}}).encode())
        with pytest.raises(StoreError, match="it leads elsewhere"):
            Mirror(store, tmp_path / "here").pull()
    store.write(".files.json", b"{")
    with pytest.raises(StoreError, match="cannot be read"):
        Mirror(store, tmp_path / "here").pull()


# ---------------------------------------------------------------- studies


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_in_a_bucket_has_the_tables_of_one_in_a_folder(
    bucket: str,
    alone: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"{bucket}/study"
    words = ["run", "--workspace", uri, *GLOBAL]
    assert main(words) == ExitCode.DONE
    told = capsys.readouterr()
    assert f"also in {uri}" in told.out
    assert all_tables(working_copy(uri)) == alone
    store = ObjectStore(uri)
    content = {name: store.read(name).content for name in store.names()}  # type: ignore[union-attr]
    secret = VARIABLES["AWS_SECRET_ACCESS_KEY"]
    assert not [name for name, text in content.items() if secret.encode() in text]
    assert secret not in told.out + told.err
    assert {name: content[name] for name in alone} == alone
    assert ".persona-sweep.lock" not in content
    assert not [name for name in content if "tmp-" in name or ".staging" in name]

    machine(monkeypatch, tmp_path / "there")
    export = ["export", "--study", "global", "--into", str(tmp_path / "adapters")]
    for command in (["status"], ["validate"], export):
        assert main([*command, "--workspace", uri]) == ExitCode.DONE
    assert main(words) == ExitCode.DONE
    assert "0 cells run" in capsys.readouterr().out
    assert all_tables(working_copy(uri)) == alone
    assert Ledger(working_copy(uri)).problems() == []

    with stored_lock(store):
        assert main(words) == ExitCode.INFRASTRUCTURE
        assert f"{uri} is in use by process {os.getpid()}" in capsys.readouterr().err
    before = set(store.names())
    # A request that cannot be met costs nothing of what is there.
    for bad in (["--set", "data.source=jsonl:nowhere"], ["--gpus-per-global-trial", "4"]):
        assert main([*words, "--fresh", *bad]) == ExitCode.BAD_INPUT
        assert set(store.names()) == before
    assert main([*words, "--fresh"]) == ExitCode.DONE
    assert all_tables(working_copy(uri)) == alone
    assert not {name for name in before & set(store.names()) if "/items.parquet" in name}


@pytest.mark.ray
@pytest.mark.slow
def test_killed_on_one_machine_it_goes_on_on_another(
    bucket: str,
    alone: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count_records: CountRecords,
    thorough: bool,
) -> None:
    uri = f"{bucket}/study"
    store = ObjectStore(uri)
    command = [sys.executable, "-m", "orchestrator", "run", "--workspace", uri, *GLOBAL]
    kept: set[str] = set()
    for number, point in enumerate(POINTS if thorough else FEW_POINTS):
        machine(monkeypatch, tmp_path / str(number))
        env = os.environ | {CRASH_VARIABLE: point}
        done = subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
            preexec_fn=on_one_cpu,
        )
        assert done.returncode == CRASH_CODE, f"{point}: {done.stdout}{done.stderr}"
        found = {
            json.loads(store.read(name).content)["attempt"]  # type: ignore[union-attr]
            for name in store.names()
            if name.endswith("/record.json")
        }
        assert kept <= found, f"{point}: a recorded cell was repeated"
        kept = found
    machine(monkeypatch, tmp_path / "last")
    assert main(["run", "--workspace", uri, *GLOBAL]) == ExitCode.DONE
    root = working_copy(uri)
    assert all_tables(root) == alone
    assert Ledger(root).problems() == []
    cells = [name for name in store.names("results/ledger/") if "/." not in name]
    assert len({name.split("/")[3] for name in cells if name.count("/") == 4}) == len(
        [name for name in cells if name.endswith("/record.json")]
    )
    count_records(root, "global")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.thorough
def test_nodes_that_share_nothing_but_the_bucket(
    bucket: str,
    alone: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"{bucket}/study"
    with ray_nodes(head_cpus=0) as cluster:
        for name in ("first", "second"):
            machine(monkeypatch, tmp_path / name)
            add_worker(cluster)
        machine(monkeypatch, tmp_path / "driver")
        words = ["run", "--workspace", uri, "--address", cluster.address, *GLOBAL]
        assert main(words) == ExitCode.DONE, capsys.readouterr().err
    root = working_copy(uri)
    assert all_tables(root) == alone
    assert Ledger(root).problems() == []
    assert {path.name for path in tmp_path.iterdir()} >= {"first", "second", "driver"}
