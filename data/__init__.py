"""Data readiness: sources, cleaning, splits, style features and the per-user shards."""
