"""Words chosen by the numbers: how a contrast, an interval or an arm is named in every text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from results.contrasts import GATED, SWAPPED

Row = Mapping[str, Any] | pd.Series
Verdict = Literal[
    "higher",
    "lower",
    "perhaps higher",
    "perhaps lower",
    "test alone",
    "within margin",
    "no evidence",
    "n/a",
]
ALPHA = 0.05
FEW_USERS = 50
LIBERAL = (
    "with so few users the percentile interval is too short: in simulation at 12 and 20 users it "
    "misses the true mean some 9 and 7 % of the time instead of 5 %"
)
SKEWED = (
    "in simulation with heavy-tailed lifts (Student's t, 3 degrees of freedom) the BCa interval "
    "covers the true mean in 87, 89 and 93 % of studies of 12, 20 and 200 users instead of 95 %, "
    "the percentile interval in 90, 92 and 94 %"
)
SEEDED = (
    "over users and seeds that move all users together, the interval errs on the wide side: of 50 "
    "users and 3 seeds it covers in 95.5 to 97.7 % of studies"
)
ONE_SEED = (
    "one training seed: the intervals hold for these trained adapters and carry no claim about "
    "training noise"
)
_GROUPS = {
    "_cluster_user": "Cluster-then-user",
    "_per_user": "Per-user",
    "_cluster": "Per-cluster",
    "_all": "All-persona",
}
ADAPTERS = {"lora": "LoRA", "prefix": "prefix"}
SLICE_TITLES = {
    "routine_driven": "Routine-driven sessions",
    "spontaneous": "Spontaneous sessions",
    "first_turn": "First turn",
    "later_turns": "Later turns",
}
_UNTRAINED = {"baseline": "Baseline", "few_shot": "Few-shot prompt"}


def arm_title(arm: str) -> str:
    """An arm's name for people: ``lora_per_user_swapped`` is «Per-user LoRA, swapped»."""
    if arm in _UNTRAINED:
        return _UNTRAINED[arm]
    plain = arm.removesuffix(SWAPPED).removesuffix(GATED)
    end = next((end for end in _GROUPS if plain.endswith(end)), "")
    stem = plain.removesuffix(end)
    title = f"{_GROUPS[end]} {ADAPTERS.get(stem, stem)}" if end else plain.replace("_", " ")
    if arm.endswith(GATED):
        return f"{title} behind the gate"
    return title + (", swapped" if arm.endswith(SWAPPED) else "")


def contrast_title(contrast: str) -> str:
    """«Per-user LoRA, own − swapped» of ``lora_per_user - lora_per_user_swapped``."""
    arm, _, reference = contrast.partition(" - ")
    if reference == arm + SWAPPED:
        return f"{arm_title(arm)}, own − swapped"
    left, right = arm_title(arm), arm_title(reference)
    return f"{left} − {right[0].lower()}{right[1:]}" if reference else left


def number(value: float | None, *, digits: int = 3, signed: bool = False) -> str:
    """A number with fixed digits and a true minus sign; «n/a» for what cannot be had."""
    if value is None or not math.isfinite(value):
        return "n/a"
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def interval(low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    """«[0.021, 0.043]», or «n/a» without both ends."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "n/a"
    ends = (number(end, digits=digits, signed=signed) for end in (low, high))
    return f"[{', '.join(ends)}]"


def interval_or_note(row: Row) -> str:
    """A signed interval, or why there is none: «(no interval: one user)»."""
    if math.isfinite(row["low"]) and math.isfinite(row["high"]):
        return interval(row["low"], row["high"], signed=True)
    return f"(no interval: {str(row['note']).removeprefix('n/a: ')})"


def p_text(p: float, *, name: str = "p") -> str:
    """«p = 0.013», «p < 0.001» or «p n/a»."""
    if not math.isfinite(p):
        return f"{name} n/a"
    return f"{name} < 0.001" if p < 0.001 else f"{name} = {p:.3f}"


def p_number(p: float) -> str:
    """«0.013», «< 0.001» or «n/a»: a p under its own header."""
    return p_text(p).removeprefix("p ").removeprefix("= ")


def share(value: float) -> str:
    """A share as a percentage without decimals; «n/a» where there is none."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else "n/a"


def plural(count: int, noun: str) -> str:
    """«1 user», «12 users»."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def bounds(row: Row) -> tuple[float, float]:
    """The interval that is reported: over users and seeds where there are several seeds."""
    return float(row["low"]), float(row["high"])


def verdict(row: Row) -> Verdict:
    """What the interval and the adjusted test allow to be said of one contrast.

    ``higher`` and ``lower`` need the interval and the adjusted p; ``perhaps`` is the interval
    alone, ``test alone`` the adjusted p alone; ``within margin`` needs TOST, over seeds too where
    there are several. Nothing here ever says that there is no difference.
    """
    low, high = bounds(row)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "n/a"
    sure = float(row["p_adjusted"]) < ALPHA
    if low > 0:
        return "higher" if sure else "perhaps higher"
    if high < 0:
        return "lower" if sure else "perhaps lower"
    if sure:
        return "test alone"
    return "within margin" if tost_p(row) < ALPHA else "no evidence"


def several_seeds(row: Row) -> bool:
    """Whether the interval to report is one over users and seeds."""
    return int(row.get("n_seeds", 1)) > 1


def tost_p(row: Row) -> float:
    """p of equivalence; with several seeds the larger one of users alone and users and seeds."""
    alone = float(row["p_tost"])
    if not several_seeds(row):
        return alone
    both = float(row.get("seeds_p_tost", math.nan))
    return max(alone, both) if math.isfinite(alone) and math.isfinite(both) else math.nan


def detectable(row: Row) -> float:
    """Smallest detectable lift; with several seeds that over users and seeds."""
    if several_seeds(row):
        return float(row.get("seeds_mde80", math.nan))
    return float(row["mde80"])


def finding(row: Row, *, metric: str, margin: float, name: str | None = None) -> str:
    """One sentence on one contrast, in words that its statistics support.

    ``metric`` is what the lift is measured in, «ROUGE-L» or «words of verbosity error»; ``name``
    is what the sentence is about, the contrast unless given.
    """
    said = verdict(row)
    name = name or contrast_title(str(row["contrast"]))
    if said == "n/a":
        mean = float(row["mean_lift"])
        measured = f"; measured mean {number(mean, signed=True)}" if math.isfinite(mean) else ""
        return f"**{name}**: n/a, {reason(row)}{measured}."
    tail = f"(n = {row['n_users']}, adjusted {p_text(float(row['p_adjusted']))})"
    size = (
        f"mean lift {number(float(row['mean_lift']), signed=True)} {metric}, 95 % interval "
        f"{interval(*bounds(row), signed=True)} {tail}"
    )
    return f"**{name}**: {phrase(row, said)}; {size}{_beside(row, margin=margin)}."


_PHRASES: dict[Verdict, str] = {
    "higher": "evidence of a gain",
    "lower": "evidence of a loss",
    "perhaps higher": "the interval lies above 0, but the adjusted test does not confirm a gain",
    "perhaps lower": "the interval lies below 0, but the adjusted test does not confirm a loss",
    "test alone": "the adjusted test finds a difference, but the interval holds 0: not confirmed",
    "within margin": "no evidence of a difference",
    "no evidence": "no evidence of a difference",
}


def phrase(row: Row, said: Verdict) -> str:
    """The verdict as the main clause of a sentence."""
    if said == "no evidence" and float(row["mean_lift"]) == 0 and not any(bounds(row)):
        return "every user scores the same on both sides"
    if said == "test alone" and several_seeds(row):
        return (
            "the test over users finds a difference for these seeds, but the interval over users "
            "and seeds holds 0: not confirmed"
        )
    return _PHRASES[said]


def _beside(row: Row, *, margin: float) -> str:
    """What must be read beside the main clause: power, equivalence, tests that disagree."""
    parts, said = [], verdict(row)
    if said in ("within margin", "test alone") and tost_p(row) < ALPHA:
        size = p_text(tost_p(row), name="TOST p")
        parts.append(f"; the mean lies within the margin of ±{margin:g} ({size})")
    if said not in ("higher", "lower"):
        over = ", over users and seeds" if several_seeds(row) else ""
        mde = number(detectable(row))
        parts.append(f"; the smallest detectable lift was {mde} (80 % power{over})")
    if row["flag"]:
        parts.append(f"; {spoken_tests(str(row['flag']))}")
    return "".join(parts)


_TEST_NAMES = {
    "p_permutation": "permutation test",
    "p_wilcoxon": "Wilcoxon",
    "p_sign": "sign test",
    "p_t": "t test",
    "bca": "BCa interval",
    "ci": "percentile interval",
}


def spoken_tests(flag: str) -> str:
    """A flag with the tests' names instead of their columns."""
    words = [
        _TEST_NAMES.get(word.strip(",;"), word.strip(",;")) + word[len(word.rstrip(",;")) :]
        for word in flag.split()
    ]
    return " ".join(words)


def reason(row: Row) -> str:
    """Why a contrast has no interval: the «n/a» parts of its note."""
    parts = [part.strip() for part in str(row["note"]).split(";")]
    told = [part.removeprefix("n/a: ") for part in parts if part.startswith("n/a")]
    return "; ".join(told) or "there is no interval"


def caution(n_users: int, n_seeds: int) -> str:
    """What a reader must know before trusting the intervals; empty where nothing."""
    parts = []
    if n_seeds == 1:
        parts.append(ONE_SEED)
    elif n_seeds == 2:
        parts.append("two training seeds: three are needed for a claim about training noise")
    if 1 < n_users < FEW_USERS:
        parts.append(LIBERAL)
    return "; ".join(parts)
