"""What a study's numbers cannot say: told before everything else, in line 1."""

from __future__ import annotations

import pandas as pd

from results.analysis import Analysis
from results.contrasts import BASELINE
from results.report_tables import title_of
from results.wording import plural


def scoring_warnings(table: pd.DataFrame, analysis: Analysis) -> tuple[str, ...]:
    """A sentence on each metric that is 0 throughout, and on replies with nothing to score.

    Args:
        table: the collector's scores.
        analysis: made from them.
    """
    scored = table[(table["split"] == analysis.split) & (table["slice"] == "all")]
    return (*_unscored_replies(scored, analysis), *_zero_metrics(scored, analysis))


def _zero_metrics(scored: pd.DataFrame, analysis: Analysis) -> list[str]:
    """Metrics whose scores are all 0; distances among them, as all arms tie."""
    largest = scored["value"].abs().groupby(scored["metric"].astype(str)).max()
    names = dict.fromkeys([analysis.primary_metric, *analysis.headline()])
    return [
        f"{analysis.metrics[name].title} is 0 throughout, for every arm: it cannot tell them "
        "apart, and nothing that is said of it below is a finding"
        for name in names
        if largest.get(name) == 0
    ]


def _unscored_replies(scored: pd.DataFrame, analysis: Analysis) -> list[str]:
    """How many true replies the primary metric leaves out, as one arm and seed shows it."""
    arms = [str(arm) for arm in analysis.arms]
    arm = BASELINE if BASELINE in arms else arms[0]
    rows = scored[scored["arm"] == arm]
    rows = rows[rows["seed"] == rows["seed"].min()]
    every = int(rows.groupby("user_id", observed=True)["n_items"].max().sum())
    counted = int(rows.loc[rows["metric"] == analysis.primary_metric, "n_items"].sum())
    if counted == every:
        return []
    lost = every - counted
    return [
        f"{lost:,} of {plural(every, 'item')} ({100 * lost / every:.1f} %) left out of "
        f"{title_of(analysis)}: a true reply without a word, such as emoji alone, gives it nothing "
        "to score"
    ]
