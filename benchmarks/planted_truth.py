"""Simulated studies whose truth is known, and what the statistics make of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from results.effect_sizes import minimal_detectable_effect
from results.estimates import seed_interval
from results.paired_tests import (
    WILCOXON_EXACT_USERS,
    benjamini_hochberg,
    holm,
    mcnemar,
    paired_t,
    sign_flip,
    tost,
)
from results.resampling import Floats, crossed_bootstrap, percentile_interval
from results.seed_spread import crossed_tost
from results.stats import (
    cluster_lifts,
    no_harm_gate,
    paired_statistics,
)

ALPHA = 0.05
BATCH = 500
USERS = (12, 20, 200)
MARGIN = 0.5
FAMILY = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One rate found in simulation, what it should be, and whether acceptance asks for it."""

    question: str
    lifts: str
    n_users: int
    studies: int
    rate: float
    standard_error: float
    nominal: float | None
    low: float | None
    high: float | None
    required: bool
    passed: bool
    remark: str


def finding(
    question: str,
    hits: ArrayLike,
    *,
    lifts: str,
    n_users: int,
    nominal: float | None = None,
    low: float | None = None,
    high: float | None = None,
    required: bool = True,
) -> Finding:
    """Sum up one share or yes/no per study; ``passed``: the rate lies within its bounds."""
    shares = np.asarray(hits, dtype=np.float64)
    rate = float(shares.mean())
    return Finding(
        question=question,
        lifts=lifts,
        n_users=n_users,
        studies=len(shares),
        rate=rate,
        standard_error=float(shares.std() / np.sqrt(len(shares))),
        nominal=nominal,
        low=low,
        high=high,
        required=required,
        passed=(low is None or rate >= low) and (high is None or rate <= high),
        remark="" if nominal is None else off_nominal(rate, nominal, len(shares)),
    )


def off_nominal(rate: float, nominal: float, studies: int) -> str:
    """How far a rate misses its nominal value; empty within three standard errors."""
    off = 100 * (rate - nominal)
    if abs(off) <= 300 * float(np.sqrt(nominal * (1 - nominal) / studies)):
        return ""
    return f"{abs(off):.1f} points {'above' if off > 0 else 'below'} nominal"


def at_most(level: float, studies: int) -> float:
    """The level and three standard errors of a rate at that level."""
    return level + 3 * float(np.sqrt(level * (1 - level) / studies))


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Standard normal lifts."""
    return rng.normal(size=shape)


def student3(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Symmetric lifts with heavy tails."""
    return rng.standard_t(3, size=shape)


def tied(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Symmetric lifts on five values, four tenths of them zero."""
    return rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0], shape, p=[0.1, 0.2, 0.4, 0.2, 0.1])


LIFTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": normal,
    "t3": student3,
    "tied": tied,
}


def stream(name: str, seed: int) -> np.random.Generator:
    """The generator of one part of the benchmark, the same whatever else is run."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def batches(studies: int) -> Iterator[int]:
    """Batch sizes that add up to the number of studies."""
    for start in range(0, studies, BATCH):
        yield min(BATCH, studies - start)


def null_studies(
    name: str, n_users: int, *, studies: int, resamples: int, seed: int
) -> dict[str, Floats]:
    """All statistics of studies whose true lift is 0: arrays ``[studies]`` by name."""
    rng = stream(f"null {name} {n_users}", seed)
    parts = [
        paired_statistics(
            LIFTS[name](rng, (n_users, size)), margin=MARGIN, rng=rng, resamples=resamples
        )
        for size in batches(studies)
    ]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def is_exact(test: str, name: str, n_users: int) -> bool:
    """Whether a test promises its level: sign tests always, ranks in small tables, t on normal."""
    if test == "p_wilcoxon":
        return n_users <= WILCOXON_EXACT_USERS
    return test in ("p_sign", "p_permutation") or (test == "p_t" and name == "normal")


def null_findings(name: str, n_users: int, numbers: dict[str, Floats]) -> list[Finding]:
    """Rejections of a true null by each test, and how often the intervals hold the truth."""
    studies = len(numbers["p_t"])
    found = []
    for test in ("p_t", "p_wilcoxon", "p_permutation", "p_sign"):
        both_sides = test == "p_t" and name == "normal" and n_users == 200
        # 4.5 to 5.5 % is asked of 20,000 studies; fewer scatter more.
        slack = max(0.005 if both_sides else 0.0, at_most(ALPHA, studies) - ALPHA)
        found.append(
            finding(
                f"{test} rejects a true null",
                numbers[test] <= ALPHA,
                lifts=name,
                n_users=n_users,
                nominal=ALPHA,
                low=ALPHA - slack if both_sides else None,
                high=ALPHA + slack,
                required=is_exact(test, name, n_users),
            )
        )
    floor = {20: 0.92, 200: 0.93}.get(n_users)
    for title, key in (("percentile", "ci"), ("BCa", "bca")):
        found.append(
            finding(
                f"{title} interval holds the truth",
                (numbers[f"{key}_low"] <= 0) & (numbers[f"{key}_high"] >= 0),
                lifts=name,
                n_users=n_users,
                nominal=0.95,
                low=floor,
                required=name == "normal" and floor is not None,
            )
        )
    return found


def tost_findings(*, studies: int, seed: int) -> list[Finding]:
    """TOST under its own null: the true lift is the margin itself."""
    found = []
    for name, n_users in (("normal", 20), ("normal", 200), ("t3", 200), ("tied", 200)):
        rng = stream(f"tost {name} {n_users}", seed)
        p = tost(LIFTS[name](rng, (n_users, studies)) + MARGIN, margin=MARGIN)
        found.append(
            finding(
                "TOST calls a lift as large as the margin equivalent",
                p <= ALPHA,
                lifts=name,
                n_users=n_users,
                nominal=ALPHA,
                high=at_most(ALPHA, studies),
                required=name == "normal",
            )
        )
    return found


def power_findings(*, studies: int, seed: int) -> list[Finding]:
    """Power of t and sign-flip at the lift that typical studies state as detectable."""
    found = []
    slack = max(0.03, 3 * float(np.sqrt(0.8 * 0.2 / studies)))
    for n_users in (20, 200):
        rng = stream(f"power {n_users}", seed)
        stated = float(np.median(minimal_detectable_effect(rng.normal(size=(n_users, studies)))))
        lifts = rng.normal(size=(n_users, studies)) + stated
        # The sign-flip is drawn per batch, with fewer flips: its power hardly needs more.
        flips = [
            sign_flip(lifts[:, start : start + BATCH], rng=rng, permutations=1_999)
            for start in range(0, studies, BATCH)
        ]
        for test, p in (("t", paired_t(lifts)[1]), ("sign-flip", np.concatenate(flips))):
            found.append(
                finding(
                    f"{test} finds the stated MDE",
                    p <= ALPHA,
                    lifts="normal",
                    n_users=n_users,
                    nominal=0.8,
                    low=0.8 - slack,
                    high=0.8 + slack,
                    required=test == "t",
                )
            )
    return found


def family_findings(*, studies: int, seed: int, n_users: int = 50) -> list[Finding]:
    """Any false alarm in families of null contrasts that share their baseline."""
    rng = stream("family", seed)
    alarms: dict[str, list[bool]] = {"none": [], "holm": [], "benjamini-hochberg": []}
    for size in batches(studies):
        baseline = rng.normal(size=(n_users, size, 1))
        arms = rng.normal(size=(n_users, size, FAMILY))
        p = paired_t((arms - baseline).reshape(n_users, -1))[1].reshape(size, FAMILY)
        for row in p:
            alarms["none"].append(bool((row <= ALPHA).any()))
            alarms["holm"].append(bool((holm(row) <= ALPHA).any()))
            alarms["benjamini-hochberg"].append(bool((benjamini_hochberg(row) <= ALPHA).any()))
    return [
        finding(
            f"any false alarm among {FAMILY} null contrasts, correction: {rule}",
            hits,
            lifts="normal",
            n_users=n_users,
            nominal=ALPHA,
            high=at_most(ALPHA, studies),
            required=rule == "holm",
        )
        for rule, hits in alarms.items()
    ]


def mcnemar_findings(*, studies: int, seed: int, n_users: int = 200) -> list[Finding]:
    """McNemar where both models answer equally well."""
    rng = stream("mcnemar", seed)
    hard = rng.random((studies, n_users))
    first, second = (rng.random((studies, n_users)) < hard for _ in range(2))
    p = np.array([mcnemar(a, b)[2] for a, b in zip(first, second, strict=True)])
    return [
        finding(
            "McNemar rejects a true null",
            p <= ALPHA,
            lifts="answers",
            n_users=n_users,
            nominal=ALPHA,
            high=at_most(ALPHA, studies),
        )
    ]


Ends = tuple[float, float]


def reported(lifts: Floats, rng: np.random.Generator) -> Ends:
    """The interval that reports give where adapters are shared."""
    found = seed_interval(lifts, nested=False, rng=rng, resamples=999)
    return found.low, found.high


def within_users(lifts: Floats, rng: np.random.Generator) -> Ends:
    """The interval that reports give where seeds nest in users."""
    found = seed_interval(lifts, nested=True, rng=rng, resamples=999)
    return found.low, found.high


def resampled(lifts: Floats, rng: np.random.Generator) -> Ends:
    """Users and seeds resampled apart: what the reported interval is compared with."""
    low, high = percentile_interval(crossed_bootstrap(lifts, rng=rng, resamples=999))
    return float(low[0]), float(high[0])


def seed_studies(
    rng: np.random.Generator, *, studies: int, n_users: int, seeds: int, shared: float
) -> Iterator[Floats]:
    """Lifts ``[n_users, seeds]`` whose true mean is 0, study by study.

    Users differ by 1 and items add 0.5; a shared seed moves everybody by ``shared``.
    """
    for _ in range(studies):
        lifts = rng.normal(size=(n_users, 1)) + rng.normal(0, 0.5, (n_users, seeds))
        yield lifts + rng.normal(0, shared, seeds)


SEED_CASES: tuple[tuple[Callable[[Floats, np.random.Generator], Ends], str, int, float], ...] = (
    (reported, "crossed", 3, 0.0),
    (reported, "crossed", 3, 0.1),
    (reported, "crossed", 3, 0.5),
    (reported, "crossed", 3, 2.0),
    (reported, "crossed", 2, 0.5),
    (reported, "crossed", 5, 0.5),
    (resampled, "crossed, bootstrap instead", 3, 0.1),
    (resampled, "crossed, bootstrap instead", 3, 0.5),
    (resampled, "crossed, bootstrap instead", 3, 2.0),
    (within_users, "nested", 3, 0.0),
)
"""Interval, its name, seeds, and how far a seed moves all users (users differ by 1)."""


def seed_findings(*, studies: int, seed: int, n_users: int = 50) -> list[Finding]:
    """Coverage over users and few seeds, and equivalence claimed at the margin's edge."""
    found = []
    count = min(studies, 4_000)
    for ends, title, seeds, shared in SEED_CASES:
        rng = stream(f"seeds {title} {seeds} {shared}", seed)
        holds = []
        for lifts in seed_studies(rng, studies=count, n_users=n_users, seeds=seeds, shared=shared):
            low, high = ends(lifts, rng)
            holds.append(low <= 0 <= high)
        found.append(
            finding(
                f"interval over users and {seeds} seeds holds the truth ({title}; a seed moves "
                f"users by {shared:g} of their spread)",
                holds,
                lifts="normal",
                n_users=n_users,
                nominal=0.95,
                low=0.93,
                required=ends is not resampled,
            )
        )
    return [*found, *seed_tost_findings(studies=count, seed=seed, n_users=n_users)]


def seed_tost_findings(*, studies: int, seed: int, n_users: int) -> list[Finding]:
    """Equivalence over users and three seeds where the true lift is the margin itself."""
    found = []
    for shared in (0.1, 0.5):
        rng = stream(f"seeds tost {shared}", seed)
        claims = [
            crossed_tost(lifts + MARGIN, margin=MARGIN) < ALPHA
            for lifts in seed_studies(rng, studies=studies, n_users=n_users, seeds=3, shared=shared)
        ]
        found.append(
            finding(
                "TOST over users and 3 seeds calls a lift as large as the margin equivalent "
                f"(a seed moves users by {shared:g} of their spread)",
                claims,
                lifts="normal",
                n_users=n_users,
                nominal=ALPHA,
                high=at_most(ALPHA, studies),
            )
        )
    return found


def gate_findings(*, studies: int, seed: int, n_users: int = 200) -> list[Finding]:
    """Users with a planted harm: what the no-harm gate finds and what it spares them.

    A fifth of the users is harmed, a fifth gains as much, the others have no effect; ten
    validation items each, as in a study. Sizes are in standard deviations of one item's lift.
    """
    rng = stream("gate", seed)
    fifth = n_users // 5
    signs = np.repeat([-1.0, 0.0, 1.0], [fifth, n_users - 2 * fifth, fifth])
    found = []
    for size, floor in ((1.0, 0.95), (0.5, None)):
        truth = size * signs
        noise = rng.normal(0, np.sqrt(1 / 10), (min(studies, 2_000), n_users))
        kept = no_harm_gate(truth + noise)
        shares = {
            "rolls a harmed user back": (~kept[:, truth < 0]).mean(axis=1),
            "keeps a helped user's adapter": kept[:, truth > 0].mean(axis=1),
            "raises the true mean lift": (truth * kept).mean(axis=1) > truth.mean(),
        }
        found += [
            finding(
                f"no-harm gate {question}, effect {size} item SD",
                hits,
                lifts="harm planted",
                n_users=n_users,
                low=floor,
                required=floor is not None,
            )
            for question, hits in shares.items()
        ]
    return found


def cluster_findings(*, studies: int, seed: int, n_users: int = 20) -> list[Finding]:
    """Fairness gate: a cluster at the margin's edge must not pass, a harmed one be the worst."""
    rng = stream("clusters", seed)
    labels = np.repeat(np.arange(5), n_users)
    truth = np.where(labels == 3, -MARGIN, 1.0)
    passed, worst = [], []
    for _ in range(min(studies, 5_000)):
        first = cluster_lifts(truth + rng.normal(size=len(labels)), labels, margin=MARGIN)[0]
        worst.append(first.cluster == "3")
        passed.append(first.passes)
    case = "four good clusters, one at -margin"
    return [
        finding(
            "fairness gate passes a cluster at the margin",
            passed,
            lifts=case,
            n_users=n_users,
            nominal=0.025,
            high=at_most(0.025, len(passed)),
        ),
        finding(
            "the harmed cluster is named as the worst", worst, lifts=case, n_users=n_users, low=0.95
        ),
    ]
