"""A Ray of this machine: started on the second try, without a dashboard, under a long TMPDIR."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator import local_ray
from orchestrator.cluster import RaySession, ray_session
from orchestrator.exit_codes import InfrastructureError
from orchestrator.local_ray import LONGEST_PARENT, end_processes, may_pass, own_folder
from orchestrator.own_packages import SOURCE
from orchestrator.placement import Machine
from orchestrator.ray_environment import make_token
from orchestrator.signals import StopSignal
from orchestrator.study import Request, _Ray, prepare_only
from orchestrator.sweeping import Screen
from orchestrator.workspace import Workspace
from search_spaces.catalog import STUDIES

ONE = Machine(cpus=1, gpus=0)


def below(word: str) -> list[str]:
    """Command lines of the processes below this one that hold the word."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return [line for line in lines if word in line]


@pytest.mark.ray
@pytest.mark.alone  # Ray keeps the token of a process's first start; this one has its own.
def test_a_start_that_takes_too_long_is_tried_again_and_goes_on_without_its_dashboard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both faults in one Ray: the first raylet never registers, and no dashboard is in time."""
    import ray
    from ray._private import ray_constants
    from ray._private.node import Node

    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    (tmp_path / "here" / "data").mkdir(parents=True)
    (tmp_path / "here" / "data" / "__init__.py").write_text("raise ImportError('another's')\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S", 0)
    left: list[int] = []
    real = Node.start_ray_processes

    def slow(self: Node) -> None:
        if not left:
            left.append(len(below("gcs_server")))
            raise Exception("The current node timed out during startup. This could happen …")
        left.append(len(below("gcs_server")))
        real(self)

    monkeypatch.setattr(Node, "start_ray_processes", slow)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-this-test-alone")
    with ray_session(ONE, dashboard=True) as session:
        assert left == [1, 1], "the first start's processes are gone before the second"
        assert session.dashboard is None
        assert session.without == "it did not answer within 0 s"
        assert below("dashboard.py") == []
        shown = Path(session.token.removeprefix("cat "))
        assert shown.read_text() == "of-this-test-alone"
        assert stat.S_IMODE(shown.stat().st_mode) == 0o600
        where = ray.remote(num_cpus=1)(_temporary).remote()
        name, place, data = ray.get(where, timeout=120)
        assert Path(data).parent == SOURCE / "data", "a worker's packages are this program's"
        assert len(name) < 75
        assert place == str(long.resolve())
    assert os.environ.get("TMPDIR") != name
    assert below("sweep-") == []
    assert long.is_dir()


def _temporary() -> tuple[str, str, str]:
    import data.manifest

    place = tempfile.gettempdir()
    return place, os.path.realpath(place), str(data.__file__)


def test_what_a_run_says_of_its_dashboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    asked: list[bool] = []

    def session(*_: object, dashboard: bool, **__: object) -> Any:
        asked.append(dashboard)
        up = RaySession(None, without="OSError: AF_UNIX path too long")
        return _Given(up if dashboard else RaySession(None))

    monkeypatch.setattr("orchestrator.study.ray_session", session)
    screen = Screen(say=said.append, watch=lambda *_: ExitStack())
    from orchestrator.settings import Settings

    request = Request(STUDIES["baseline"], Settings(), Workspace(tmp_path), ONE)
    with ExitStack() as stack:
        _Ray(request, screen, stack, StopSignal()).start()
    assert said == [
        "Note: Ray's dashboard did not come up (OSError: AF_UNIX path too long); the run goes on "
        "without it"
    ]
    monkeypatch.setattr("data.prepare.prepare", lambda *_, **__: (_ for _ in ()).throw(KeyError))
    with pytest.raises(KeyError):
        prepare_only(request, screen=screen, stop=StopSignal())
    assert asked == [True, False], "data prepare starts none"


class _Given:
    def __init__(self, session: RaySession) -> None:
        self.session = session

    def __enter__(self) -> RaySession:
        return self.session

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (Exception("The current node timed out during startup. This could happen …"), True),
        (RuntimeError("Failed to start GCS.  Last 0 lines of error files:"), True),
        (RuntimeError("Timed out waiting for file /tmp/x/gcs_server_port"), True),
        (TimeoutError(), True),
        (ConnectionError("Failed to connect to Ray cluster"), True),
        (ValueError("The node resources dictionary must not contain …"), False),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("AuthenticationError: InvalidAuthToken"), False),
    ],
)
def test_only_what_passes_is_tried_again(error: Exception, passing: bool) -> None:
    assert may_pass(error) == passing


def test_other_processes_are_left_alone(tmp_path: Path) -> None:
    code = "import time; time.sleep(60)"
    with (
        psutil.Popen(["python3", "-c", code, str(tmp_path / "mine")]) as mine,
        psutil.Popen(["python3", "-c", code, str(tmp_path / "other")]) as other,
    ):
        end_processes(tmp_path / "mine", naming="dashboard.py")
        assert mine.poll() is None
        end_processes(tmp_path / "mine")
        assert mine.wait(10) != 0
        assert other.poll() is None
        other.kill()


def test_rays_folder_is_short_wherever_the_temporary_ones_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with own_folder() as folder:
        assert len(str(folder.parent)) <= LONGEST_PARENT
        assert folder.is_dir()
    assert not folder.exists()

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_ray.tempfile, "mkdtemp", full)
    with pytest.raises(InfrastructureError, match="folder with a short path"), own_folder():
        pass


@pytest.mark.parametrize("home", ["/proc/nohome", "/dev/null/x"])
def test_a_home_that_cannot_be_written_gives_a_token_for_this_process(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", home)
    make_token(joins=True)
    assert not os.environ["RAY_AUTH_TOKEN"], "a cluster has its own"
    make_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    make_token()
    assert not os.environ["RAY_AUTH_TOKEN"]


def test_an_empty_token_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a start leaves it that was killed between making the file and writing it."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    make_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
