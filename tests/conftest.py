"""Settings of all tests: one thread, no network, and a small Ray of its own per module."""

from __future__ import annotations

import os

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "RAY_USAGE_STATS_ENABLED": "0",
    # As our own starts have it; Ray reads it when it is imported.
    "RAY_AUTH_MODE": "token",
}.items():
    os.environ.setdefault(_name, _value)

import shutil  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from tests.faults import CountRecords, FaultTable, counting  # noqa: E402
from tests.shared_studies import FOLDER_VARIABLE  # noqa: E402

# A busy machine is no failure: nothing is asserted about time.
hypothesis.settings.register_profile("few", deadline=None, max_examples=20)
hypothesis.settings.register_profile("many", deadline=None, max_examples=200)
hypothesis.settings.load_profile("few")  # Or "many", with --thorough.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="end with the table of faults")
    parser.addoption(
        "--thorough",
        action="store_true",
        help="many examples of each property, every crash point, the longest studies",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--thorough"):
        hypothesis.settings.load_profile("many")
    # Processes that run the tests side by side inherit it from the one that started them.
    if FOLDER_VARIABLE not in os.environ:
        folder = tempfile.mkdtemp(prefix="studies-")
        os.environ[FOLDER_VARIABLE] = folder
        config.add_cleanup(lambda: _forget(folder))
    if config.getoption("--faults") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FaultTable())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with studies first: side by side with the others, the longest must not come last."""
    if not config.getoption("--thorough"):
        _skip(items, "thorough", reason="only with --thorough (make test-all)")
    if hasattr(config, "workerinput"):
        _skip(items, "alone", reason="runs after the others, by itself (-m alone)")
    studies = {
        item.path for item in items for name in ("slow", "cluster", "ray")
        if item.get_closest_marker(name) is not None
    }  # fmt: skip
    items.sort(key=lambda item: item.path not in studies)


def _skip(items: list[pytest.Item], marker: str, *, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def _forget(folder: str) -> None:
    os.environ.pop(FOLDER_VARIABLE, None)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether a test does everything that it can (``make test-all``)."""
    return bool(request.config.getoption("--thorough"))


@pytest.fixture
def count_records(record_property: Callable[[str, object], None]) -> CountRecords:
    """Counts a study's records after a fault, for the test and for the table of faults."""
    return counting(record_property)


@pytest.fixture(scope="session")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server on loopback, for all tests of a session."""
    from tests.s3_server import s3_server

    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as address:
        yield address


@pytest.fixture
def bucket(s3_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty bucket's address; working copies lie in the test's folder."""
    from tests.s3_server import VARIABLES, new_bucket

    for name, value in {**VARIABLES, "AWS_ENDPOINT_URL": s3_address}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PERSONA_SWEEP_CACHE", str(tmp_path / "here"))
    return new_bucket(s3_address)


@pytest.fixture(scope="module")
def tiny_ray() -> Iterator[None]:
    """A local Ray with 2 CPUs, without a dashboard, in a folder of its own."""
    from orchestrator.cluster import ray_session
    from orchestrator.placement import Machine

    with ray_session(Machine(cpus=2, gpus=0), dashboard=False):
        yield
