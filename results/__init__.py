"""Everything after a trial: records, ledger, collector, statistics, figures, report."""
