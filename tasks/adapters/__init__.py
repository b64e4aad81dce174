"""Adapter banks: many small adapters on one frozen base, in one pass."""
