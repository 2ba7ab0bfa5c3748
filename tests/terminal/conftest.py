"""Test modules here share ``emulated_screen.py``, which pytest's importlib mode does not put on the path."""

import sys
from pathlib import Path

import pytest

from llmprog.terminal import area

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def screens_stay_as_they_are_looked_at(monkeypatch):
    """Only the test draws: another thread that draws now and then could do so while the screen is read."""
    monkeypatch.setattr(area, "_SECONDS_BETWEEN_DRAWINGS", 3600.0)
