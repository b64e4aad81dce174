"""The README of exported adapters: what they are, what they were measured at, how to load them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.contrasts import BASELINE
from results.document import markdown_inline
from results.report import environment
from results.wording import arm_title, interval, number, p_text

SHOWN_METRICS = ("rouge_l", "embedding_similarity", "verbosity_error", "nll", "action_f1")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says beside the statistics.

    Attributes:
        arm: the adapters' arm.
        base: hub id or folder of the base model, and the fingerprint of its weights.
        adapter, training: their configs.
        data: source, and the hash of what was prepared from it.
        data_license: of the dialogues; the base model has a license of its own.
        owners: how many adapters there are, and of whom: «12 users».
        folders: folders of the adapters, below the card's own, a few of them.
        stacked: one file instead of PEFT folders.
        commit: of the program.
    """

    arm: str
    base: str
    base_sha256: str
    adapter: Mapping[str, Any]
    training: Mapping[str, Any] | None
    data: str
    data_sha256: str
    data_license: str
    owners: str
    folders: Sequence[str]
    stacked: bool
    commit: str


def model_card(facts: CardFacts, *, stats: Path) -> str:
    """The card as Markdown with the hub's front matter.

    ``stats`` is the study's ``results/stats``; without its tables the card says that there are no
    figures yet.
    """
    return (
        environment(html=False)
        .get_template("model_card.md.j2")
        .render(
            facts=facts,
            title=arm_title(facts.arm),
            # The hub takes ids of models alone, not folders of somebody's machine.
            on_hub=facts.base.count("/") == 1 and not facts.base.startswith(("/", ".", "~")),
            scores=_scores(facts.arm, stats),
            lift=_lift(facts.arm, stats),
        )
    )


def _scores(arm: str, stats: Path) -> list[dict[str, str]]:
    table = _read(stats / "macro.csv")
    if table is None:
        return []
    own = {row["metric"]: row for row in table[table["arm"] == arm].to_dict(orient="records")}
    rows = [(name, own[name]) for name in SHOWN_METRICS if name in own]
    return [
        {
            "metric": markdown_inline(name),
            "mean": number(row["mean"]),
            "interval": interval(row["ci_low"], row["ci_high"]),
            "n": str(int(row["n_users"])),
        }
        for name, row in rows
        if int(row["n_users"])
    ]


def _lift(arm: str, stats: Path) -> str | None:
    """The lift over the baseline on ROUGE-L in one sentence."""
    table = _read(stats / "comparisons.csv")
    if table is None:
        return None
    chosen = (table["contrast"] == f"{arm} - {BASELINE}") & (table["metric"] == "rouge_l")
    if not chosen.any():
        return None
    row = table[chosen].iloc[0]
    ends = interval(row["low"], row["high"], signed=True)
    return (
        f"ROUGE-L over the unadapted base, same users and items: "
        f"{number(row['mean_lift'], signed=True)} {ends}, adjusted {p_text(row['p_adjusted'])}, "
        f"n = {row['n_users']} users; {row['helped']} helped, {row['hurt']} hurt."
    )


def _read(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError):
        return None
