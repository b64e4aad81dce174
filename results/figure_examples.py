"""Replies before and after word for word: whose are shown, and of whom."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from results.analysis import Analysis
from results.contrasts import BASELINE, is_gated, is_per_user, is_swapped
from results.figure_training import before_after
from results.item_tables import sample_examples
from results.pairing import CollectedTables
from results.wording import arm_title, plural


def leading_arm(analysis: Analysis) -> str | None:
    """The arm whose replies are shown: per user before shared, highest primary mean first.

    A gated arm has no replies of its own: each is another arm's.
    """
    arms = [
        arm
        for arm in analysis.arms
        if arm != BASELINE and not is_swapped(arm) and not is_gated(arm)
    ]
    macro = analysis.macro[analysis.macro["metric"] == analysis.primary_metric]
    means = macro.set_index("arm")["mean"].to_dict()
    sign = 1 if analysis.metrics[analysis.primary_metric].higher_is_better else -1
    ranked = sorted(arms, key=lambda arm: (not is_per_user(arm), -sign * means.get(arm, 0.0), arm))
    return ranked[0] if ranked else None


def typical_users(analysis: Analysis, arm: str) -> list[str]:
    """The users with the lowest, the middle and the highest lift of an arm."""
    lifts = analysis.lifts_of(f"{arm} - {BASELINE}").sort_values("lift")
    names = [str(user) for user in lifts["user_id"]]
    places = (0, (len(names) - 1) // 2, len(names) - 1) if names else ()
    return list(dict.fromkeys(names[place] for place in places))


def typical_examples(analysis: Analysis, collected: CollectedTables) -> pd.DataFrame:
    """An item of each typical user of the leading arm; empty without such an arm or its texts."""
    arm = leading_arm(analysis)
    if arm is None:
        return pd.DataFrame()
    users = typical_users(analysis, arm)
    metric = analysis.primary_metric
    found = sample_examples(collected, arm, metric=metric, users=users, per_user=1)
    order = {user: place for place, user in enumerate(users)}
    return found.sort_values("user_id", key=lambda names: names.map(order))


def replies(analysis: Analysis, collected: CollectedTables) -> Canvas | None:
    """The figure; None where no reply was kept."""
    title = analysis.metrics[analysis.primary_metric].title
    return before_after(typical_examples(analysis, collected), metric_title=title)


def after(analysis: Analysis) -> str:
    """Whose replies stand behind «after»."""
    arm = leading_arm(analysis)
    return f"After: {arm_title(arm)}." if arm else ""


def of_examples(analysis: Analysis, collected: CollectedTables) -> str:
    """Items that are shown, of one seed: no other is read."""
    found = typical_examples(analysis, collected)
    items = plural(len(found), f"{analysis.split} item")
    return f"{items} of {plural(found['user_id'].nunique(), 'user')}, the first seed"
