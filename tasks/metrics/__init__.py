"""Per-reply and per-user metrics, one file each; ``catalog.py`` lists them."""
