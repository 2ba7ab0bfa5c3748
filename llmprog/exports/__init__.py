"""Runs in other forms: what they hold for people, for spreadsheets, and for training."""
