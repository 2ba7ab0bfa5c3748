"""What of ``benchmarks/local_parity.py`` needs no downloaded weights; it checks by itself what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[4] / "benchmarks" / "local_parity.py"


@pytest.mark.timeout(300)
def test_caches_batches_and_decoding_compute_what_they_should():
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--fast"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok ") > 15
    assert "WRONG" not in done.stdout
