"""Ray's dashboard as a person sees it: behind the token, with the trial's actor by its name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster import RaySession, ray_session
from orchestrator.placement import Machine, Placement
from orchestrator.sweep import SweepOptions, run_sweep
from orchestrator.trainable import PersonalizationTrial, trial_class
from orchestrator.worker import Places
from tests.browser import Browser, opened
from tests.test_orchestrator_sweep import WORKER, Book, cell

pytestmark = pytest.mark.ray


@pytest.fixture
def with_dashboard() -> Iterator[RaySession]:
    with ray_session(Machine(cpus=2, gpus=0), dashboard=True) as session:
        yield session


def token() -> str:
    """What the command that `run` prints answers."""
    ray = Path(sys.executable).with_name("ray")
    done = subprocess.run([ray, "get-auth-token"], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def log_in(browser: Browser, secret: str) -> None:
    field = "document.querySelector('input[type=password]')"
    browser.until(f"!!{field}")
    browser.ask(f"{field}.focus()")
    browser.send("Input.insertText", text=secret)
    buttons = "Array.from(document.querySelectorAll('button'))"
    browser.until(f"!{buttons}.find(one => /submit/i.test(one.innerText)).disabled")
    browser.ask(f"{buttons}.find(one => /submit/i.test(one.innerText)).click()")


def test_the_actor_of_a_study_is_found_behind_the_token(
    with_dashboard: RaySession, tmp_path: Path
) -> None:
    for name in ("shards", "ledger", "staging"):
        (tmp_path / name).mkdir()
    book = Book(tmp_path / "ledger")
    options = SweepOptions(
        places=Places(tmp_path / "shards", book.ledger, tmp_path / "staging"),
        placement=Placement(1.0, 0.0, 2),
        tune_folder=tmp_path / "tune",
        worker=WORKER,
        study="per_persona",
    )
    run_sweep([cell("one")], finished=set(), options=options, keeper=book, observers=[book])
    assert with_dashboard.dashboard is not None
    assert with_dashboard.dashboard.startswith("127.0.0.1:")
    with opened(tmp_path / "profile") as browser:
        browser.send("Page.navigate", url=f"http://{with_dashboard.dashboard}/#/actors")
        browser.until("document.body.innerText.includes('Authentication Token Required')")
        assert "PerPersonaTrial" not in browser.ask("document.body.innerText")
        log_in(browser, token())
        browser.until("document.body.innerText.includes('PerPersonaTrial')")


@pytest.mark.parametrize(
    ("study", "name"),
    [("per_persona", "PerPersonaTrial"), ("full", "FullTrial"), ("", "PersonalizationTrial")],
)
def test_the_class_is_named_by_the_study(study: str, name: str) -> None:
    named = trial_class(study)
    assert named.__name__ == name
    assert issubclass(named, PersonalizationTrial)
