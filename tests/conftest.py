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

from collections.abc import Iterator  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A busy machine is no failure: nothing is asserted about time.
hypothesis.settings.register_profile("any_speed", deadline=None)
hypothesis.settings.load_profile("any_speed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="end with the table of faults")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--faults"):
        from tests.faults import FaultTable

        config.pluginmanager.register(FaultTable())


@pytest.fixture(scope="module")
def tiny_ray() -> Iterator[None]:
    """A local Ray with 2 CPUs, without a dashboard, in a folder of its own."""
    from orchestrator.cluster import ray_session
    from orchestrator.placement import Machine

    with ray_session(Machine(cpus=2, gpus=0), dashboard=False):
        yield
