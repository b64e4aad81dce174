"""Does the pipeline find a personal gain where there is one, and none where there is none?

``python -m benchmarks.personal_gain --signal 0 --seeds 10`` makes a new synthetic population for
every seed, trains the all-persona LoRA and the per-user LoRAs with the embedded default's own
settings, and tests *own − swapped* on test items with the study's statistics. With ``--signal 1``
the interval must lie above 0; with ``--signal 0`` it must not, in at least 9 of 10 seeds.

Cells run without Ray, seeds side by side, one thread each, so numbers are those of a study.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.work import synthetic_users
from data.schema import UserData
from data.split import choose_cold_start
from orchestrator.layers import resolve_settings
from orchestrator.plan import Facts, blocks_of, make_plan
from orchestrator.settings import Settings
from results.stats import compare, paired_lifts
from search_spaces.space import BASELINE, LORA_ALL, LORA_PER_USER, Study
from tasks.adapters.bank import AdapterState
from tasks.base_model import BaseModel, load_base
from tasks.trial import run_cell

STUDY = Study("personal_gain", "LoRA arms alone", (BASELINE, LORA_ALL, LORA_PER_USER))


class NoEncoder:
    """Embedding similarity is not asked for here, and costs more than all the rest."""

    name = "none"

    def encode(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """The same unit vector for every text, ``[n, 1]``."""
        return np.ones((len(texts), 1), dtype=np.float32)


def main() -> None:
    """Run the seeds, print a line for each, and the verdict."""
    parser = argparse.ArgumentParser(prog="benchmarks.personal_gain", description=__doc__)
    parser.add_argument("--signal", type=float, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    study = partial(one_seed, signal=options.signal, users=options.users)
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for row in pool.map(study, range(options.seeds)):
            rows.append(row)
            print(json.dumps(row), flush=True)
    above = sum(row["own - swapped"]["low"] > 0 for row in rows)
    print(f"signal {options.signal}: own - swapped above 0 in {above} of {len(rows)} seeds")
    if options.out:
        report = {"signal": options.signal, "rows": rows, "above": above}
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def one_seed(seed: int, *, signal: float, users: int) -> dict[str, Any]:
    """One population, one training seed: macro ROUGE-L of each arm, and the contrasts."""
    settings = resolve_settings(STUDY)
    with tempfile.TemporaryDirectory() as folder:
        people = synthetic_users(Path(folder), users=users, seed=seed, signal=signal)
    scores = run_arms(settings, _warm(people, settings), seed=seed)
    contrasts = [
        ("lora_all", "baseline"),
        ("lora_per_user", "lora_all"),
        ("lora_per_user", "lora_per_user_swapped"),
    ]
    names = ["lora_all - baseline", "lora_per_user - lora_all", "own - swapped"]
    return {
        "seed": seed,
        "macro": {arm: round(float(values.mean()), 4) for arm, values in scores.items()},
        **{
            name: _interval(scores[arm], scores[reference], settings)
            for name, (arm, reference) in zip(names, contrasts, strict=True)
        },
    }


def _warm(people: Sequence[UserData], settings: Settings) -> list[UserData]:
    """The users that a study compares arms on."""
    items = {
        user.persona_id: sum(len(session.item_turns) for session in user.sessions)
        for user in people
    }
    data = settings.data
    cold = choose_cold_start(items, share=data.cold_start_share, seed=data.seed)
    return [user for user in people if user.persona_id not in cold]


def run_arms(settings: Settings, users: Sequence[UserData], *, seed: int) -> dict[str, pd.Series]:
    """ROUGE-L per user (index) of every arm on test."""
    settings = settings.model_copy(update={"seeds": (seed,)})
    base = load_base(settings.model, prompt=settings.prompt, device="cpu")
    facts = Facts(
        data_sha256="",
        items_sha256={"val": "", "test": ""},
        users=tuple(user.user_key for user in users),
        model_sha256=base.fingerprint,
        template_sha256=base.template_sha256,
        dtype="float32",
    )
    assert blocks_of(facts.users, settings.block_users)
    return _scores(make_plan(settings, study=STUDY, facts=facts).cells, users, base)


def _scores(
    cells: Sequence[Any], users: Sequence[UserData], base: BaseModel
) -> dict[str, pd.Series]:
    by_key = {user.user_key: user for user in users}
    states: dict[str, AdapterState] = {}
    frames = []
    for cell in cells:
        if cell.spec.split == "val" and cell.spec.purpose == "evaluate":
            continue
        outcome = run_cell(
            cell.spec,
            users=[by_key[key] for key in cell.spec.users],
            base=base,
            encoder=NoEncoder(),
            parent=states.get(cell.spec.parent or ""),
        )
        if outcome.adapters is not None:
            states[cell.cell_id] = outcome.adapters
        if outcome.items is not None:
            frames.append(outcome.items.assign(arm=cell.arm))
    items = pd.concat(frames)
    arms = items["arm"] + items["control"].map({"own": "", "swapped": "_swapped"})
    means: Mapping[Any, pd.Series] = {
        arm: own.groupby("user_id")["rouge_l"].mean() for arm, own in items.groupby(arms)
    }
    return dict(means)


def _interval(arm: pd.Series, reference: pd.Series, settings: Settings) -> dict[str, float]:
    lifts = paired_lifts(arm.to_numpy(), reference.loc[arm.index].to_numpy(), higher_is_better=True)
    found = compare(
        "contrast",
        "rouge_l",
        lifts,
        margin=settings.statistics.margin,
        rng=np.random.default_rng(settings.statistics.seed),
    )
    return {
        "lift": round(found.mean_lift, 4),
        "low": round(found.ci_low, 4),
        "high": round(found.ci_high, 4),
        "helped": found.helped,
        "hurt": found.hurt,
    }


if __name__ == "__main__":
    main()
