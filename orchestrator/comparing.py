"""What `compare` shows on the screen."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table

from results.analysis import Analysis
from results.wording import interval, number, p_number


def comparison_table(analysis: Analysis) -> Table:
    """Metrics × means, lift with interval, adjusted p, users helped and hurt."""
    table = Table(
        title=f"{escape(analysis.contrasts[0].name)}, positive is better",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("metric", overflow="fold", min_width=12)
    for name in ("users", "lift", "95 % interval", "adjusted p", "helped", "hurt"):
        table.add_column(name, justify="right", no_wrap=True)
    for metric in analysis.main_metrics:
        row = analysis.row(analysis.contrasts[0].name, metric)
        if row is not None:
            table.add_row(
                escape(metric),
                str(row["n_users"]),
                number(row["mean_lift"], signed=True),
                interval(row["low"], row["high"], signed=True),
                p_number(float(row["p_adjusted"])),
                str(row["helped"]),
                str(row["hurt"]),
            )
    return table
