"""How far adapters move in the micro-update, and whether moving farther goes with gaining more."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from results.contrasts import is_per_user
from results.estimates import Estimate
from results.item_tables import item_lifts
from results.pairing import CollectedTables
from results.stats import item_lift_variances, shrink, spearman

DRIFT_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Shift norms and gains of per-user arms.

    ``users`` has arm, user_id, shift_norm, lift, shrunken_lift, level (``high``, ``low`` or
    ``middle`` quarter of the arm's shift norms); ``steps`` arm, user_id, step, shift_norm (mean
    over seeds); ``correlations`` arm, rho, low, high, p, n_users, note: Spearman of shift norm
    with the (shrunken) gain over the adapter that it started from.
    """

    users: pd.DataFrame
    steps: pd.DataFrame
    correlations: pd.DataFrame


def drift_against_gain(
    collected: CollectedTables,
    *,
    lifts: pd.DataFrame,
    metric: str,
    higher_is_better: bool,
    seed: int,
    resamples: int,
) -> Drift:
    """Drift of every per-user arm against its gain on the primary metric.

    Args:
        collected: Its slots are read, and the items' scores, by whose noise lifts are shrunken.
        lifts: ``Analysis.lifts``.
        metric: The primary metric.
        higher_is_better: The metric's direction.
        seed: Seed of the resamples.
        resamples: How many, for the interval of rho.
    """
    steps = shift_steps(collected.slots)
    tables, correlations = [], []
    for arm in dict.fromkeys(steps["arm"]):
        reference, gains = _gains(lifts, arm=arm, metric=metric)
        last = steps[steps["arm"] == arm].groupby("user_id")["shift_norm"].last()
        table = gains.join(last, how="inner").assign(arm=arm)
        items = item_lifts(
            collected, arm, reference, metric=metric, higher_is_better=higher_is_better
        )
        found, note = _shrunken(table, items)
        table = table.assign(shrunken_lift=found, level=_levels(table["shift_norm"]))
        rho = spearman(
            table["shift_norm"].to_numpy(dtype=float),
            table["shrunken_lift"].to_numpy(dtype=float),
            rng=np.random.default_rng(seed),
            resamples=resamples,
        )
        tables.append(table.rename_axis("user_id").reset_index())
        correlations.append((arm, *_parts(rho), "; ".join(filter(None, (rho.note, note)))))
    columns = ["arm", "user_id", "shift_norm", "lift", "shrunken_lift", "level"]
    users = pd.concat(tables, ignore_index=True)[columns] if tables else _empty(columns)
    names = ["arm", "rho", "low", "high", "p", "n_users", "note"]
    return Drift(users=users, steps=steps, correlations=pd.DataFrame(correlations, columns=names))


def shift_steps(slots: pd.DataFrame) -> pd.DataFrame:
    """``arm, user_id, step, shift_norm`` of per-user arms, mean over seeds, steps from 1.

    Reads ``shift_norms`` (after each step) or, where only that is there, ``shift_norm`` after
    the last one.
    """
    columns = ["arm", "user_id", "step", "shift_norm"]
    per_user = [is_per_user(str(arm)) for arm in slots["arm"]] if len(slots) else []
    chosen = slots[np.array(per_user, dtype=bool)] if len(slots) else slots
    if not len(chosen):
        return _empty(columns)
    parts = [
        (str(row["arm"]), str(row["user_id"]), step, float(norm))
        for row in chosen.to_dict("records")
        for step, norm in _norms(row)
        if np.isfinite(norm)
    ]
    if not parts:
        return _empty(columns)
    table = pd.DataFrame(parts, columns=columns)
    mean = table.groupby(["arm", "user_id", "step"], sort=False)["shift_norm"].mean()
    return mean.reset_index().sort_values(["arm", "user_id", "step"], ignore_index=True)


def _norms(row: Mapping[Hashable, object]) -> list[tuple[int, float]]:
    """Step and shift norm pairs of one slot."""
    norms = row.get("shift_norms")
    if isinstance(norms, Sequence | np.ndarray) and not isinstance(norms, str) and len(norms):
        return list(enumerate(map(float, norms), start=1))
    last, steps = row.get("shift_norm"), row.get("steps")
    if not isinstance(last, int | float):
        return []
    return [(int(steps) if isinstance(steps, int | float) else 1, float(last))]


def _gains(lifts: pd.DataFrame, *, arm: str, metric: str) -> tuple[str, pd.DataFrame]:
    """The adapter that the arm started from (else the baseline), and the lifts over it by user."""
    starts = {"_per_user": "_all", "_cluster_user": "_cluster"}
    end = next((end for end in starts if arm.endswith(end)), "")
    parent = arm.removesuffix(end) + starts[end] if end else "baseline"
    chosen = lifts[lifts["metric"] == metric]
    for reference in (parent, "baseline"):
        found = chosen[chosen["contrast"] == f"{arm} - {reference}"]
        if len(found):
            return reference, found.set_index("user_id")[["lift"]]
    return parent, pd.DataFrame({"lift": pd.Series(dtype=float)})


def _shrunken(table: pd.DataFrame, items: pd.DataFrame) -> tuple[pd.Series, str]:
    """Lifts pulled to their mean as far as items' noise says, and a note where they are not."""
    if not items["user_id"].isin(table.index).any():
        return table["lift"], "lifts as measured, not shrunken: no item scores"
    means, variances = item_lift_variances(items["user_id"], items["lift"])
    found = shrink(means, variances)
    names = np.unique(np.asarray(items["user_id"]))
    return pd.Series(found.values, index=names).reindex(table.index), found.note


def _levels(norms: pd.Series) -> pd.Series:
    """Highest and lowest quarter of shift norms; all middle where there is no spread."""
    low, high = norms.quantile(DRIFT_SHARE), norms.quantile(1 - DRIFT_SHARE)
    if not low < high:
        return pd.Series("middle", index=norms.index)
    names = np.where(norms >= high, "high", np.where(norms <= low, "low", "middle"))
    return pd.Series(names, index=norms.index)


def _parts(found: Estimate) -> tuple[float, float, float, float, int]:
    return found.value, found.low, found.high, found.p, found.n_users


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))
