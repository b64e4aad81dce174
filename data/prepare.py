"""Preparation from end to end: source → clean → split → style → shards, then the manifest.

Everything is deterministic: users are sorted by id before dialogues get their line numbers, blocks
have a fixed number of users, and the manifest is written last, so that a preparation that was
interrupted counts as not done and the same command does it again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from data.catalog import SOURCES, Source, resolve_source
from data.clusters import Clustering, cluster_users
from data.dictionary import schema_text
from data.formulas import formula_warnings
from data.hub import FULL_SETS, parse_location
from data.items import combined_sha256
from data.language import language_warnings
from data.manifest import (
    CLEANED,
    MANIFEST,
    SHARDS,
    SPLIT,
    Prepared,
    load_prepared,
    save_prepared,
    sizes_written,
)
from data.messages import roles_with
from data.naming import user_key
from data.reading import Scan, check_unchanged
from data.schema import DataError, Json
from data.settings import DataSettings
from data.shards import write_index
from data.split import choose_cold_start, validate_splits
from data.tally import (
    Tally,
    check_bad_rows,
    check_leaks,
    check_written,
    cleaning_stats,
    dominance_warnings,
    obstacles,
    split_stats,
)
from data.writing import TEMPORARY, AtomicFile, write_json, write_jsonl, write_text

__all__ = ["load_prepared", "prepare"]

LOOKED_THROUGH = 1000
"""Users among whom a good row is looked for where others are bad."""
STAGED = Path(f"data/shards{TEMPORARY}staged")


def prepare(
    source: str, *, workspace: Path, settings: DataSettings | None = None, fresh: bool = False
) -> Prepared:
    """Prepare ``source`` (see ``resolve_source``) into ``workspace/data`` with Ray Data.

    Ray must be initialized, unless the workspace already holds these data: then nothing is done.
    Data prepared from another source or with other settings are refused, or replaced with
    ``fresh``; other tolerances are held against the data that are there. Raises DataError for
    data that cannot be used; what was not prepared then has no manifest, and so counts as absent.
    """
    started = time.monotonic()
    settings = settings or DataSettings()
    workspace = workspace.resolve()
    kind, location = resolve_source(source)
    scan = kind.scan(kind.fetch(location, workspace, settings))
    done = load_prepared(workspace)
    if done and not _differences(done, kind, scan, settings):
        check_written(*_statistics(workspace), settings=settings)
        return done
    if done and not fresh:
        changed = "; ".join(_differences(done, kind, scan, settings))
        raise DataError(
            f"{workspace} holds data that were prepared otherwise ({changed}): go back to them, or "
            "take another --workspace; --fresh throws them away, and every result made with them"
        )
    _check_scanned(kind, scan, settings)
    scanned = time.monotonic()
    try:
        tally, cleaned_sha256 = _through_ray(kind, scan, settings=settings, workspace=workspace)
        check_unchanged(scan)
        _check(tally, kind, location, scan)
        users_done = time.monotonic()
        prepared = _finish(tally, kind, location, scan, cleaned_sha256, workspace=workspace)
    except BaseException:
        shutil.rmtree(workspace / STAGED, ignore_errors=True)
        raise
    seconds = {
        "scan": scanned - started,
        "users": users_done - scanned,
        "finish": time.monotonic() - users_done,
        "total": time.monotonic() - started,
    }
    prepared = replace(prepared, seconds={name: round(s, 3) for name, s in seconds.items()})
    save_prepared(prepared)
    return prepared


def same_reading(done: Prepared, kind: Source) -> bool:
    """Whether a source reads its files as the one does that the data were prepared from."""
    return SOURCES[done.source].read_user is kind.read_user


def same_bytes(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether hashes by file name are of the same files; a single one may be named otherwise."""
    alone = len(before) == len(now) == 1
    return before == now or (alone and set(before.values()) == set(now.values()))


def _differences(done: Prepared, kind: Source, scan: Scan, settings: DataSettings) -> list[str]:
    """What differs from the data that are there; empty if nothing does."""
    found = [] if same_reading(done, kind) else [f"source {done.source}, now {kind.name}"]
    if not same_bytes(done.source_sha256, scan.sha256):
        names = sorted(
            name
            for name in done.source_sha256.keys() | scan.sha256.keys()
            if done.source_sha256.get(name) != scan.sha256.get(name)
        )
        found.append(f"content of {', '.join(names)}")
    before, now = (s.without_tolerances() for s in (done.settings, settings))
    for name in type(now).model_fields:
        old, new = getattr(before, name), getattr(now, name)
        found += [f"{name} {old!r}, now {new!r}"] if old != new else []
    return found


def _check_scanned(kind: Source, scan: Scan, settings: DataSettings) -> None:
    """Refuse too many bad rows; where no other row is good either, that is another matter."""
    if len(scan.bad_rows) > settings.skip_bad_rows:
        roles = roles_with(settings.roles)
        good = any(
            kind.read_user(user, scan.files, roles=roles).sessions
            for user in scan.users[:LOOKED_THROUGH]
        )
        check_bad_rows(scan.bad_rows, allowed=settings.skip_bad_rows, all_bad=not good)


def _statistics(workspace: Path) -> tuple[Json, Json]:
    """What ``cleaning_stats.json`` and ``split_stats.json`` say of the data that are there."""
    paths = (workspace / CLEANED / "cleaning_stats.json", workspace / SPLIT / "split_stats.json")
    cleaning, splits = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    return cleaning, splits


def _through_ray(
    kind: Source, scan: Scan, *, settings: DataSettings, workspace: Path
) -> tuple[Tally, str]:
    """Run the users through Ray Data; writes cleaned dialogues and staged shards."""
    # Ray takes seconds to import, and what is prepared already needs none of it.
    from data.ingest import Job, prepare_users

    _clear(workspace)
    tally = Tally(settings=settings, bad_rows=list(scan.bad_rows))
    tally.counts.update(scan.counts)
    job = Job(source=kind.name, files=scan.files, settings=settings, shards=workspace / STAGED)
    users = prepare_users(scan.users[: settings.users], job)
    # Closing stops Ray Data at once where a bad row ends the loop early.
    with closing(users), AtomicFile(workspace / CLEANED / "dialogs_clean.jsonl") as cleaned:
        for user in users:
            tally.add(
                user.persona_id,
                user.facts,
                place=None if user.row is None else (user.shard, user.row),
                message_hashes=user.message_hashes,
                message_times=user.message_times,
            )
            cleaned.write(user.cleaned)
        return tally, cleaned.sha256


def _clear(workspace: Path) -> None:
    """Take the manifest away first, then left-overs of broken runs; make the staging folder."""
    (workspace / MANIFEST).unlink(missing_ok=True)
    for folder in (Path("data"), CLEANED, SPLIT, SHARDS):
        for path in (workspace / folder).glob(f"*{TEMPORARY}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (workspace / STAGED).mkdir(parents=True)


def _check(tally: Tally, kind: Source, location: str, scan: Scan) -> None:
    """All rules about the whole data; each raises DataError."""
    tally.check_bad_rows()
    if not tally.facts:
        reasons = "; ".join(f"{user}: {why}" for user, why in list(tally.dropped.items())[:3])
        raise DataError(f"no user is left after cleaning ({reasons})")
    if kind.name == "hub":
        _check_full_set(tally, parse_location(location)[0], scan)
    validate_splits(tally.splits)
    check_leaks(tally.items, tally.leaked, settings=tally.settings)


def _check_full_set(tally: Tally, name: str, scan: Scan) -> None:
    if name not in FULL_SETS:
        return
    users, sessions = FULL_SETS[name]
    if len(scan.users) + len({bad.line for bad in scan.bad_rows}) != users:
        raise DataError(f"hub:{name} has {users} users, but {len(scan.users)} came")
    wrong = {u: f["raw_sessions"] for u, f in tally.facts.items() if f["raw_sessions"] != sessions}
    if wrong:
        user, came = next(iter(wrong.items()))
        raise DataError(f"hub:{name} has {sessions} sessions a user, but {user} has {came}")


def _finish(
    tally: Tally,
    kind: Source,
    location: str,
    scan: Scan,
    cleaned_sha256: str,
    *,
    workspace: Path,
) -> Prepared:
    """Everything that needs all users: cold start, clusters, statistics, index."""
    settings = tally.settings
    warnings = tally.doubts + dominance_warnings(tally.items, settings=settings)
    warnings += formula_warnings(tally.formulas)
    warnings += language_warnings({user: facts["english"] for user, facts in tally.facts.items()})
    by_id = {tally.persona_ids[user]: items for user, items in tally.items.items()}
    chosen = choose_cold_start(by_id, share=settings.cold_start_share, seed=settings.seed)
    cold = frozenset(map(user_key, chosen))
    warm = [user for user in tally.facts if user not in cold]
    clustering = cluster_users(tally.styles(warm), clusters=settings.clusters, seed=settings.seed)
    warnings += [clustering.warning] if clustering.warning else []
    splits_sha256 = _write(tally, clustering, cold, kind, scan, warnings, workspace=workspace)
    digest = f"{cleaned_sha256}\n{splits_sha256}\n{settings.sha256()}\n"
    stats, _ = _statistics(workspace)
    return Prepared(
        workspace=workspace,
        source=kind.name,
        location=location,
        source_sha256=scan.sha256,
        settings=settings,
        data_sha256=hashlib.sha256(digest.encode()).hexdigest(),
        items_sha256={
            split: combined_sha256({u: tally.facts[u]["items_sha256"][split] for u in warm})
            for split in ("val", "test")
        },
        users=tuple(warm),
        cold_start_users=tuple(user for user in tally.facts if user in cold),
        no_per_user_arm=obstacles(tally.facts, cold_start=cold),
        dropped_users=tally.dropped,
        counts=stats["kept"],
        warnings=tuple(warnings),
        seconds={},
        files=sizes_written(workspace),
    )


def _write(
    tally: Tally,
    clustering: Clustering,
    cold: frozenset[str],
    kind: Source,
    scan: Scan,
    warnings: list[str],
    *,
    workspace: Path,
) -> str:
    """Write statistics, splits and index, and put the staged shards in place; splits' SHA-256."""
    stats = cleaning_stats(tally)
    write_json(workspace / CLEANED / "cleaning_stats.json", stats)
    text = schema_text(stats, source=kind.name, source_sha256=scan.sha256)
    write_text(workspace / CLEANED / "schema.md", text)
    splits_sha256 = write_json(workspace / SPLIT / "edgesplits.json", tally.splits, depth=1)
    write_json(workspace / SPLIT / "cluster_map.json", clustering.cluster_of)
    about = split_stats(tally, clustering=clustering, cold_start=cold, warnings=warnings)
    write_json(workspace / SPLIT / "split_stats.json", about)
    write_jsonl(
        workspace / SPLIT / "cold_start_test.jsonl",
        (
            {"user_id": user, "persona_id": tally.persona_ids[user], "exchanges": facts["opening"]}
            for user, facts in tally.facts.items()
            if user in cold
        ),
    )
    write_index(workspace / STAGED, tally.places, cluster_of=clustering.cluster_of, cold_start=cold)
    shutil.rmtree(workspace / SHARDS, ignore_errors=True)
    (workspace / STAGED).rename(workspace / SHARDS)
    return splits_sha256
