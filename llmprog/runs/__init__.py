"""Runs that lose nothing: stores, journals, budgets, the cache."""
