"""What a caption says of a figure's size: n, seeds and items of just what is drawn.

Every function takes the names that a figure shows and returns ``Size``, which is asked with the
study's numbers: «8 users, 1 to 3 seeds, test items».
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from results.analysis import Analysis
from results.cold_warm import STARTS
from results.contrasts import BASELINE
from results.pairing import CollectedTables
from results.wording import plural

Size = Callable[[Analysis, CollectedTables], str]
Names = Callable[[Analysis], Sequence[str]]


def spread(counts: Iterable[float], noun: str) -> str:
    """«8 users», or «7 to 8 users» where it is not the same everywhere."""
    known = sorted({int(count) for count in counts})
    if len(known) < 2:
        return plural(known[0] if known else 0, noun)
    return f"{known[0]:,} to {plural(known[-1], noun)}"


def _sized(rows: pd.DataFrame, analysis: Analysis) -> str:
    """Users and seeds of the rows that have a number, and the items that all arms answer."""
    rows = rows[rows["n_users"] > 0]
    users, seeds = spread(rows["n_users"], "user"), spread(rows["n_seeds"], "seed")
    return f"{users}, {seeds}, {analysis.split} items"


def of_scores(arms: Names, metrics: Names) -> Size:
    """Macro scores of arms on metrics."""

    def size(analysis: Analysis, _: CollectedTables) -> str:
        table = analysis.macro
        shown = table["arm"].isin(arms(analysis)) & table["metric"].isin(metrics(analysis))
        return _sized(table[shown], analysis)

    return size


def of_contrasts(contrasts: Names, metrics: Names | None = None) -> Size:
    """Contrasts, on the primary metric unless others are named."""

    def size(analysis: Analysis, _: CollectedTables) -> str:
        table = analysis.comparisons
        wanted = [analysis.primary_metric] if metrics is None else metrics(analysis)
        shown = table["contrast"].isin(contrasts(analysis)) & table["metric"].isin(wanted)
        return _sized(table[shown], analysis)

    return size


def over_baseline(arms: Names) -> Names:
    """The arms' contrasts with the baseline."""
    return lambda analysis: [f"{arm} - {BASELINE}" for arm in arms(analysis)]


def of_slices(arms: Names) -> Size:
    """Contrasts with the baseline by kind of items: a user may have none of a kind."""

    def size(analysis: Analysis, collected: CollectedTables) -> str:
        names, table = over_baseline(arms), analysis.slices
        shown = table["contrast"].isin(names(analysis)) & (table["n_users"] > 0)
        return _of(table[shown]["n_users"], of_contrasts(names)(analysis, collected))

    return size


def _of(users: Iterable[float], size: str) -> str:
    """Seeds and items as they are, of other users."""
    return ", ".join([spread(users, "user"), *size.split(", ")[1:]])


def of_clusters(analysis: Analysis, collected: CollectedTables) -> str:
    """Users that have a cluster, and how many clusters they are in."""
    table = analysis.clusters
    whole = of_contrasts(lambda _: list(table["contrast"]))(analysis, collected)
    whole = _of(table.groupby("contrast")["n_users"].sum(), whole)
    clusters = plural(table["cluster"].nunique(), "cluster")
    return whole.replace(", ", f" in {clusters}, ", 1)


def of_trainings(_: Analysis, collected: CollectedTables) -> str:
    """Curves of shared adapters; they are of no test item."""
    runs = collected.curves[["arm", "seed"]].drop_duplicates()
    arms, seeds = plural(runs["arm"].nunique(), "arm"), plural(runs["seed"].nunique(), "seed")
    return f"{plural(len(runs), 'curve')} ({arms}, {seeds}), training and validation items"


def of_steps(analysis: Analysis, collected: CollectedTables) -> str:
    """Users whose micro-update is drawn, mean over seeds; no item is answered in it."""
    users = analysis.drift.steps.groupby("arm")["user_id"].nunique()
    seeds = _update_seeds(collected, users.index)
    return f"{spread(users, 'user')}, mean over {seeds}, exchanges of the online slice"


def of_drift(analysis: Analysis, collected: CollectedTables) -> str:
    """Users with a shift norm and a gain; the gain alone is of items."""
    found = analysis.drift.users.groupby("arm")["user_id"].nunique()
    seeds = _update_seeds(collected, found.index)
    return f"{spread(found, 'user')}, mean over {seeds}, {analysis.split} items for the gain"


def _update_seeds(collected: CollectedTables, arms: Iterable[object]) -> str:
    slots = collected.slots[collected.slots["arm"].isin([str(arm) for arm in arms])]
    return spread(slots.groupby("arm", observed=True)["seed"].nunique(), "seed")


def of_starts(analysis: Analysis, _: CollectedTables) -> str:
    """Users of the cold and of the warm start."""
    found = analysis.cold_warm
    users = " and ".join(plural(found.n_users(start), f"{start}-start user") for start in STARTS)
    return f"{users}, {spread(found.table['n_seeds'], 'seed')}, {analysis.split} items"
