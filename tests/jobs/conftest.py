"""Stores for jobs; helpers in ``asking_sums.py``, which pytest's importlib mode does not put on the path."""

import sys
from pathlib import Path

import pytest

from llmprog import open_store

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(params=["directory", "memory"])
def store(request, tmp_path):
    """A run store of each kind that needs no server."""
    made = open_store(tmp_path / "runs" if request.param == "directory" else "memory")
    yield made
    made.close()
