"""Stored splits are held against their rules again, in the report and in ``validate``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data.manifest import Prepared, load_prepared, save_prepared, sizes_written
from data.schema import Message, Session, Split, UserData
from data.settings import DataSettings
from data.shards import write_shard
from data.style import style_of
from orchestrator.checks import validate_workspace
from orchestrator.cli import main
from orchestrator.exit_codes import ExitCode
from orchestrator.split_check import check_splits

PARTS: tuple[Split, ...] = ("train", "train", "train", "online", "val", "test")


def session(number: int, split: Split) -> Session:
    messages = (Message("user", f"Lights {number}?"), Message("assistant", f"Done {number}."))
    return Session(session_id=number, split=split, messages=messages, item_turns=(1,))


def user(name: str, parts: tuple[Split, ...] = PARTS) -> UserData:
    sessions = tuple(session(number, split) for number, split in enumerate(parts))
    return UserData(
        user_key=name, persona_id=name[5:], sessions=sessions, style=style_of(sessions[:1])
    )


def splits_of(first: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"train": [], "online": [], "val": [], "test": []}
    for number, split in enumerate(PARTS):
        found[split].append(first + number)
    return found


def prepared(root: Path, splits: dict[str, dict[str, list[int]]], *users: UserData) -> Prepared:
    """A workspace with these splits and shards, whose manifest vouches for all files."""
    for folder in ("cleaned", "splits", "shards"):
        (root / "data" / folder).mkdir(parents=True, exist_ok=True)
    (root / "data/splits/edgesplits.json").write_text(json.dumps(splits))
    # The sessions have whole-number ids, so nothing about their order is assumed.
    stats = {"counts": {}, "kept": {"users": len(users)}}
    (root / "data/cleaned/cleaning_stats.json").write_text(json.dumps(stats))
    write_shard(root / "data/shards/users-00000.parquet", users)
    found = Prepared(
        workspace=root,
        source="test",
        location="",
        source_sha256={},
        settings=DataSettings(),
        data_sha256="d" * 64,
        items_sha256={"val": "v" * 64, "test": "t" * 64},
        users=tuple(one.user_key for one in users),
        cold_start_users=(),
        no_per_user_arm={},
        dropped_users={},
        counts={},
        warnings=(),
        seconds={},
        files=sizes_written(root),
    )
    save_prepared(found)
    assert load_prepared(root) == found
    return found


def test_sound_splits_are_told_with_their_counts(tmp_path: Path) -> None:
    splits = {"user_a": splits_of(0), "user_b": splits_of(6)}
    valid, told = check_splits(prepared(tmp_path, splits, user("user_a"), user("user_b")))
    assert valid
    assert told.startswith("2 users checked: ")
    assert told.endswith("train 6 / 6, online 2 / 2, val 2 / 2, test 2 / 2")
    assert "stand in time order; " in told
    (found,) = [check for check in validate_workspace(tmp_path) if check.name == "splits"]
    assert (found.state, found.found) == ("ok", told)


def test_an_assumed_order_is_not_called_time_order(tmp_path: Path) -> None:
    data = prepared(tmp_path, {"user_a": splits_of(0)}, user("user_a"))
    stats = {"counts": {"users_in_file_order": 1, "users_order_assumed": 1}, "kept": {"users": 1}}
    (tmp_path / "data/cleaned/cleaning_stats.json").write_text(json.dumps(stats))
    save_prepared(replace(data, files=sizes_written(tmp_path)))
    valid, told = check_splits(data)
    assert valid
    assert "in time order" not in told
    assert "(not checked: whether it is time order, for 1 user)" in told
    (found,) = [check for check in validate_workspace(tmp_path) if check.name == "splits"]
    assert (found.state, found.found) == ("warning", told)


OVERLAP = splits_of(0) | {"test": [4]}
SHARED = {"user_a": splits_of(0), "user_b": splits_of(5)}
MOVED = (*PARTS[:4], "test", "test")


@pytest.mark.parametrize(
    ("splits", "users", "said"),
    [
        ({"user_a": OVERLAP}, [user("user_a")], "user_a: train, online, val, test are not disj"),
        ({"user_a": splits_of(0) | {"train": [1, 0, 2]}}, [user("user_a")], "in time order"),
        (SHARED, [user("user_a"), user("user_b")], "user_b and user_a both hold dialogue 5"),
        ({"user_a": splits_of(0)}, [user("user_a", MOVED)], "shards' sessions are split otherw"),
        ({"user_a": splits_of(0)}, [user("user_a"), user("user_b")], "user_b: the shards' sess"),
        ({"user_a": splits_of(0), "user_b": splits_of(6)}, [user("user_a")], "in no shard"),
        ({"user_a": [1]}, [user("user_a")], "cannot be read"),
    ],
)
def test_broken_splits_fail_the_checkpoint_and_validate(
    splits: dict[str, dict[str, list[int]]],
    users: list[UserData],
    said: str,
    tmp_path: Path,
) -> None:
    valid, told = check_splits(prepared(tmp_path, splits, *users))
    assert not valid
    assert said in told
    assert main(["validate", "--workspace", str(tmp_path)]) == ExitCode.FAILED_TRIALS
    failed = [check for check in validate_workspace(tmp_path) if check.state == "failed"]
    assert [(check.name, check.found) for check in failed] == [("splits", told)]
