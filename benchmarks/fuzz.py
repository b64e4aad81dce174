"""Fuzzing of everything that reads what others wrote: data, settings, records.

``python -m benchmarks.fuzz --inputs 200000 --out FILE.json`` mutates valid inputs, by their
structure and by their bytes, and gives them to the JSONL reader, the EdgeWisePersona reader, the
settings loader and the reader of records. A reader may accept an input or refuse it with its
declared error; anything else, an input that takes longer than ``LIMIT_SECONDS``, and a process that
grows are findings. Exit code 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data import edgewise, jsonl
from data.schema import DataError
from orchestrator.exit_codes import InputError
from orchestrator.layers import resolve_settings
from orchestrator.settings import setting_names
from results.record import RecordError
from results.record_files import read_record
from search_spaces.catalog import STUDIES

LIMIT_SECONDS = 5.0
GROWTH_MB = 100.0
"""A process that is larger by this after the last three quarters keeps what it should not."""

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e308, -0.0, 10**30, float("inf"), float("nan")),
    *("", " ", "\x00", "\ud800", "\u202e", "=cmd()", "<script>alert(1)</script>", "../../x"),
    *("a" * 5000, "\x1b[31m", "é", "no", "1e3", "0x10", [], {}, [[]], {"": ""}, [None] * 50),
)
MESSAGES = [{"role": "user", "text": "Lights on"}, {"role": "assistant", "text": "They are on."}]


class HangError(Exception):
    """An input took longer than it may."""


@dataclass(slots=True)
class Told:
    """How one reader took its inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """A reader: makes a valid input, writes a mutated one, reads it; what it may raise."""

    valid: Callable[[random.Random], Any]
    write: Callable[[Any, Path, random.Random], None]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]


# ---------------------------------------------------------------- valid inputs


def _jsonl_rows(chance: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "persona_id": chance.choice(["1", "a b", 7]),
            "session_id": number,
            "timestamp": chance.choice(["2024-05-01T10:00:00Z", 1700000000, None]),
            "messages": deepcopy(MESSAGES),
            "context": {"room": "kitchen", "hour": 7},
            "applied_routines": [0, 1],
        }
        for number in range(chance.randint(1, 3))
    ]


def _edgewise_lines(chance: random.Random) -> list[dict[str, Any]]:
    """One line of each of the three files: characters, routines, sessions."""
    routine = {"triggers": {"time": "7"}, "actions": {"lamp": {"power": "on", "level": None}}}
    meta = {"weather": "sunny", "day": "monday"}
    sessions = [
        {"session_id": n, "meta": meta, "applied_routines": [0], "messages": deepcopy(MESSAGES)}
        for n in range(chance.randint(1, 3))
    ]
    return [{"character": "calm"}, {"routines": [routine]}, {"sessions": sessions}]


def _settings(chance: random.Random) -> dict[str, Any]:
    sections = {
        "lora": {"rank": 4, "dropout": 0.1, "target_modules": ["q_proj"]},
        "data": {"users": 8, "train_share": 0.5},
        "personal": {"lora": {"learning_rate": 1e-3, "epochs": 2}},
        "seeds": [0, 1],
        "tracking": {"mlflow": False, "mlflow_uri": "sqlite:///x.db"},
        "search": {"method": "random", "ranges": ["lora.rank = 2, 4"]},
        chance.choice(NAMES).split(".")[0]: deepcopy(chance.choice(NASTY)),
    }
    return dict(chance.sample(sorted(sections.items()), chance.randint(1, len(sections))))


NAMES = sorted(setting_names())


def _record(chance: random.Random) -> dict[str, Any]:
    slot = {"slot": "user_1", "status": "ok", "losses": [0.5], "shift_norms": [1.0]}
    parent = {"cell_id": "ab", "adapters_sha256": "cd"}
    return {
        **{"schema_version": 1, "cell_id": "c", "arm": "lora_per_user", "purpose": "personalize"},
        **{"grouping": "user", "adapter": "lora", "seed": 0, "split": "test", "status": "ok"},
        **{"users": ["user_1"], "spec": {"seed": 0}, "slots": [slot], "parent": parent},
        **{"metrics": {"rouge_l": {"higher_is_better": True, "unit": "F", "title": "ROUGE-L"}}},
        **{"files": {"items.parquet": {"bytes": chance.randint(0, 9), "sha256": "x"}}},
        **{"attempt": "a", "finished_utc": "2026-01-01T00:00:00+00:00", "curve": [{"epoch": 1.0}]},
    }


# ---------------------------------------------------------------- mutations


def mutated(value: Any, chance: random.Random) -> Any:
    """The value with one to three of its nodes replaced, removed, doubled or renamed."""
    changed = deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        nodes = list(_nodes(changed))
        if not nodes:
            return deepcopy(chance.choice(NASTY))
        parent, key = chance.choice(nodes)
        what = chance.randrange(5)
        if what == 0:
            del parent[key]
        elif what == 1 and isinstance(parent, list):
            parent.insert(key, deepcopy(parent[key]))
        elif what == 2 and isinstance(parent, dict):
            parent[chance.choice(("", "x", key.upper(), f"{key} ", "messages"))] = parent.pop(key)
        elif what == 3:
            parent[key] = _deep(chance.choice((3, 30, 100)))
        else:
            parent[key] = deepcopy(chance.choice(NASTY))
    return changed


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    places = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in list(places):
        yield value, key
        if isinstance(entry, dict | list):
            yield from _nodes(entry)


def _deep(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def torn(content: bytes, chance: random.Random) -> bytes:
    """Bytes cut, doubled, flipped or mixed with what texts do not hold."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randint(0, len(content))
        end = min(len(content), place + chance.randint(1, 40))
        match chance.randrange(6):
            case 0:
                content = content[:place]
            case 1:
                content = content[:place] + content[end:]
            case 2:
                content = content[:end] + content[place:]
            case 3:
                content = content[:place] + chance.randbytes(chance.randint(1, 6)) + content[place:]
            case 4:
                odd = chance.choice((b"\xef\xbb\xbf", b"\x00", b"\r\n", b"\n", b"\t", b"[" * 3000))
                content = content[:place] + odd + content[place:]
            case _:
                content = content.replace(b'"', chance.choice((b"'", b"", b'""')), 3)
    return content


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _line(value: Any, chance: random.Random) -> bytes:
    """A row as it is, mutated in its structure, or in its bytes."""
    what = chance.randrange(3)
    content = _json(mutated(value, chance) if what else value)
    return torn(content, chance) if what == 2 else content


def _write_jsonl(rows: Any, path: Path, chance: random.Random) -> None:
    path.write_bytes(b"\n".join(_line(row, chance) for row in rows))


def _write_edgewise(lines: Any, path: Path, chance: random.Random) -> None:
    path.mkdir(exist_ok=True)
    for name, line in zip(edgewise.FILES, lines, strict=True):
        (path / name).write_bytes(_line(line, chance))


def _write_settings(tree: Any, path: Path, chance: random.Random) -> None:
    what = chance.randrange(3)
    try:
        text = yaml.safe_dump(mutated(tree, chance) if what else tree).encode()
    except (yaml.YAMLError, UnicodeEncodeError, RecursionError):
        text = _json(tree)
    path.write_bytes(torn(text, chance) if what == 2 else text)


def _write_record(tree: Any, path: Path, chance: random.Random) -> None:
    path.write_bytes(_line(tree, chance))


# ---------------------------------------------------------------- readers


def _read_jsonl(path: Path) -> object:
    found = jsonl.scan(path)
    return [jsonl.read_user(user, found.files) for user in found.users]


def _read_edgewise(path: Path) -> object:
    found = edgewise.scan(path)
    return [edgewise.read_user(user, found.files) for user in found.users]


def _read_settings(path: Path) -> object:
    return resolve_settings(STUDIES["per_persona"], config=path)


TARGETS: dict[str, Target] = {
    "jsonl": Target(_jsonl_rows, _write_jsonl, _read_jsonl, (DataError,)),
    "edgewise": Target(_edgewise_lines, _write_edgewise, _read_edgewise, (DataError,)),
    "settings": Target(_settings, _write_settings, _read_settings, (InputError,)),
    "record": Target(_record, _write_record, read_record, (RecordError,)),
}
SUFFIXES = {"jsonl": "x.jsonl", "edgewise": "folder", "settings": "x.yaml", "record": "record.json"}


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise HangError in what takes too long."""

    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz_one(name: str, seed: int, *, folder: Path, told: Told) -> None:
    """One input of a reader, from its seed alone."""
    target, chance = TARGETS[name], random.Random(f"{name}-{seed}")
    path = folder / SUFFIXES[name]
    target.write(target.valid(chance), path, chance)
    began = time.perf_counter()
    try:
        with time_limit():
            target.read(path)
        told.accepted += 1
    except target.errors as error:
        told.refused[type(error).__name__] += 1
    except HangError:
        told.findings.append(f"seed {seed}: took more than {LIMIT_SECONDS:.0f} s")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        told.findings.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
    told.inputs += 1
    told.slowest_seconds = max(told.slowest_seconds, round(time.perf_counter() - began, 4))


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


def fuzz(inputs: int, *, first_seed: int = 0) -> tuple[dict[str, Told], list[float]]:
    """So many inputs over all readers in turn; the process's size at every quarter, MB."""
    told = {name: Told() for name in TARGETS}
    sizes: list[float] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        for number in range(inputs):
            target = list(TARGETS)[number % len(TARGETS)]
            seed = first_seed + number // len(TARGETS)
            fuzz_one(target, seed, folder=Path(name), told=told[target])
            if (number + 1) % max(1, inputs // 4) == 0:
                sizes.append(round(resident_mb(), 1))
    return told, sizes


def grew(sizes: list[float]) -> float:
    """Growth after the first quarter, MB."""
    return round(sizes[-1] - sizes[0], 1) if sizes else 0.0


def main() -> int:
    """Fuzz, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    began = time.perf_counter()
    told, sizes = fuzz(given.inputs, first_seed=given.seed)
    findings = [f"{name}, {text}" for name, one in told.items() for text in one.findings]
    readers: Mapping[str, Any] = {
        name: {
            "inputs": one.inputs,
            "accepted": one.accepted,
            "refused": dict(one.refused),
            "slowest_seconds": one.slowest_seconds,
            "findings": one.findings[:20],
        }
        for name, one in told.items()
    }
    report = {
        "inputs": given.inputs,
        "seconds": round(time.perf_counter() - began, 1),
        "readers": readers,
        "resident_mb_by_quarter": sizes,
        "growth_mb": grew(sizes),
        "findings": len(findings),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 1 if findings or grew(sizes) > GROWTH_MB else 0


if __name__ == "__main__":
    sys.exit(main())
