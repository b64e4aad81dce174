"""Measurements of speed and of truth, run by hand and by the acceptance checks."""
