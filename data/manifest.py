"""The manifest of prepared data: what was prepared from what, its hashes, its users."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.schema import DataError, Json
from data.settings import DataSettings
from data.writing import write_json

MANIFEST = Path("data") / "manifest.json"
CLEANED, SPLIT, SHARDS = Path("data/cleaned"), Path("data/splits"), Path("data/shards")
EMBEDDINGS = Path("data/embeddings.parquet")
"""Belongs to no preparation's files: it is kept and found again (``data.embeddings``)."""
VERSION = 1
"""Raised when the same source and settings would be prepared differently."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Prepared data of a workspace.

    ``source_sha256`` hashes the source's files by name; ``data_sha256`` covers cleaned
    dialogues, splits and settings; ``items_sha256`` has the item lists of the warm users, keys
    ``val`` and ``test``. ``users`` are the warm users' keys in order of their ids,
    ``cold_start_users`` the held-out ones; ``no_per_user_arm`` gives the reason why a warm user
    gets no adapter of its own; ``dropped_users`` why nothing of a user is left. ``files`` has
    the size in bytes of every file written, by its path in the workspace. ``clusters_from`` is
    the identity of the mean embeddings that the clusters are made of beside lexical style, None
    for style alone; see ``data.embeddings``.
    """

    workspace: Path
    source: str
    location: str
    source_sha256: dict[str, str]
    settings: DataSettings
    data_sha256: str
    items_sha256: dict[str, str]
    users: tuple[str, ...]
    cold_start_users: tuple[str, ...]
    no_per_user_arm: dict[str, str]
    dropped_users: dict[str, str]
    counts: dict[str, int]
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    files: dict[str, int] = field(repr=False)
    clusters_from: str | None = None

    @property
    def shards(self) -> Path:
        """Folder for ``data.shards.read_users``."""
        return self.workspace / SHARDS

    @property
    def clusters_sha256(self) -> str:
        """Hash of who is in which cluster; a file of its own, since clusters can be made anew."""
        path = self.workspace / SPLIT / "cluster_map.json"
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @property
    def per_user_arm_users(self) -> tuple[str, ...]:
        """Warm users that get an adapter of their own."""
        return tuple(user for user in self.users if user not in self.no_per_user_arm)


def save_prepared(prepared: Prepared) -> None:
    """Write ``data/manifest.json``: the last file of a preparation, so that it vouches for all."""
    row: Json = {"version": VERSION}
    for name in Prepared.__dataclass_fields__:
        if name != "workspace":
            row[name] = getattr(prepared, name)
    row["settings"] = prepared.settings.model_dump(mode="json")
    write_json(prepared.workspace / MANIFEST, row)


def load_prepared(workspace: Path) -> Prepared | None:
    """The workspace's prepared data; None where nothing, or not everything, was prepared.

    Data of another version of the preparation, or with a file of another size, count as absent.
    Raises DataError for a manifest that cannot be read.
    """
    path = workspace / MANIFEST
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        if row.pop("version") != VERSION:
            return None
        prepared = _from_row(row, workspace)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it and prepare again") from error
    whole = all(_size(workspace / name) == size for name, size in prepared.files.items())
    return prepared if whole else None


def _from_row(row: dict[str, Any], workspace: Path) -> Prepared:
    tuples = ("users", "cold_start_users", "warnings")
    values: dict[str, Any] = {
        name: tuple(value) if name in tuples else value for name, value in row.items()
    }
    values["settings"] = DataSettings.model_validate(row["settings"])
    return Prepared(workspace=workspace, **values)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def sizes_written(workspace: Path) -> dict[str, int]:
    """Size in bytes of every file that was written, by its path in the workspace."""
    return {
        path.relative_to(workspace).as_posix(): path.stat().st_size
        for folder in (CLEANED, SPLIT, SHARDS)
        for path in sorted((workspace / folder).iterdir())
        if path.is_file()
    }
