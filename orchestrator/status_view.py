"""`status` for people: once, or again and again while the run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.exit_codes import InputError
from orchestrator.status import RUNNING, is_alive, present_progress, read_status
from orchestrator.stored_workspace import refresh_status
from orchestrator.sweep_view import sweep_view
from orchestrator.worker import NO_METRIC
from orchestrator.workspace import Workspace

WATCH_SECONDS = 2.0
SHOWN_FAILURES = 10
DIED = "died; give the same command again"


def known_status(workspace: Workspace) -> dict[str, Any]:
    """The last run's status; of a run that says it runs but does not, the state is ``DIED``.

    Raises:
        InputError: nothing was run in this workspace.
        InfrastructureError: it lies in a bucket that cannot be reached.
    """
    refresh_status(workspace)
    found = read_status(workspace.root)
    if found is None:
        raise InputError(f"{workspace.name} holds no run; start one with `run`")
    dead = is_running(found) and not is_alive(found, workspace.root)
    return dict(found) | ({"state": DIED} if dead else {})


def is_running(status: Mapping[str, Any]) -> bool:
    """Whether there is more to come."""
    return status["state"] in RUNNING


def status_view(status: Mapping[str, Any]) -> Group:
    """State, address of the dashboard, counts, leaderboard, and what failed and why."""
    progress = present_progress(status, running=is_running(status))
    lines = [f"study {status['study']}: {status['state']}"]
    if is_running(status) and status.get("dashboard"):
        lines.append(f"Ray dashboard: http://{status['dashboard']} (token: ray get-auth-token)")
    parts: list[RenderableType] = [Text(line) for line in lines]
    parts.append(sweep_view(progress, status.get("leaderboard", ())))
    failures = progress.get("failures", [])
    for failure in failures[:SHOWN_FAILURES]:
        told = f"failed: {failure['arm']} ({failure['cell_id']}): {failure['reason']}"
        parts.append(Text(told, style="red"))
    if len(failures) > SHOWN_FAILURES:
        parts.append(Text(f"… and {len(failures) - SHOWN_FAILURES} more", style="red"))
    return Group(*parts)


def status_json(status: Mapping[str, Any]) -> str:
    """The status for programs, in one line; numbers that are not known yet are null."""
    progress = dict(status.get("progress", {}))
    if "stages" in progress:
        progress["stages"] = [
            {**stage, "best_macro": _known(stage.get("best_macro"))} for stage in progress["stages"]
        ]
    return json.dumps({**status, "progress": progress} if progress else dict(status))


def _known(macro: float | None) -> float | None:
    return None if macro == NO_METRIC else macro


def watch_status(
    workspace: Workspace, console: Console, *, wait: Callable[[float], None] = time.sleep
) -> None:
    """Show the status until the run has ended; without a terminal, whenever it has changed."""
    found = _changes(workspace, wait)
    if not console.is_terminal:
        for status in found:
            console.print(status_view(status))
        return
    latest = [next(found)]
    # Drawn again and again, as times go on between two changes.
    live = Live(
        get_renderable=lambda: status_view(latest[0]), console=console, refresh_per_second=1
    )
    with live:
        for latest[0] in found:
            live.refresh()


def watch_json(
    workspace: Workspace,
    write_line: Callable[[str], None],
    *,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """A JSON document a line, the first at once, then whenever something changed, to the end."""
    for status in _changes(workspace, wait):
        write_line(status_json(status))


def _changes(workspace: Workspace, wait: Callable[[float], None]) -> Iterator[Mapping[str, Any]]:
    """The status as it is, then each time that it has changed until the run has ended."""
    status = known_status(workspace)
    yield status
    while is_running(status):
        wait(WATCH_SECONDS)
        before, status = status, known_status(workspace)
        if status != before:
            yield status
