"""Source ``hub:OWNER/NAME[@REVISION]``: EdgeWisePersona's files from the Hugging Face hub.

Downloaded once at a fixed revision, then read from the cache without any network. Without
``@REVISION`` the newest commit of the first download is pinned in the workspace and kept.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from data.edgewise import FILES, check_folder
from data.hub_trouble import HubError, Trouble, ask_hub
from data.naming import safe_folder_name
from data.schema import DataError
from data.writing import write_json

Result = TypeVar("Result")

FULL_SETS = {"TCLResearchEurope/EdgeWisePersona": (200, 50)}
"""Data sets of known size: (users, sessions of each user), asserted when they are prepared."""

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 2.0


def parse_location(location: str) -> tuple[str, str | None]:
    """``OWNER/NAME[@REVISION]`` → (OWNER/NAME, revision or None)."""
    name, _, revision = location.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise DataError(f"hub:{location} is no data set: hub:OWNER/NAME[@REVISION] is expected")
    return name, revision or None


def fetch_hub(
    location: str, workspace: Path, *, sleep: Callable[[float], None] = time.sleep
) -> Path:
    """Folder with the three files, from the cache where it has them, else downloaded.

    Raises DataError where the hub cannot be reached, or has no such data set or files.
    """
    name, revision = parse_location(location)
    pin = workspace / "data" / "raw" / "hub" / f"{safe_folder_name(name.replace('/', '--'))}.json"
    if revision is None and pin.is_file():
        revision = json.loads(pin.read_text(encoding="utf-8"))["revision"]
    if revision is None:
        revision = with_back_off(lambda: _newest_revision(name), what=location, sleep=sleep)
    folder = _cached(name, revision) or with_back_off(
        lambda: _download(name, revision), what=location, sleep=sleep
    )
    write_json(pin, {"dataset": name, "revision": revision})
    return check_folder(_holding_folder(folder))


def with_back_off(
    call: Callable[[], Result],
    *,
    what: str,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """``call()``, up to five times, waiting 2, 4, 8, 16 seconds after a passing failure.

    A data set that is absent, gated or at an unknown revision fails at once, and where there is no
    network there is one more try.
    """
    waits = [FIRST_WAIT_SECONDS * 2**attempt for attempt in range(ATTEMPTS - 1)]
    try:
        return ask_hub(call, waits=waits, sleep=sleep)
    except HubError as error:
        raise DataError(_told(what, error.trouble)) from error.__cause__


def _told(what: str, trouble: Trouble) -> str:
    """Why there is no data set, and what to do."""
    if trouble.kind in ("name", "revision", "access"):
        return (
            f"hub:{what} is not available: {trouble.words}; check the spelling and the revision, "
            "and log in with a token where the data set is gated"
        )
    return (
        f"hub:{what} is not in the cache and could not be downloaded: {trouble.words}. Connect "
        f"once, or give the folder with {', '.join(FILES)} as --data"
    )


def _newest_revision(name: str) -> str:
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(name).sha)


def _snapshot(name: str, revision: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=["*.jsonl"], **options
        )
    )


def _download(name: str, revision: str) -> Path:
    return _snapshot(name, revision, max_workers=2)


def _cached(name: str, revision: str) -> Path | None:
    """Snapshot folder in the cache, if it holds the three files."""
    try:
        folder = _snapshot(name, revision, local_files_only=True)
    except OSError:
        return None
    return folder if (_holding_folder(folder) / FILES[-1]).is_file() else None


def _holding_folder(snapshot: Path) -> Path:
    """The folder inside a snapshot in which ``sessions.jsonl`` stands."""
    return next((path.parent for path in sorted(snapshot.rglob(FILES[-1]))), snapshot)
