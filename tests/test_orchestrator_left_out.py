"""Who is left out is said in words, with names and reasons, and cut where there are many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.manifest import Prepared
from data.order import FILE
from data.settings import DataSettings
from orchestrator.left_out import assumed_order, left_out, prepared_summary, time_order


def prepared(
    folder: Path, *, few: dict[str, str], gone: dict[str, str], cold: tuple[str, ...] = ()
) -> Prepared:
    return Prepared(
        workspace=folder,
        source="jsonl",
        location="",
        source_sha256={},
        settings=DataSettings(),
        data_sha256="0123456789abcdef",
        items_sha256={},
        users=tuple(f"user_{n}" for n in range(8)),
        cold_start_users=cold,
        no_per_user_arm=few,
        dropped_users=gone,
        counts={},
        warnings=(),
        seconds={},
        files={},
    )


def test_few_are_all_named_and_nobody_is_no_line(tmp_path: Path) -> None:
    assert left_out(prepared(tmp_path, few={}, gone={})) == []
    found = left_out(prepared(tmp_path, few={"user_1": "no slice"}, gone={"user_9": "no sessions"}))
    assert found == [
        "1 of 8 users gets no adapter of their own, the baseline still is scored: "
        "user_1 (no slice)",
        "1 user left out altogether: user_9 (no sessions)",
    ]


def test_the_summary_counts_users_once_and_names_those_held_out(tmp_path: Path) -> None:
    counts = "Counts: data/cleaned/cleaning_stats.json, data/splits/split_stats.json; data "
    cold = tuple(f"user_{n}" for n in range(20, 25))
    assert prepared_summary(prepared(tmp_path, few={}, gone={}, cold=cold[:1])) == [
        "9 users prepared: 8 to study, 1 (user_20) held out as cold start",
        "All 8 users have enough sessions for an adapter of their own",
        counts + "0123456789ab",
    ]
    few = {"user_1": "no slice"}
    first, second, _ = prepared_summary(prepared(tmp_path, few=few, gone={}, cold=cold))
    assert first == (
        "13 users prepared: 8 to study, 5 (user_20, user_21, user_22 and 2 more) held out as "
        "cold start"
    )
    assert second == "7 of 8 users have enough sessions for an adapter of their own"


def test_many_are_cut_and_the_file_is_named(tmp_path: Path) -> None:
    few = {f"user_{n}": "r" for n in range(5)}
    found = left_out(prepared(tmp_path, few=few, gone=few))
    named = "user_0 (r); user_1 (r); user_2 (r); 2 more are in data/splits/split_stats.json"
    assert found[0].endswith(named)
    assert found[1] == f"5 users left out altogether: {named}"


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({}, "by session id for 8 users"),
        ({"users_ordered_by_timestamp": 8}, "by timestamp for 8 users"),
        (
            {"users_ordered_by_timestamp": 5, "users_in_file_order": 1},
            "by timestamp for 5 users, by session id for 2 users, by order of the file for 1 user; "
            "only assumed for 1 user",
        ),
        (
            {"users_in_natural_id_order": 6, "users_order_assumed": 7},
            "by session id for 2 users, by numbers inside session ids for 6 users; "
            "only assumed for 7 users",
        ),
    ],
)
def test_the_order_of_time_is_told(tmp_path: Path, counts: dict[str, int], told: str) -> None:
    folder = tmp_path / "data" / "cleaned"
    folder.mkdir(parents=True)
    stats = {"counts": counts, "kept": {"users": 8}}
    (folder / "cleaning_stats.json").write_text(json.dumps(stats))
    data = prepared(tmp_path, few={}, gone={})
    assert time_order(data) == told
    assert assumed_order(data) == counts.get("users_order_assumed", counts.get(FILE, 0))
