"""A small ledger with plausible numbers, made through the ledger's own door."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.collector import ExpectedCell
from results.ledger import Ledger

ARMS = {
    "baseline": ("none", "none", 0.50),
    "prefix_all": ("all", "prefix", 0.56),
    "lora_all": ("all", "lora", 0.60),
    "prefix_per_user": ("user", "prefix", 0.62),
    "lora_per_user": ("user", "lora", 0.70),
}
METRICS = {
    "rouge_l": {"higher_is_better": True, "unit": "F", "title": "ROUGE-L"},
    "verbosity_error": {"higher_is_better": False, "unit": "words", "title": "Verbosity error"},
    "embedding_similarity": {"higher_is_better": True, "unit": "cosine", "title": "Similarity"},
    "nll": {"higher_is_better": False, "unit": "nats/token", "title": "NLL of the true reply"},
    "output_length_std": {"higher_is_better": False, "unit": "words", "title": "Length spread"},
}
ITEMS_PER_USER = 6


def cell_name(arm: str, *, seed: int, block: int, kind: str = "test") -> str:
    return f"{arm}-{kind}-s{seed}-b{block}".replace("_", "")


def fake_ledger(
    workspace: Path,
    *,
    users: int = 6,
    seeds: int = 1,
    arms: Sequence[str] = tuple(ARMS),
    block_users: int = 3,
) -> tuple[Ledger, list[ExpectedCell]]:
    """The ledger and the plan behind it; numbers depend on (arm, user, seed) alone."""
    ledger = Ledger(workspace)
    keys = [f"user_{i}" for i in range(users)]
    blocks = [tuple(keys[i : i + block_users]) for i in range(0, users, block_users)]
    expected: list[ExpectedCell] = []
    for arm in arms:
        for seed in range(seeds if arm != "baseline" else 1):
            if arm.endswith("_all"):
                expected.append(_train_cell(ledger, arm, seed, tuple(keys)))
            for number, block in enumerate(blocks):
                expected.append(_scored_cell(ledger, arm, seed, number, block))
    return ledger, expected


def spec_of(
    arm: str, *, purpose: str, seed: int, users: Sequence[str], split: str
) -> dict[str, Any]:
    grouping, adapter, _ = ARMS[arm]
    return {
        "arm": arm,
        "purpose": purpose,
        "grouping": grouping,
        "adapter": None if adapter == "none" else {"kind": adapter},
        "seed": seed,
        "split": split,
        "users": list(users),
        "parent": None,
        "items_sha256": f"items-{split}",
        "data_sha256": "data",
        "model_sha256": "model",
        "decoding": {"do_sample": False},
        "evaluation": {"encoder": "embedded"},
        "prompt": {"system": "Be helpful."},
    }


def commit(ledger: Ledger, cell_id: str, spec: dict[str, Any], **made: Any) -> None:
    staging = stage(ledger, cell_id, spec, **made)
    ledger.commit(cell_id, staging=staging, attempts=1, environment={"python": "3"})


def stage(
    ledger: Ledger,
    cell_id: str,
    spec: dict[str, Any],
    *,
    slots: Sequence[dict[str, Any]] = (),
    items: pd.DataFrame | None = None,
    curve: Sequence[dict[str, float]] = (),
    extra: Mapping[str, bytes] | None = None,
    attempt: str = "attempt",
) -> Path:
    """What a trial leaves; the folder of its files."""
    staging = ledger.staging / f"{cell_id}-{attempt}"
    staging.mkdir(parents=True)
    if items is not None:
        items.to_parquet(staging / "items.parquet", index=False)
    for name, content in (extra or {}).items():
        (staging / name).write_bytes(content)
    outcome = {
        "spec": spec,
        "slots": list(slots),
        "curve": list(curve),
        "seconds": {"total": 1.0},
        "counts": {"generated_tokens": 10},
        "metrics": METRICS,
    }
    (staging / "outcome.json").write_text(json.dumps(outcome))
    return staging


def slot(name: str, *, steps: int = 4, shift: float = 1.0, **own: Any) -> dict[str, Any]:
    norms = [shift * (k + 1) / steps for k in range(steps)]
    return {
        "slot": name,
        "status": "ok",
        "reason": None,
        "steps": steps,
        "examples": 10,
        "trained_tokens": 200,
        "losses": [1.0 / (k + 1) for k in range(steps)],
        "shift_norms": norms,
        **own,
    }


def _train_cell(ledger: Ledger, arm: str, seed: int, users: tuple[str, ...]) -> ExpectedCell:
    cell_id = cell_name(arm, seed=seed, block=0, kind="train")
    spec = spec_of(arm, purpose="train", seed=seed, users=users, split="val")
    curve = [
        {"epoch": float(k), "step": 4.0 * (k + 1), "train_loss": 1 / (k + 1),
         "val_rouge_l": 0.5 + k / 20}
        for k in range(3)
    ]  # fmt: skip
    commit(ledger, cell_id, spec, slots=[slot("all")], curve=curve)
    return ExpectedCell(cell_id, arm, seed, users, "val", "train")


def _scored_cell(
    ledger: Ledger, arm: str, seed: int, number: int, block: tuple[str, ...]
) -> ExpectedCell:
    cell_id = cell_name(arm, seed=seed, block=number)
    personal = arm.endswith("_per_user")
    purpose = "personalize" if personal else "evaluate"
    spec = spec_of(arm, purpose=purpose, seed=seed, users=block, split="test")
    frames = [items_of(arm, seed, user, "own") for user in block]
    if personal:
        frames += [items_of(arm, seed, user, "swapped") for user in block]
    slots = [slot(user, shift=0.5 + k) for k, user in enumerate(block)]
    commit(ledger, cell_id, spec, slots=slots, items=pd.concat(frames, ignore_index=True))
    return ExpectedCell(cell_id, arm, seed, block, "test", purpose)


def items_of(arm: str, seed: int, user: str, control: str) -> pd.DataFrame:
    """Items of one user, numbers drawn from a stream of their own."""
    number = int(user.rpartition("_")[2])
    kind = list(ARMS).index(arm)
    rng = np.random.default_rng([kind, seed, number, control == "own"])
    level = ARMS[arm][2] - (0.08 if control == "swapped" else 0.0)
    n = ITEMS_PER_USER
    return pd.DataFrame(
        {
            "item_id": [f"{user}/{40 + k // 2}/{1 + 2 * (k % 2)}" for k in range(n)],
            "user_id": user,
            "session_id": [40 + k // 2 for k in range(n)],
            "turn": [1 + 2 * (k % 2) for k in range(n)],
            "control": control,
            "adapter_of": user,
            "routine_driven": [k < 4 for k in range(n)],
            "query": [f"Could you do thing {k}?" for k in range(n)],
            "reference": [f"Thing {k} is done for you." for k in range(n)],
            "output": [f"Thing {k} is done, {arm}." for k in range(n)],
            "output_tokens": 8,
            "output_words": 5 + rng.integers(0, 4, n),
            "rouge_l": np.clip(level + 0.02 * number + rng.normal(0, 0.05, n), 0, 1),
            "verbosity_error": rng.uniform(0, 4, n),
            "embedding_similarity": np.clip(level + 0.1 + rng.normal(0, 0.05, n), -1, 1),
            "nll": rng.uniform(0.4, 1.2, n),
        }
    )
